"""Peak activation memory from the liveness of values over fused kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoprune.graph.dimension import Widths
from autoprune.graph.fusion import KernelSlot, kernel_slots, storage, value_bytes
from autoprune.graph.program import Program


def peak_memory_bytes(program: Program, widths: Widths, slots: Sequence[KernelSlot] | None = None) -> Any:
    """The most bytes of activations alive at once, under `widths`: an int, or an int64 array.

    A kernel's inputs and outputs are alive while it runs; what it fuses away never is. Views share the bytes of what
    they view. Inputs of the model live until their last use, outputs until the end. Weights are not in it.

    Args:
        program: the traced program.
        widths: group id -> kept units, or int64 arrays of one entry a policy; batch under `Batch.KEY`.
        slots: the program's kernels, where they are at hand.
    """
    slots = kernel_slots(program) if slots is None else slots
    lives = lifetimes(program, slots)
    bytes_of = {name: value_bytes(program.values[name], widths) for name in lives}
    peak: Any = 0
    for step in range(max(len(slots), 1)):
        alive: Any = sum(bytes_of[name] for name, (first, last) in lives.items() if first <= step <= last)
        peak = np.maximum(peak, alive)
    return int(peak) if np.ndim(peak) == 0 else peak


def lifetimes(program: Program, slots: Sequence[KernelSlot]) -> dict[str, tuple[int, int]]:
    """Value that owns bytes -> the first and last kernel (by place) at which it is alive."""
    owner = storage(program)
    fixed = set(program.parameters) | set(program.buffers)
    lives = dict.fromkeys(program.inputs, (0, 0))
    for step, slot in enumerate(slots):
        for name in slot.outputs:
            lives[name] = (step, step)
        for name in slot.inputs:
            held = owner.get(name, name)
            if held in lives and held not in fixed:
                lives[held] = (lives[held][0], step)
    for output in program.outputs:
        if output is not None and owner.get(output, output) in lives:
            held = owner.get(output, output)
            lives[held] = (lives[held][0], max(len(slots) - 1, 0))
    return lives

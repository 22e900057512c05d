"""Does an exported file compute what the module computes?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.utils import _pytree as pytree

from autoprune.artifacts.exporters.base import Tensors
from autoprune.graph.dimension import has_batch
from autoprune.graph.module import TracedModule
from autoprune.graph.program import Program

BATCHES = (1, 3)
"""Batch sizes at which parity is checked: one, and one that is not the example's."""


def flat_outputs(result: object) -> Tensors:
    """The tensors of a model's result, in order."""
    return tuple(leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor))


def module_outputs(module: TracedModule, batches: Sequence[Tensors]) -> list[Tensors]:
    """What the module itself gives for each batch."""
    with torch.inference_mode():
        return [flat_outputs(module(*batch)) for batch in batches]


def batch_axes(program: Program) -> dict[str, int]:
    """Input -> the axis that is its batch, for those that have one."""
    axes = {}
    for name in program.inputs:
        found = [axis for axis, dimension in enumerate(program.values[name].dimensions) if has_batch(dimension)]
        if found:
            axes[name] = found[0]
    return axes


def resized(program: Program, inputs: Tensors, batch: int) -> Tensors:
    """Inputs of `batch` rows: the examples' rows over and over, floats a little different each time round."""
    axes = batch_axes(program)
    result = []
    for name, tensor in zip(program.inputs, inputs, strict=True):
        axis = axes.get(name)
        if axis is None:
            result.append(tensor)
            continue
        rows = torch.arange(batch)
        cycled = tensor.index_select(axis, (rows % tensor.shape[axis]).to(tensor.device))
        if tensor.is_floating_point():
            shape = [batch if index == axis else 1 for index in range(tensor.ndim)]
            scale = 1.0 - 0.1 * torch.div(rows, tensor.shape[axis], rounding_mode="floor").to(tensor)
            cycled = cycled * scale.reshape(shape)
        result.append(cycled)
    return tuple(result)


def parity_batches(program: Program, inputs: Tensors) -> tuple[tuple[int, ...], list[Tensors]]:
    """Batch sizes and inputs for a parity check: two sizes where the batch is free, else the examples as they are."""
    if not batch_axes(program):
        return (), [inputs]
    return BATCHES, [resized(program, inputs, batch) for batch in BATCHES]


def difference(expected: Sequence[Tensors], found: Sequence[Tensors]) -> float:
    """The largest absolute difference, relative to the larger of 1 and the largest expected value.

    Infinite where the number of outputs, a shape, or the place of a NaN or infinity differs.
    """
    worst = 0.0
    for wanted, got in zip(expected, found, strict=True):
        if len(wanted) != len(got):
            return math.inf
        for a, b in zip(wanted, got, strict=True):
            if a.shape != b.shape:
                return math.inf
            worst = max(worst, _difference(a.double().cpu(), b.double().cpu()))
    return worst


def _difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    finite = torch.isfinite(expected)
    if not torch.equal(finite, torch.isfinite(found)) or not torch.equal(
        torch.nan_to_num(expected[~finite]), torch.nan_to_num(found[~finite])
    ):
        return math.inf
    a, b = expected[finite], found[finite]
    return float((a - b).abs().max()) / max(1.0, float(a.abs().max())) if a.numel() else 0.0

"""The dense program run over the calibration batches, watched operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from autoprune.graph import DependencyGraph
from autoprune.graph.module import flatten_call
from autoprune.graph.program import Operation, Program
from autoprune.graph.run import run_operation

Watcher: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Called before an operation, with every value that is at hand by name."""


def watch(graph: DependencyGraph, calibration: Sequence[Any], watchers: Mapping[str, Sequence[Watcher]]) -> None:
    """Run the dense program, in eval mode and without gradients, over the calibration batches.

    Args:
        graph: the traced dense model.
        calibration: model inputs: tensors, tuples of positional or mappings of keyword inputs.
        watchers: operation's name -> who looks at the values before it runs.

    Raises:
        InputError: a batch that does not fit the model's inputs.
    """
    program = graph.program
    last = max((i for i, op in enumerate(program.operations) if op.name in watchers), default=-1)

    def seen(operation: Operation, values: Mapping[str, Any]) -> Mapping[str, Any]:
        for watcher in watchers.get(operation.name, ()):
            watcher(values)
        return values

    with torch.no_grad():
        for item in calibration:
            run_program(program, graph.state, inputs_of(program, item), seen, last + 1)


def run_program(
    program: Program,
    state: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    seen: Callable[[Operation, Mapping[str, Any]], Mapping[str, Any]],
    operations: int | None = None,
    made: Callable[[Operation, Any], Any] | None = None,
) -> dict[str, Any]:
    """Run a program operation by operation; values are let go once nothing reads them any more.

    Args:
        program: at dense widths.
        state: its parameters and buffers.
        inputs: in the order of `program.inputs`.
        seen: from an operation and all values at hand to the values that it is to read.
        operations: how many to run; all where None.
        made: from an operation and its result to what takes the result's place.

    Returns:
        The values that are left: inputs and state that were not read, and outputs.
    """
    values: dict[str, Any] = dict(zip(program.inputs, inputs, strict=True))
    values.update(state)
    for operation, gone in zip(program.operations[:operations], program.last_reads, strict=False):
        result = run_operation(operation, seen(operation, values), {})
        result = result if made is None else made(operation, result)
        if len(operation.results) == 1 and not isinstance(result, (tuple, list)):
            values[operation.results[0]] = result
        else:
            values.update(zip(operation.results, result, strict=False))
        for name in gone:
            values.pop(name, None)
    return values


def inputs_of(program: Program, item: Any) -> list[Tensor]:
    """One calibration item in the order of `program.inputs`.

    Raises:
        InputError: a batch that does not fit the model's inputs.
    """
    if isinstance(item, Mapping):
        return flatten_call(program, (), dict(item))
    return flatten_call(program, tuple(item) if isinstance(item, (tuple, list)) else (item,), {})

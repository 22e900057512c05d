"""One pass of the dense program over the calibration batches, watched operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from autoprune.graph import DependencyGraph
from autoprune.graph.module import flatten_call
from autoprune.graph.program import Program
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
    with torch.no_grad():
        for item in calibration:
            values: dict[str, Any] = dict(zip(program.inputs, _inputs(program, item), strict=True))
            values.update(graph.state)
            for operation, gone in zip(program.operations[: last + 1], program.last_reads, strict=False):
                for watcher in watchers.get(operation.name, ()):
                    watcher(values)
                result = run_operation(operation, values, {})
                if len(operation.results) == 1 and not isinstance(result, (tuple, list)):
                    values[operation.results[0]] = result
                else:
                    values.update(zip(operation.results, result, strict=False))
                for name in gone:
                    values.pop(name, None)


def _inputs(program: Program, item: Any) -> list[Tensor]:
    if isinstance(item, Mapping):
        return flatten_call(program, (), dict(item))
    return flatten_call(program, tuple(item) if isinstance(item, (tuple, list)) else (item,), {})

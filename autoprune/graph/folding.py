"""Values that no input reaches: masks, position tables, whatever follows from sizes and stored tensors alone.

Runtimes compute them once, when a model is loaded, so they are no kernels; the ONNX writer computes those that need no
trained parameter itself, which spares a file the dozens of operations behind a shifted window's mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from autoprune.graph.dimension import Widths, has_batch, size
from autoprune.graph.program import Operation, Program, Ref, Size
from autoprune.graph.run import run_operation

_UNINITIALISED = ("aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default")
_RANDOM = ("rand", "bernoulli", "multinomial", "normal", "dropout", "exponential")
_MAX_ELEMENTS = 1 << 22  # of a folded value: files stay small, the runtime can make large ones itself


def fixed_values(program: Program) -> frozenset[str]:
    """Parameters, buffers, and every tensor computed from nothing but them and sizes."""
    return _reached(program, (*program.parameters, *program.buffers), lambda operation: True)


class Constants:
    """Values that follow from buffers and literals, whatever the batch; computed when one is asked for.

    Args:
        program: the program.
        widths: kept units by group.
        buffer: the tensor of a buffer, by name.
    """

    def __init__(self, program: Program, widths: Widths, buffer: Callable[[str], torch.Tensor]) -> None:
        self._program, self._widths, self._buffer = program, widths, buffer
        computed = _reached(program, program.buffers, self._foldable)
        self._operations = [operation for operation in program.operations if operation.name in computed]
        self._tensors: dict[str, torch.Tensor] | None = None
        self.names = computed - set(program.buffers)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def tensor(self, name: str) -> torch.Tensor:
        """The value of this name."""
        if self._tensors is None:
            self._tensors = {}
            with torch.no_grad():
                for operation in self._operations:
                    self._compute(operation, self._tensors)
        return self._tensors[name]

    def _foldable(self, operation: Operation) -> bool:
        values = [self._program.values[name] for name in operation.results if name in self._program.values]
        if not operation.target.startswith("aten.") or len(values) != len(operation.results):
            return False
        if any(word in operation.target for word in _RANDOM) or _runtime_sizes(operation.args, self._program):
            return False
        if any(has_batch(dimension) for value in values for dimension in value.dimensions):
            return False
        sizes = [math.prod(int(size(d, self._widths)) for d in value.dimensions) for value in values]
        return max(sizes) <= _MAX_ELEMENTS and all(value.dtype != "int" for value in values)

    def _compute(self, operation: Operation, known: dict[str, torch.Tensor]) -> None:
        target = operation.target
        for name in _UNINITIALISED:
            target = target.replace(name, name.replace("empty", "zeros").replace("memory_format", "default"))
        for name in operation.refs():
            if name not in known:
                known[name] = self._buffer(name)
        result = run_operation(replace(operation, target=target), known, self._widths)
        results = [result] if isinstance(result, torch.Tensor) else list(result)
        known.update(zip(operation.results, results, strict=True))


def _reached(program: Program, start: Iterable[str], wanted: Callable[[Operation], bool]) -> frozenset[str]:
    """`start` and the tensors that operations make of them alone."""
    found = set(start)
    for operation in program.operations:
        tensors = [name for name in operation.refs() if not _is_integer(program, name)]
        made = [program.values[name].dtype for name in operation.results if name in program.values]
        if all(name in found for name in tensors) and "int" not in made and wanted(operation):
            found.update(operation.results)
    return frozenset(found)


def _is_integer(program: Program, name: str) -> bool:
    """Whether a name is that of a run-time integer."""
    value = program.values.get(name)
    return value is None or value.dtype == "int"


def _runtime_sizes(item: Any, program: Program) -> bool:
    """Whether sizes that only the running model knows are among the arguments."""
    match item:
        case Ref(name):
            return _is_integer(program, name)
        case Size(dimension):
            return has_batch(dimension)
        case tuple() | list():
            return any(_runtime_sizes(part, program) for part in item)
    return False

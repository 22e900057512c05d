"""The program without its constant branches, and where their constants go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from autoprune.graph.depth.flow import CHANNELS, Flow, Known
from autoprune.graph.dimension import Constant, Dimension
from autoprune.graph.lift import owner_of
from autoprune.graph.program import Operation, Program, Ref, Value

_BIAS_POSITION = {"group_norm": 3, "layer_norm": 3}  # elsewhere it is argument 2
_MAX_SUMMANDS = 64  # of a sum of sums that is searched for a bias


@dataclass(frozen=True)
class Fold:
    """Where a constant goes.

    Attributes:
        value: the value of the dense program that is constant.
        axis: the axis along which it varies, None where it is one number.
        parameter: the parameter of the reduced program that holds it or, where `added`, the bias that takes it up.
        added: whether it is added to a parameter that exists.
    """

    value: str
    axis: int | None
    parameter: str
    added: bool


class Rewrite:
    """The dense program without what is empty, constant or read by nothing."""

    def __init__(self, program: Program, flow: Flow) -> None:
        self._program = program
        self._flow = flow
        self._alias: dict[str, str] = {}
        self._constants: dict[str, Value] = {}
        self._folds: list[Fold] = []
        self._live = self._alive()
        self._makers = {name: op for op in self._live for name in op.results}
        self._readers: dict[str, int] = {}
        for operation in self._live:
            for name in set(self._reads(operation)):
                self._readers[name] = self._readers.get(name, 0) + 1
        for output in program.outputs:
            if output is not None:
                self._readers[output] = self._readers.get(output, 0) + 1

    @property
    def folds(self) -> tuple[Fold, ...]:
        return tuple(self._folds)

    def _reads(self, operation: Operation) -> tuple[str, ...]:
        held = self._flow.merges.get(operation.name)
        return operation.refs() if held is None else tuple(name for name in operation.refs() if name != held)

    def _alive(self) -> list[Operation]:
        """Operations that an output needs, in order."""
        wanted = {name for name in self._program.outputs if name is not None}
        live = []
        for operation in reversed(self._program.operations):
            if operation.name not in self._flow.constants and not wanted.isdisjoint(operation.results):
                live.append(operation)
                wanted.update(self._reads(operation))
        return live[::-1]

    def program(self) -> Program:
        operations = []
        for operation in self._live:
            held = self._flow.merges.get(operation.name)
            if held is not None:
                taken = self._taken_up(operation, held)
                if taken is not None:
                    self._follow(operation.name, taken)
                    continue
                self._alias[held] = self._parameter(held)
            operations.append(self._renamed(operation))
        used = {name for operation in operations for name in operation.refs()}
        used |= {f"{operation.module}.num_batches_tracked" for operation in operations if operation.module}
        made = {name for operation in operations for name in operation.results}
        kept = used | made | set(self._program.inputs)
        values = {name: value for name, value in self._program.values.items() if name in kept}
        return replace(
            self._program,
            operations=tuple(operations),
            outputs=tuple(None if name is None else self._alias.get(name, name) for name in self._program.outputs),
            values=values | self._constants,
            parameters=(*(name for name in self._program.parameters if name in used), *self._constants),
            buffers=tuple(name for name in self._program.buffers if name in used),
        )

    def _follow(self, name: str, taken: str) -> None:
        """What read `name` reads `taken` from now on."""
        self._alias[name] = taken
        self._readers[taken] += self._readers.get(name, 0) - 1

    def _taken_up(self, operation: Operation, held: str) -> str | None:
        """The live operand, where the constant need not be added to it here: it is zero, or a bias takes it up."""
        first, second = operation.args[:2]
        if operation.kind == "mul" or operation.kwargs or not isinstance(first, Ref) or not isinstance(second, Ref):
            return None
        known, added = self._flow.constants[held], operation.kind == "add"
        if first.name == held and not added:
            return None
        other = second.name if first.name == held else first.name
        values, live = self._program.values, self._alias.get(other, other)
        if live not in self._makers or values[other].dimensions != values[operation.name].dimensions:
            return None
        if known.zero:
            return live
        bias = self._bias(live, self._from_right(held, known), depth=0) if added else None
        if bias is None:
            return None
        self._folds.append(Fold(held, known.axis, bias, added=True))
        return live

    def _from_right(self, held: str, known: Known) -> int | None:
        return None if known.axis is None else known.axis - len(self._program.values[held].dimensions)

    def _bias(self, name: str, axis: int | None, depth: int) -> str | None:
        """A bias that is added to the value `name`, and to nothing else, along `axis` (from the right)."""
        name = self._alias.get(name, name)
        operation = self._makers.get(name)
        if operation is None or self._readers.get(name) != 1 or depth > _MAX_SUMMANDS:
            return None
        kind = operation.kind
        dimensions = self._program.values[name].dimensions
        if kind in CHANNELS and (axis is None or axis % len(dimensions) == CHANNELS[kind] % len(dimensions)):
            bias = operation.argument(_BIAS_POSITION.get(kind, 2), "bias")
            alone = isinstance(bias, Ref) and bias.name in self._program.parameters and self._readers[bias.name] == 1
            return bias.name if alone else None
        if kind in ("addmm", "embedding") and isinstance(operation.args[0], Ref):
            return self._table(operation.args[0].name, axis, dimensions)
        if isinstance(operation.args[0], Ref) and self._passes(operation, kind, axis):
            return self._bias(operation.args[0].name, axis, depth + 1)
        if kind != "add" or operation.kwargs or operation.name in self._flow.merges:
            return None
        summands = [argument.name for argument in operation.args if isinstance(argument, Ref)]
        holding = [name for name in summands if self._holds(name, axis, dimensions)]
        found = (self._table(name, axis, dimensions) for name in holding)
        deeper = (self._bias(name, axis, depth + 1) for name in holding)
        return next((bias for bias in (*found, *deeper) if bias is not None), None)

    def _holds(self, name: str, axis: int | None, dimensions: tuple[Dimension, ...]) -> bool:
        """Whether what is added to a summand along `axis` reaches all of the sum, whose dimensions these are."""
        own = self._program.values[name].dimensions
        return axis is None or (-axis <= len(own) and own[axis] == dimensions[axis])

    def _passes(self, operation: Operation, kind: str, axis: int | None) -> bool:
        """Whether what is added to its operand along `axis` is added to its result."""
        if kind in ("view", "reshape"):
            ends = [self._program.values[name].dimensions[-1:] for name in (operation.args[0].name, operation.name)]
            return axis in (None, -1) and ends[0] == ends[1]
        same = self._program.values[operation.args[0].name].dtype == self._program.values[operation.name].dtype
        return kind in ("dropout", "clone", "contiguous", "to", "_to_copy") and same

    def _table(self, name: str, axis: int | None, dimensions: tuple[Dimension, ...]) -> str | None:
        """A parameter that is added as it is, whole or row by row, such as an embedding of positions."""
        alone = name in self._program.parameters and self._readers.get(name) == 1
        return name if alone and self._holds(name, axis, dimensions) else None

    def _parameter(self, held: str) -> str:
        """A new parameter that holds a constant, named after the last module of its branch."""
        name = f"{self._end(held)}.constant"
        while name in self._constants or name in self._program.values:
            name += "_"
        value, known = self._program.values[held], self._flow.constants[held]
        dimensions = tuple(d if axis == known.axis else Constant(1) for axis, d in enumerate(value.dimensions))
        self._constants[name] = Value(name, dimensions, value.dtype)
        self._folds.append(Fold(held, known.axis, name, added=False))
        return name

    def _end(self, held: str) -> str:
        """The last module of the branch that ends in the constant `held`."""
        operations = {name: op for op in self._program.operations for name in op.results}
        name: str | None = held
        while name is not None:
            operation = operations[name]
            if operation.module is not None and operation.kind != "dropout":
                return operation.module
            owners = [owner_of(read) for read in operation.refs() if read in self._program.parameters]
            if owners:
                return owners[0]
            name = next((read for read in operation.refs() if read in self._flow.constants), None)
        return held

    def _renamed(self, operation: Operation) -> Operation:
        def visit(item: Any) -> Any:
            if isinstance(item, Ref):
                return Ref(self._alias.get(item.name, item.name))
            return tuple(visit(part) for part in item) if isinstance(item, tuple) else item

        if self._alias.keys().isdisjoint(operation.refs()):
            return operation
        kwargs = tuple((name, visit(value)) for name, value in operation.kwargs)
        return replace(operation, args=visit(operation.args), kwargs=kwargs)

"""The traced program as data: operations on named values, every size an expression over groups.

The same program is run (`autoprune.graph.module`), costed (`autoprune.hardware`) and written as ONNX
(`autoprune.graph.onnx`); a policy only changes the sizes in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autoprune.graph.dimension import Dimension, group_sizes

if TYPE_CHECKING:
    from autoprune.graph.depth import Depth
    from autoprune.graph.plan import Plan


@dataclass(frozen=True)
class Ref:
    """In arguments: the value of this name (an input, a parameter, a buffer or an operation's result)."""

    name: str


@dataclass(frozen=True)
class Size:
    """In arguments: an integer that follows the policy. Where the batch is part of it, -1 is written."""

    dimension: Dimension


@dataclass(frozen=True)
class Value:
    """One tensor (or runtime integer: `dimensions` empty and dtype "int") of the program."""

    name: str
    dimensions: tuple[Dimension, ...]
    dtype: str  # "float32", "int64", ... as torch names them


@dataclass(frozen=True)
class Operation:
    """One ATen operator call.

    Attributes:
        name: unique; the name of its (first) result. Several results are `name`, `name.1`, `name.2`, ...
        target: the ATen overload as exported, such as `aten.conv2d.default`; or `getitem` / `operator.mul` on integers.
        args, kwargs: literals, `Ref`, `Size` and tuples of them. Arguments that were defaults may be absent. A conv's
            or linear's weight and bias stand here as `Ref`s to parameters even when `module` is set.
        module: the dotted name of the `nn.Module` this call was lifted to (it then owns the parameters), else None.
        results: names of its results, in order.
    """

    name: str
    target: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    module: str | None
    results: tuple[str, ...]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """The argument at `position` or by `name`, `default` where absent."""
        if position < len(self.args):
            return self.args[position]
        return dict(self.kwargs).get(name, default)

    @cached_property
    def kind(self) -> str:
        """The operator without namespace and overload: `conv2d`; empty for what is no ATen call."""
        return self.target.split(".")[1] if self.target.startswith("aten.") else ""

    def refs(self) -> tuple[str, ...]:
        """Names of all values it reads, parameters included, in order."""
        return self._refs

    @cached_property
    def _refs(self) -> tuple[str, ...]:
        found: list[str] = []

        def visit(item: Any) -> None:
            if isinstance(item, Ref):
                found.append(item.name)
            elif isinstance(item, (tuple, list)):
                for part in item:
                    visit(part)

        visit(self.args)
        visit(tuple(value for _, value in self.kwargs))
        return tuple(found)


@dataclass(frozen=True)
class Program:
    """A model as traced, in execution order.

    Attributes:
        inputs: names of the tensor inputs, in the order of the flattened call.
        outputs: names of the flattened outputs (None where the model returned None).
        operations: in execution order.
        values: every input, parameter, buffer and result by name; its dimensions over groups.
        parameters, buffers: state-dict names (they are values too).
        input_tree, output_tree: how calls and results nest (`torch.utils._pytree.treespec_dumps`).
    """

    inputs: tuple[str, ...]
    outputs: tuple[str | None, ...]
    operations: tuple[Operation, ...]
    values: dict[str, Value]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    input_tree: str
    output_tree: str

    @cached_property
    def group_sizes(self) -> dict[str, int]:
        """Every group in the program -> its dense size."""
        return {g: units for value in self.values.values() for d in value.dimensions for g, units in group_sizes(d)}

    @cached_property
    def readers(self) -> dict[str, tuple[Operation, ...]]:
        """Value -> the operations that read it, in order."""
        found: dict[str, list[Operation]] = {}
        for operation in self.operations:
            for name in dict.fromkeys(operation.refs()):
                found.setdefault(name, []).append(operation)
        return {name: tuple(operations) for name, operations in found.items()}

    @cached_property
    def last_reads(self) -> tuple[tuple[str, ...], ...]:
        """Per operation, the intermediate values that no later operation and no output reads."""
        last: dict[str, int] = {}
        for position, operation in enumerate(self.operations):
            last.update(dict.fromkeys((*operation.refs(), *operation.results), position))
        keep = {*self.outputs, *self.parameters, *self.buffers}
        free: list[list[str]] = [[] for _ in self.operations]
        for name, position in last.items():
            if name not in keep:
                free[position].append(name)
        return tuple(map(tuple, free))

    @cached_property
    def raw_state(self) -> tuple[str, ...]:
        """Parameters and buffers that operations read themselves, not through a lifted module."""
        state = {*self.parameters, *self.buffers}
        names = [name for op in self.operations for name in op.refs() if not name.startswith(f"{op.module}.")]
        return tuple(dict.fromkeys(name for name in names if name in state))

    @cached_property
    def plan(self) -> Plan:
        """How modules of it are built."""
        from autoprune.graph.plan import Plan  # it reads programs

        return Plan(self)

    @cached_property
    def depth(self) -> Depth:
        """What becomes of it where groups have width 0."""
        from autoprune.graph.depth import Depth  # it reads the rules, which loading a program does not need

        return Depth(self)

    def at(self, widths: Mapping[str, int]) -> Program:
        """The program without the branches of groups at width 0; itself where there are none.

        Raises:
            InputError: what is left would not depend on its inputs, or a branch does not become a constant.
        """
        empty = frozenset(group for group in self.group_sizes if widths.get(group, 1) == 0)
        return self.depth.reduce(empty).program if empty else self

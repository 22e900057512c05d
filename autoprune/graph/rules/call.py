"""What a rule receives and where it is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from autoprune.graph.algebra import (
    AlgebraError,
    Atom,
    Expression,
    constant,
    freeze,
    leaves,
    product,
    resolve,
    size,
    unify,
)
from autoprune.graph.program import Ref

Dims: TypeAlias = list[Expression]


@dataclass
class Call:
    """One operator call under analysis.

    Attributes:
        target: the ATen overload (`aten.conv2d.default`).
        args, kwargs: as in `Operation`; sizes still as traced.
        shapes: traced sizes of each result, the batch at its traced size.
        dims: dimensions of every tensor value so far, by name.
        batch: the batch.
        origins: permuted views of parameters and buffers: value -> (state name, its axis for each axis of the view).
        followed: argument position -> expression (or list of them) that replaces the traced integers.
        consumed: (parameter, axis) pairs that this call contracts with activations.
        read: dimensions that are contracted or that statistics run over: their units may go.
        retarget: another overload to call instead, once sizes are explicit.
    """

    target: str
    args: list[Any]
    kwargs: dict[str, Any]
    shapes: list[list[int]]
    dims: dict[str, Dims]
    batch: Atom
    origins: dict[str, tuple[str, tuple[int, ...]]]
    followed: dict[int, Any] = field(default_factory=dict)
    consumed: list[tuple[str, int]] = field(default_factory=list)
    read: list[Expression] = field(default_factory=list)
    retarget: str | None = None

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or by name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def of(self, argument: Any) -> Dims:
        """Dimensions of a tensor argument."""
        return [resolve(dimension) for dimension in self.dims[argument.name]]

    def follow(self, position: int, value: Any) -> None:
        """The argument at `position` is an integer, or a list of them, that follows the policy."""
        self.followed[position] = value

    def contract(self, argument: Any, axis: int) -> None:
        """This dimension of an operand is summed over; where the operand is a parameter, it is a consumer."""
        dims = self.dims[argument.name]
        self.read.append(dims[axis])
        if argument.name in self.origins:
            name, axes = self.origins[argument.name]
            self.consumed.append((name, axes[axis]))

    def freeze(self, dimension: Expression, why: str) -> None:
        """No unit of it may be removed; the reason names this operator."""
        freeze(dimension, f"{self.target}: {why}")

    def unify(self, first: Expression, second: Expression) -> None:
        """Both shrink together, unit by unit."""
        unify(first, second, self.target)

    def match(self, first: Dims, second: Dims) -> Dims:
        """The dimensions of both shrink together, one by one."""
        for mine, theirs in zip(first, second, strict=True):
            self.unify(mine, theirs)
        return [resolve(dimension) for dimension in first]

    def fixed(self, result: int = 0, start: int = 0) -> Dims:
        """Constant dimensions with the traced sizes of a result, from axis `start`."""
        return [self.opaque(units, "sets this size") for units in self.shapes[result][start:]]

    def opaque(self, units: int, why: str) -> Expression:
        """A dimension of a result that nothing is known of; where it is a multiple of the batch, the batch is kept."""
        reason = why if self.target in why else f"{self.target}: {why}"
        if units and self.batch.size and units % self.batch.size == 0:  # its size is 0 where the model fixes it
            return product([self.batch, constant(units // self.batch.size, reason)])
        return constant(units, reason)

    def tensors(self) -> list[Ref]:
        """All tensor operands."""
        found: list[Ref] = []

        def visit(item: Any) -> None:
            if isinstance(item, Ref) and item.name in self.dims:
                found.append(item)
            elif isinstance(item, (list, tuple)):
                for part in item:
                    visit(part)

        visit(self.args)
        visit(list(self.kwargs.values()))
        return found


Rule: TypeAlias = Callable[[Call], "Dims | list[Dims]"]
RULES: dict[str, Rule] = {}


def rule(*targets: str) -> Callable[[Rule], Rule]:
    """Register a rule for these overloads (without the leading `aten.`)."""

    def register(function: Rule) -> Rule:
        for target in targets:
            RULES[f"aten.{target}"] = function
        return function

    return register


def apply(call: Call) -> list[Dims]:
    """Dimensions of every result of a call; what the operator's rule cannot express is frozen."""
    function = RULES.get(call.target)
    if function is None:
        return _frozen(call, f"operator {call.target} has no rule")
    args, kwargs = list(call.args), dict(call.kwargs)
    try:
        dims: Any = function(call)
        results: list[Dims] = dims if dims and isinstance(dims[0], list) else [dims]
        if [[size(dimension) for dimension in result] for result in results] != call.shapes:
            raise AlgebraError("this form of it has no rule")
    except (AlgebraError, TypeError, IndexError, ValueError, AttributeError) as error:
        # A form of the operator that its rule does not foresee is frozen, too: it stops nobody's model.
        call.args[:], call.kwargs, call.followed, call.retarget = args, kwargs, {}, None
        why = error if isinstance(error, AlgebraError) else "this form of it has no rule"
        return _frozen(call, f"{call.target}: {why}")
    return results


def _frozen(call: Call, reason: str) -> list[Dims]:
    for tensor in call.tensors():
        for dimension in call.dims[tensor.name]:
            freeze(dimension, reason)
    return [[call.opaque(units, reason) for units in shape] for shape in call.shapes]


def broadcast(call: Call, operands: list[Dims]) -> Dims:
    """Dimensions aligned from the right; those of size one give way."""
    rank = max(map(len, operands))
    result: Dims = []
    for axis in range(rank):
        column = [d[axis - rank + len(d)] for d in operands if axis - rank + len(d) >= 0]
        wide = [d for d in column if size(d) != 1] or column
        for other in wide[1:]:
            unify(wide[0], other, call.target)
        result.append(resolve(wide[0]))
    return result


def name_units(dimensions: Dims, unit: str) -> None:
    """Say what the units of these dimensions are, where nothing has said so before."""
    for dimension in dimensions:
        for atom in leaves(dimension):
            atom.unit = atom.unit or unit

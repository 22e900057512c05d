"""What a dependency group is in its model, told from the traced program alone: no model or module names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprune.graph.dimension import Concatenation, Dimension, Product, Width, groups_of
from autoprune.graph.program import Operation, Program, Ref

if TYPE_CHECKING:
    from autoprune.graph.graph import DependencyGraph

UNITS = ("channel", "hidden", "head", "query", "head_dim", "group")
_OF_ATTENTION = ("head", "query", "head_dim")


@dataclass(frozen=True)
class Traits:
    """What search spaces select groups by, besides their names.

    Attributes:
        unit: the group's own unit; `query` for the query heads that share one key-value head, and `head_dim` for
            whatever is the width of a head.
        stream: the width of a residual stream: several blocks read it and add to it (the embedding width of a
            transformer, the block outputs of a ResNet's stage).
        removable: all its units may go; the block is then a constant.
    """

    unit: str
    stream: bool = False
    removable: bool = False


def traits(graph: DependencyGraph) -> dict[str, Traits]:
    """Traits of every group of a graph."""
    streams = _streams(graph)
    units = _units_of_attention(graph)
    return {
        group.id: Traits(
            units.get(group.id, group.unit),
            group.id in streams,
            group.removable,
        )
        for group in graph.groups.values()
    }


def default_space(graph: DependencyGraph) -> str:
    """The shipped search space for a model of this kind: `transformer` where there are attention heads, else `cnn`."""
    attends = any(group.unit in _OF_ATTENTION for group in graph.groups.values())
    return "transformer" if attends else "cnn"


def _units_of_attention(graph: DependencyGraph) -> dict[str, str]:
    """Units of the groups that stand only inside heads: `query` for heads inside heads, `head_dim` for what is no head.

    Query heads always stand inside the head group they share, which also stands without them: keys have no queries.
    """
    heads = {group.id for group in graph.groups.values() if group.unit == "head"}
    around: dict[str, list[set[str]]] = {}  # group -> for each place it stands in, the heads there
    for group in graph.groups.values():
        products = (product for member in group.members for product in _products(member.dimension))
        around[group.id] = [(product & heads) - {group.id} for product in products if group.id in product]
    found = {}
    for name, places in around.items():
        common = set.intersection(*places) if places else set()
        if name not in heads and common:
            found[name] = "head_dim"
        elif any(set() in around[other] for other in common):
            found[name] = "query"
    return found


def _products(dimension: Dimension) -> Iterator[set[str]]:
    """The groups of every part of a dimension."""
    match dimension:
        case Concatenation(parts):
            for part in parts:
                yield from _products(part)
        case Product(factors) if any(isinstance(factor, Concatenation) for factor in factors):
            inner = [list(_products(factor)) or [set()] for factor in factors]
            found: list[set[str]] = [set()]
            for choices in inner:
                found = [one | other for one in found for other in choices]
            yield from found
        case Product() | Width():
            yield set(groups_of(dimension))
        case _:
            return


def _streams(graph: DependencyGraph) -> set[str]:
    """Groups carried by an addition `x + f(x)`, read by several layers: an inner width has one reader.

    Heads are left out: attention adds masks and position tables to what it computes, not blocks to a stream.
    """
    added = _residual_groups(graph.program)
    return {
        group.id
        for group in graph.groups.values()
        if group.id in added and group.unit not in (*_OF_ATTENTION, "group") and len(group.consumers) > 1
    }


def _residual_groups(program: Program) -> set[str]:
    """Groups in the dimensions of sums of which one operand is computed from the other."""
    before: dict[str, int] = {}  # value -> the operations that it depends on, as bits
    found: set[str] = set()
    for place, operation in enumerate(program.operations):
        past = 0
        for name in operation.refs():
            past |= before.get(name, 0)
        for name in operation.results:
            before[name] = past | 1 << place
        for left, right in _summands(operation):
            one, other = before.get(left, 0), before.get(right, 0)
            if one and other and (one | other) in (one, other):
                found.update(g for d in program.values[operation.name].dimensions for g in groups_of(d))
    return found


def _summands(operation: Operation) -> Iterator[tuple[str, str]]:
    if operation.target.partition(".")[2].partition(".")[0] not in ("add", "add_", "__iadd__"):
        return
    operands = operation.args[:2]
    if len(operands) == 2 and isinstance(operands[0], Ref) and isinstance(operands[1], Ref):
        yield operands[0].name, operands[1].name

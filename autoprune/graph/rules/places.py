"""Operators for which places along a dimension matter: indices, gather, roll, triangles."""

from __future__ import annotations

from autoprune.graph.algebra import AlgebraError, freeze, resolve, size, unify
from autoprune.graph.rules.call import Call, Dims, broadcast, rule


@rule("index.Tensor")
def index(call: Call) -> Dims:
    """Indexed dimensions stay, the others follow; the index's own stand where the first indexed one stood."""
    x, indices = call.of(call.args[0]), call.args[1]
    used = [axis for axis, item in enumerate(indices) if item is not None]
    for axis in used:
        freeze(x[axis], "is indexed by a tensor")
    picked = broadcast(call, [call.of(indices[axis]) for axis in used])
    if used != list(range(used[0], used[0] + len(used))):
        raise AlgebraError("indices that are not neighbours")
    return [*x[: used[0]], *picked, *x[used[-1] + 1 :]]


@rule("index_select.default", "gather.default")
def pick(call: Call) -> Dims:
    """Places along a dimension, which stays."""
    x, axis = call.of(call.args[0]), call.args[1]
    freeze(x[axis], f"is indexed by {call.target}")
    if "gather" in call.target:
        where = call.of(call.args[2])
        for position, (mine, theirs) in enumerate(zip(x, where, strict=True)):
            if position != axis % len(x):
                unify(mine, theirs, call.target) if size(mine) == size(theirs) else freeze(mine, "is gathered from")
        return [resolve(d) for d in where]
    x[axis] = call.opaque(call.shapes[0][axis], "is indexed")
    return x


@rule("slice_scatter.default", "select_scatter.default")
def scatter(call: Call) -> Dims:
    """A part of a dimension replaced; the dimension stays."""
    x, part = call.of(call.args[0]), call.of(call.args[1])
    axis = call.get(2, "dim", 0) % len(x)
    freeze(x[axis], f"is written in part by {call.target}")
    rest = part if "select" in call.target else [*part[:axis], *part[axis + 1 :]]
    for mine, theirs in zip([*x[:axis], *x[axis + 1 :]], rest, strict=True):
        unify(mine, theirs, call.target)
    if "slice" in call.target:
        freeze(part[axis], f"is written by {call.target}")
    return [resolve(dimension) for dimension in x]


@rule("roll.default", "flip.default")
def roll(call: Call) -> Dims:
    """`... d ... -> ... d ...`; units change places."""
    x = call.of(call.args[0])
    axes = call.get(2, "dims", []) if "roll" in call.target else call.args[1]
    for axis in axes or range(len(x)):
        freeze(x[axis], f"is reordered by {call.target}")
    return x


@rule("tril.default", "triu.default")
def triangle(call: Call) -> Dims:
    """`... n m -> ... n m`; places matter."""
    x = call.of(call.args[0])
    for dimension in x[-2:]:
        freeze(dimension, f"{call.target} depends on places in it")
    return x

"""Operators for which places along a dimension matter: indices, gather, scatter, roll, triangles."""

from __future__ import annotations

from autoprune.graph.algebra import AlgebraError, constant, resolve, size
from autoprune.graph.rules.call import Call, Dims, broadcast, rule


@rule("index.Tensor", "_unsafe_index.Tensor")
def index(call: Call) -> Dims:
    """Indexed dimensions stay, the others follow; the index's own stand where the first indexed one stood."""
    x, indices = call.of(call.args[0]), call.args[1]
    used = [axis for axis, item in enumerate(indices) if item is not None]
    first = call.of(indices[used[0]])
    if len(used) == 1 and len(first) > 1 and len(call.shapes[0]) == len(x) - len(first) + 1:
        return _masked(call, x, first, used[0])
    for axis in used:
        call.freeze(x[axis], "is indexed by a tensor")
    picked = broadcast(call, [call.of(indices[axis]) for axis in used])
    rest = [(axis, dimension) for axis, dimension in enumerate(x) if axis not in used]
    if used != list(range(used[0], used[0] + len(used))):  # indices apart: theirs come first
        return [*picked, *(dimension for _, dimension in rest)]
    return [*(d for axis, d in rest if axis < used[0]), *picked, *(d for axis, d in rest if axis > used[0])]


def _masked(call: Call, x: Dims, mask: Dims, axis: int) -> Dims:
    """`... m1 m2 ..., m1 m2 -> ... k ...`: the places where a mask is set."""
    for mine, theirs in zip(x[axis : axis + len(mask)], mask, strict=True):
        call.freeze(mine, "is indexed by a mask")
        call.freeze(theirs, "is a mask")
    return [*x[:axis], call.opaque(call.shapes[0][axis], "counts what a mask selects"), *x[axis + len(mask) :]]


@rule("index_put.default", "_unsafe_index_put.default")
def index_put(call: Call) -> Dims:
    """`... d ..., values -> ... d ...`: indexed dimensions stay, the others follow the values."""
    x, indices, values = call.of(call.args[0]), call.args[1], call.of(call.args[2])
    used = [axis for axis, item in enumerate(indices) if item is not None]
    shapes = [call.of(indices[axis]) for axis in used]
    if (len(used) == 1 and len(shapes[0]) > 1) or used != list(range(used[0], used[0] + len(used))):
        raise AlgebraError("a mask, or indices apart from each other")
    for axis in used:
        call.freeze(x[axis], "is indexed by a tensor")
    place = [*x[: used[0]], *broadcast(call, shapes), *x[used[-1] + 1 :]]
    for mine, theirs in zip(place[::-1], values[::-1], strict=False):
        if size(theirs) != 1:
            call.unify(mine, theirs)
    return call.of(call.args[0])


@rule("index_select.default")
def index_select(call: Call) -> Dims:
    """Places along a dimension, which stays."""
    x, axis = call.of(call.args[0]), call.args[1]
    call.freeze(x[axis], "is indexed by a tensor")
    x[axis] = call.of(call.args[2])[0]
    return x


@rule("gather.default", "take_along_dim.default")
def gather(call: Call) -> Dims:
    """`... d ..., ... k ... -> ... k ...`"""
    if "gather" in call.target:
        source, where, axis = call.args[0], call.args[2], call.args[1]
    else:
        source, where, axis = call.args[0], call.args[1], call.get(2, "dim")
    x, places = call.of(source), call.of(where)
    if axis is None or len(x) != len(places):
        raise AlgebraError("places over all dimensions")
    call.freeze(x[axis], "is gathered from")
    for position, (mine, theirs) in enumerate(zip(x, places, strict=True)):
        if position == axis % len(x):
            continue
        if size(mine) == size(theirs):
            call.unify(mine, theirs)
        else:
            call.freeze(mine, "is gathered from in part")
            call.freeze(theirs, "gathers a part")
    return [resolve(dimension) for dimension in places]


@rule(
    "scatter.src", "scatter.value", "scatter.reduce", "scatter.value_reduce", "scatter_add.default",
    "scatter_reduce.two",
)  # fmt: skip
def scatter(call: Call) -> Dims:
    """`... d ..., ... k ..., ... k ... -> ... d ...`"""
    x, axis = call.of(call.args[0]), call.args[1] % len(call.of(call.args[0]))
    for tensor in call.tensors()[1:]:
        for position, (mine, theirs) in enumerate(zip(x, call.of(tensor), strict=True)):
            if position != axis and size(mine) == size(theirs):
                call.unify(mine, theirs)
            else:
                call.freeze(mine, "is scattered to")
                call.freeze(theirs, "is scattered")
    return [resolve(dimension) for dimension in x]


@rule(
    "index_add.default", "index_copy.default", "index_fill.int_Scalar", "index_fill.int_Tensor", "index_reduce.default"
)
def index_add(call: Call) -> Dims:
    """`... d ..., k, ... k ... -> ... d ...`: places along a dimension, which stays."""
    x, axis = call.of(call.args[0]), call.args[1]
    call.freeze(x[axis], "is indexed by a tensor")
    source = call.of(call.args[3]) if len(call.args) > 3 and call.args[3] in call.tensors() else []
    if len(source) == len(x):
        call.unify(call.of(call.args[2])[0], source[axis])
        for position, (mine, theirs) in enumerate(zip(x, source, strict=True)):
            if position != axis % len(x):
                call.unify(mine, theirs)
    return [resolve(dimension) for dimension in x]


@rule("select_scatter.default")
def select_scatter(call: Call) -> Dims:
    """One place of a dimension replaced; the dimension stays."""
    x, part = call.of(call.args[0]), call.of(call.args[1])
    axis = call.get(2, "dim", 0) % len(x)
    call.freeze(x[axis], "is written in part")
    call.match([*x[:axis], *x[axis + 1 :]], part)
    return [resolve(dimension) for dimension in x]


@rule("roll.default", "flip.default", "rot90.default")
def roll(call: Call) -> Dims:
    """`... d ... -> ... d ...`; units change places."""
    x = call.of(call.args[0])
    axes = call.args[1] if "flip" in call.target else call.get(2, "dims", [])
    for axis in axes or range(len(x)):
        call.freeze(x[axis], "reorders it")
    return x


@rule("tril.default", "triu.default")
def triangle(call: Call) -> Dims:
    """`... n m -> ... n m`; places matter."""
    x = call.of(call.args[0])
    for dimension in x[-2:]:
        call.freeze(dimension, "depends on places in it")
    return x


@rule("one_hot.default")
def one_hot(call: Call) -> Dims:
    """`... -> ... k`"""
    return [*call.of(call.args[0]), *call.fixed(start=-1)]


@rule("unfold.default")
def unfold(call: Call) -> Dims:
    """`... d ... -> ... w ... s`: windows of s neighbours."""
    x, axis = call.of(call.args[0]), call.args[1]
    call.freeze(x[axis], "is cut into windows")
    x[axis] = call.opaque(call.shapes[0][axis % len(x)], "counts windows")
    return [*x, constant(call.shapes[0][-1], f"{call.target}: is its window")]

"""Operators that regroup, reorder, add and repeat dimensions."""

from __future__ import annotations

from typing import Any

from autoprune.graph.algebra import AlgebraError, Atom, constant, factor, product, size
from autoprune.graph.rules.call import Call, Dims, broadcast, rule


@rule(
    "view.default", "reshape.default", "_unsafe_view.default", "unflatten.int", "flatten.using_ints", "view_as.default",
    "reshape_as.default", "ravel.default",
)  # fmt: skip
def reshape(call: Call) -> Dims:
    """The row-major product of all dimensions, regrouped; what does not regroup stays, the rest follows."""
    x = call.of(call.args[0])
    dims: Dims = []
    for old, new in segments([size(d) for d in x], call.shapes[0]):
        try:
            dims += factor(x[old], call.shapes[0][new])
        except AlgebraError as error:
            for dimension in x[old]:
                call.freeze(dimension, str(error))
            dims += [call.opaque(units, "is reshaped") for units in call.shapes[0][new]]
    call.args[:], call.kwargs, call.retarget = [call.args[0], None], {}, "aten.reshape.default"
    call.follow(1, dims)
    return dims


def segments(old: list[int], new: list[int]) -> list[tuple[slice, slice]]:
    """The finest cuts of both shapes into parts of equal products."""
    parts, i, j, start_i, start_j = [], 0, 0, 0, 0
    left = right = 1
    while i < len(old) or j < len(new):
        if (left <= right and i < len(old)) or j == len(new):
            left, i = left * old[i], i + 1
        else:
            right, j = right * new[j], j + 1
        if left == right and i > start_i and j > start_j:
            parts.append((slice(start_i, i), slice(start_j, j)))
            start_i, start_j, left, right = i, j, 1, 1
    if start_i < len(old) or start_j < len(new):  # trailing dimensions of size one
        last = parts.pop() if parts else (slice(0, 0), slice(0, 0))
        parts.append((slice(last[0].start, len(old)), slice(last[1].start, len(new))))
    return parts


@rule("permute.default")
def permute(call: Call) -> Dims:
    """Dimensions in another order."""
    x = call.of(call.args[0])
    return [x[axis] for axis in call.args[1]]


@rule(
    "transpose.int", "swapaxes.default", "swapdims.default", "t.default", "numpy_T.default", "mT.default", "mH.default",
    "adjoint.default",
)  # fmt: skip
def transpose(call: Call) -> Dims:
    """Two dimensions swapped."""
    x = call.of(call.args[0])
    if call.target == "aten.numpy_T.default":
        return x[::-1]
    first, second = (call.args[1], call.args[2]) if len(call.args) > 2 else (-2, -1)
    if len(x) > 1:
        x[first], x[second] = x[second], x[first]
    return x


@rule("movedim.int", "moveaxis.int", "movedim.intlist", "moveaxis.intlist")
def movedim(call: Call) -> Dims:
    """Dimensions in other places."""
    x = call.of(call.args[0])
    sources, targets = ([a] if isinstance(a, int) else a for a in call.args[1:3])
    moved = {target % len(x): source % len(x) for source, target in zip(sources, targets, strict=True)}
    rest = iter(axis for axis in range(len(x)) if axis not in moved.values())
    return [x[moved[axis] if axis in moved else next(rest)] for axis in range(len(x))]


@rule("squeeze.dim", "squeeze.dims", "squeeze.default")
def squeeze(call: Call) -> Dims:
    """Dimensions of size one vanish; the list of them is made explicit."""
    x = call.of(call.args[0])
    axes = call.get(1, "dim", list(range(len(x))))
    wanted = {axis % len(x) for axis in ([axes] if isinstance(axes, int) else axes)}
    gone = [axis for axis in sorted(wanted) if size(x[axis]) == 1]
    call.args[:], call.kwargs, call.retarget = [call.args[0], None], {}, "aten.squeeze.dims"
    call.follow(1, gone)
    return [d for axis, d in enumerate(x) if axis not in gone]


@rule("unsqueeze.default")
def unsqueeze(call: Call) -> Dims:
    """A dimension of size one appears."""
    x = call.of(call.args[0])
    axis = call.args[1] % (len(x) + 1)
    return [*x[:axis], constant(1, "has a single unit"), *x[axis:]]


@rule("expand.default", "broadcast_to.default")
def expand(call: Call) -> Dims:
    """Dimensions of size one repeat."""
    x, sizes = call.of(call.args[0]), call.args[1]
    offset = len(sizes) - len(x)
    result: Dims = []
    explicit: list[Any] = []
    for axis, units in enumerate(call.shapes[0]):
        source = x[axis - offset] if axis >= offset else None
        if source is not None and size(source) == units:
            result.append(source)
            explicit.append(-1)
        elif isinstance(sizes[axis], int):
            result.append(Atom(units))
            explicit.append(result[-1])
        else:
            result.append(call.opaque(units, "sets this size"))
            explicit.append(sizes[axis])
    call.follow(1, explicit)
    return result


@rule("expand_as.default")
def expand_as(call: Call) -> Dims:
    """`... 1 ..., ... d ... -> ... d ...`"""
    return broadcast(call, [call.of(call.args[1]), call.of(call.args[0])])


@rule("broadcast_tensors.default")
def broadcast_tensors(call: Call) -> list[Dims]:
    """`... 1 ..., ... d ... -> ... d ..., ... d ...`"""
    return [broadcast(call, [call.of(tensor) for tensor in call.args[0]])] * len(call.shapes)


@rule("meshgrid.default", "meshgrid.indexing")
def meshgrid(call: Call) -> list[Dims]:
    """`a, b -> a b, a b`"""
    dims = [call.of(tensor)[0] for tensor in call.args[0]]
    if call.get(1, "indexing", "ij") != "ij":
        dims[:2] = dims[1::-1]
    return [list(dims) for _ in call.shapes]


@rule("repeat.default", "tile.default")
def repeat(call: Call) -> Dims:
    """`... d -> ... (r d)`"""
    x, shape = call.of(call.args[0]), call.shapes[0]
    padded: Dims = [constant(1, "has a single unit") for _ in range(len(shape) - len(x))] + x
    result: Dims = []
    for dimension, units in zip(padded, shape, strict=True):
        times = units // max(size(dimension), 1)
        repeats = call.opaque(times, "counts repetitions")
        result.append(dimension if times == 1 else product([repeats, dimension]))
    return result


@rule("repeat_interleave.self_int")
def repeat_interleave(call: Call) -> Dims:
    """`... d ... -> ... (d r) ...`"""
    x, times, axis = call.of(call.args[0]), call.args[1], call.get(2, "dim")
    if axis is None or not isinstance(times, int):
        raise AlgebraError("repeated over all dimensions")
    x[axis] = product([x[axis], constant(times, f"{call.target}: counts repetitions")])
    call.args[:], call.kwargs = [call.args[0], times, axis], {}
    return x

"""Operators that cut a dimension or put one together: slices, chunks, concatenation, padding."""

from __future__ import annotations

from typing import Any

from autoprune.graph.algebra import AlgebraError, Expression, concatenation, constant, cut, resolve, size
from autoprune.graph.rules.call import Call, Dims, rule


@rule("select.int")
def select(call: Call) -> Dims:
    """One index of a dimension, which stays whole."""
    x = call.of(call.args[0])
    axis = call.args[1] % len(x)
    call.freeze(x[axis], "is indexed")
    return [d for position, d in enumerate(x) if position != axis]


@rule("slice.Tensor", "narrow.default")
def slice_(call: Call) -> Dims:
    """A part of a dimension; where that is no concatenation (a step, a cut inside a block), the dimension stays."""
    x = call.of(call.args[0])
    axis = call.get(1, "dim", 0) % len(x)
    length, start = call.shapes[0][axis], call.get(2, "start") or 0
    if call.target == "aten.slice.Tensor" and length == size(x[axis]) and call.get(4, "step", 1) == 1:
        call.args[:] = [call.args[0], axis, 0, 2**63 - 1]
        return x
    try:
        before, middle, begin = _part(x[axis], start, length, call.get(4, "step", 1))
    except AlgebraError as error:
        call.freeze(x[axis], str(error))
        x[axis] = call.opaque(length, "is sliced")
        return x
    call.args[:], call.kwargs = [call.args[0], axis, begin, begin + length], {}
    call.retarget = "aten.slice.Tensor"
    call.follow(2, before if begin else 0)
    call.follow(3, concatenation([before, middle]) if begin else middle)
    return [*x[:axis], middle, *x[axis + 1 :]]


def _part(dimension: Expression, start: Any, length: int, step: int) -> tuple[Expression, Expression, int]:
    """What is before a slice, the slice, and where it begins.

    Raises:
        AlgebraError: it cannot be cut there.
    """
    if step != 1 or not isinstance(start, int):
        raise AlgebraError("steps over units")
    total = size(dimension)
    begin = min(max(start + total if start < 0 else start, 0), total)
    before, middle, _ = cut(dimension, [begin, length, total - begin - length])
    return before, middle, begin


@rule("slice_scatter.default")
def slice_scatter(call: Call) -> Dims:
    """`... (a + b + c) ..., ... b ... -> ... (a + b + c) ...`: a part replaced."""
    x, part = call.of(call.args[0]), call.of(call.args[1])
    axis = call.get(2, "dim", 0) % len(x)
    length = size(part[axis])
    call.match([*x[:axis], *x[axis + 1 :]], [*part[:axis], *part[axis + 1 :]])
    if length == size(x[axis]):
        call.unify(x[axis], part[axis])
        call.args[:], call.kwargs = [*call.args[:2], axis, 0, 2**63 - 1], {}
        return call.of(call.args[0])
    try:
        before, middle, begin = _part(x[axis], call.get(3, "start") or 0, length, call.get(5, "step", 1))
    except AlgebraError as error:
        for dimension in (x[axis], part[axis]):
            call.freeze(dimension, str(error))
        return call.of(call.args[0])
    call.unify(middle, part[axis])
    call.args[:], call.kwargs = [*call.args[:2], axis, begin, begin + length], {}
    call.follow(3, before if begin else 0)
    call.follow(4, concatenation([before, middle]) if begin else middle)
    return call.of(call.args[0])


@rule(
    "chunk.default", "split.Tensor", "split_with_sizes.default", "split.sizes", "tensor_split.sections",
    "tensor_split.indices", "unsafe_chunk.default", "unsafe_split.Tensor", "unsafe_split_with_sizes.default",
)  # fmt: skip
def split(call: Call) -> list[Dims]:
    """A dimension cut into parts, whose sizes are made explicit."""
    x = call.of(call.args[0])
    axis = call.get(2, "dim", 0) % len(x)
    sizes = [shape[axis] for shape in call.shapes]
    try:
        parts = cut(x[axis], sizes)
    except AlgebraError as error:
        call.freeze(x[axis], str(error))
        parts = [call.opaque(units, "is split") for units in sizes]
    call.args[:], call.kwargs = [call.args[0], None, axis], {}
    call.retarget = "aten.split_with_sizes.default"
    call.follow(1, parts)
    return [[*x[:axis], part, *x[axis + 1 :]] for part in parts]


@rule("unbind.int")
def unbind(call: Call) -> list[Dims]:
    """All indices of a dimension, which stays whole."""
    x = call.of(call.args[0])
    axis = call.get(1, "dim", 0) % len(x)
    call.freeze(x[axis], "is taken apart")
    return [[d for position, d in enumerate(x) if position != axis] for _ in call.shapes]


@rule("cat.default", "concat.default", "concatenate.default")
def cat(call: Call) -> Dims:
    """`... a ..., ... b ... -> ... (a + b) ...`"""
    parts = [call.of(part) for part in call.args[0] if call.of(part) != [] and 0 not in map(size, call.of(part))]
    axis = call.get(1, "dim", 0) % len(parts[0])
    for other in parts[1:]:
        for position in range(len(other)):
            if position != axis:
                call.unify(parts[0][position], other[position])
    joined = concatenation(part[axis] for part in parts)
    return [joined if position == axis else resolve(d) for position, d in enumerate(parts[0])]


@rule("stack.default")
def stack(call: Call) -> Dims:
    """A new dimension over equal operands."""
    parts = [call.of(part) for part in call.args[0]]
    for other in parts[1:]:
        call.match(parts[0], other)
    axis = call.get(1, "dim", 0) % (len(parts[0]) + 1)
    return [
        *map(resolve, parts[0][:axis]),
        constant(len(parts), f"{call.target}: counts what is stacked"),
        *map(resolve, parts[0][axis:]),
    ]


@rule("pad.default", "constant_pad_nd.default")
def pad(call: Call) -> Dims:
    """Constants around a dimension: a concatenation with them; other modes only where nothing shrinks."""
    x, amounts = call.of(call.args[0]), call.args[1]
    mode = call.get(2, "mode", "constant") if call.target == "aten.pad.default" else "constant"
    for pair in range(len(amounts) // 2):
        axis = len(x) - 1 - pair
        before, after = amounts[2 * pair], amounts[2 * pair + 1]
        if before == 0 and after == 0:
            continue
        if mode != "constant" or before < 0 or after < 0:
            call.freeze(x[axis], "is padded with its own values, or cut")
            x[axis] = call.opaque(call.shapes[0][axis], "sets this size")
        else:
            padding = [constant(n, f"{call.target}: is padding") for n in (before, after)]
            x[axis] = concatenation([padding[0], x[axis], padding[1]])
    return x

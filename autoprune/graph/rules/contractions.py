"""Operators that multiply and sum: convolutions, linear layers, matrix products, einsum, embeddings."""

from __future__ import annotations

from typing import Any

from autoprune.graph.algebra import (
    AlgebraError,
    Atom,
    Expression,
    factor,
    product,
    resolve,
    size,
)
from autoprune.graph.rules.call import Call, Dims, broadcast, name_units, rule


def _spatial(call: Call, x: Dims, weight: Dims) -> None:
    for dimension in x[2:]:
        call.freeze(dimension, "is a spatial dimension")
    for dimension in weight[2:]:
        call.freeze(dimension, "is a kernel dimension")


def _groups_of_channels(call: Call, x: Expression, channels: Expression, groups: int) -> tuple[Expression, Expression]:
    """Both as (groups, rest), the groups being the same; the rests."""
    group_in, inner = factor([x], [groups, size(x) // groups])
    group_out, outer = factor([channels], [groups, size(channels) // groups])
    call.unify(group_in, group_out)
    group = resolve(group_in)
    if isinstance(group, Atom) and size(inner) > 1:
        group.unit = "group"
    call.follow(6, group)
    return resolve(inner), resolve(outer)


@rule("conv1d.default", "conv2d.default", "conv3d.default", "conv1d.padding", "conv2d.padding", "conv3d.padding")
def conv(call: Call) -> Dims:
    """`n (g i) ..., (g o) i ..., (g o) -> n (g o) ...`; depthwise where i is one."""
    x, weight = call.of(call.args[0]), call.of(call.args[1])
    bias, groups = call.get(2, "bias"), call.get(6, "groups", 1)
    if len(x) != len(weight):
        raise AlgebraError("an operand without a batch")
    _spatial(call, x, weight)
    if groups == 1:
        call.unify(x[1], weight[1])
    else:
        inner, _ = _groups_of_channels(call, x[1], weight[0], groups)
        call.unify(inner, weight[1])
    call.contract(call.args[1], 1)
    channels = call.of(call.args[1])[0]
    if bias is not None:
        call.unify(channels, call.of(bias)[0])
    return [x[0], resolve(channels), *call.fixed(start=2)]


@rule("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
def conv_transpose(call: Call) -> Dims:
    """`n (g i) ..., (g i) o ..., (g o) -> n (g o) ...`"""
    x, weight = call.of(call.args[0]), call.of(call.args[1])
    bias, groups = call.get(2, "bias"), call.get(6, "groups", 1)
    if len(x) != len(weight):
        raise AlgebraError("an operand without a batch")
    _spatial(call, x, weight)
    call.unify(x[1], weight[0])
    call.contract(call.args[1], 0)
    channels = weight[1]
    if groups != 1:
        group, inner = factor([call.of(call.args[1])[0]], [groups, size(weight[0]) // groups])
        if isinstance(group, Atom) and size(inner) > 1:
            group.unit = "group"
        channels = product([group, weight[1]])
        call.follow(6, group)
    if bias is not None:
        call.unify(channels, call.of(bias)[0])
    return [x[0], resolve(channels), *call.fixed(start=2)]


@rule("linear.default")
def linear(call: Call) -> Dims:
    """`... i, o i, o -> ... o`"""
    x, weight, bias = call.of(call.args[0]), call.of(call.args[1]), call.get(2, "bias")
    call.unify(x[-1], weight[1])
    call.contract(call.args[1], 1)
    if bias is not None:
        call.unify(weight[0], call.of(bias)[0])
    return [*x[:-1], resolve(weight[0])]


@rule("matmul.default", "bmm.default", "mm.default", "mv.default", "dot.default", "vdot.default")
def matmul(call: Call) -> Dims:
    """`... m k, ... k n -> ... m n`; of a vector, the dimension that it lacks is missing from the result, too."""
    return _product(call, call.args[0], call.args[1])


@rule("addmm.default", "baddbmm.default", "addmv.default")
def addmm(call: Call) -> Dims:
    """`... m n, ... m k, ... k n -> ... m n`"""
    result = _product(call, call.args[1], call.args[2])
    added = call.of(call.args[0])
    for mine, theirs in zip(result[::-1], added[::-1], strict=False):
        if size(theirs) != 1:
            call.unify(mine, theirs)
    return [resolve(dimension) for dimension in result]


def _product(call: Call, first: Any, second: Any) -> Dims:
    a, b = call.of(first), call.of(second)
    row = [] if len(a) == 1 else [a[-2]]
    column = [] if len(b) == 1 else [b[-1]]
    inner = max(0, len(b) - 2)
    call.unify(a[-1], b[inner])
    call.contract(first, len(a) - 1)
    call.contract(second, inner)
    batch = broadcast(call, [a[:-2], b[:-2]])
    if first.name not in call.origins and second.name not in call.origins:
        name_units(batch, "head")
        name_units([a[-1]], "head_dim")
    return [*batch, *map(resolve, [*row, *column])]


@rule("outer.default", "ger.default")
def outer(call: Call) -> Dims:
    """`m, n -> m n`"""
    return [*call.of(call.args[0]), *call.of(call.args[1])]


@rule("cdist.default", "_cdist_forward.default")
def cdist(call: Call) -> Dims:
    """`... m d, ... n d -> ... m n`: distances over the units of d that are there."""
    a, b = call.of(call.args[0]), call.of(call.args[1])
    call.unify(a[-1], b[-1])
    call.contract(call.args[0], len(a) - 1)
    call.contract(call.args[1], len(b) - 1)
    return [*broadcast(call, [a[:-2], b[:-2]]), resolve(a[-2]), resolve(b[-2])]


@rule("einsum.default")
def einsum(call: Call) -> Dims:
    """As the equation says; letters that vanish are contracted."""
    operands, right = _letters(call)
    named: dict[str, Expression] = {}
    for letters, argument in zip(operands, call.args[1], strict=True):
        for axis, letter in enumerate(letters):
            dimension = call.of(argument)[axis]
            if letter in named and size(named[letter]) != 1 and size(dimension) != 1:
                call.unify(named[letter], dimension)
            elif letter not in named or size(dimension) != 1:
                named[letter] = dimension
    for letters, argument in zip(operands, call.args[1], strict=True):
        for axis, letter in enumerate(letters):
            if letter not in right:
                call.contract(argument, axis)
    if len(operands) == 2 and all(argument.name not in call.origins for argument in call.args[1]):
        shared = [letter for letter in operands[0] if letter in operands[1]]
        name_units([resolve(named[letter]) for letter in shared if letter in right], "head")
        name_units([resolve(named[letter]) for letter in shared if letter not in right], "head_dim")
    return [resolve(named[letter]) for letter in right]


def _letters(call: Call) -> tuple[list[str], str]:
    """One letter a dimension, of each operand and of the result; an ellipsis becomes letters of its own."""
    left, arrow, right = call.args[0].replace(" ", "").partition("->")
    operands = left.split(",")
    if not arrow:  # those that appear once, in alphabetical order
        letters = sorted(set(left) - set(".,"))
        right = ("..." if "..." in left else "") + "".join(x for x in letters if left.count(x) == 1)
    ranks = [len(call.of(tensor)) for tensor in call.args[1]]
    hidden = [rank - len(part) + 3 for part, rank in zip(operands, ranks, strict=True) if "..." in part]
    extra = "".join(chr(0x3B1 + place) for place in range(max(hidden, default=0)))  # Greek: aligned from the right
    full = [
        part.replace("...", extra[len(extra) - (rank - len(part) + 3) :])
        for part, rank in zip(operands, ranks, strict=True)
    ]
    return full, right.replace("...", extra)


@rule("embedding.default")
def embedding(call: Call) -> Dims:
    """`v d, ... -> ... d`"""
    table, index = call.of(call.args[0]), call.of(call.args[1])
    call.freeze(table[0], "is the vocabulary of an embedding")
    return [*index, table[1]]

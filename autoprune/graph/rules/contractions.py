"""Operators that multiply and sum: convolutions, linear layers, matrix products, einsum, embeddings."""

from __future__ import annotations

from typing import Any

from autoprune.graph.algebra import AlgebraError, Atom, Expression, factor, freeze, product, resolve, size, unify
from autoprune.graph.rules.call import Call, Dims, broadcast, name_units, rule


def _spatial(call: Call, x: Dims, weight: Dims, what: str) -> None:
    for dimension in x[2:]:
        freeze(dimension, f"is a spatial dimension of {what}")
    for dimension in weight[2:]:
        freeze(dimension, f"is a kernel dimension of {what}")


@rule("conv1d.default", "conv2d.default", "conv3d.default", "conv1d.padding", "conv2d.padding", "conv3d.padding")
def conv(call: Call) -> Dims:
    """`n (g i) ..., (g o) i ..., (g o) -> n (g o) ...`; depthwise where i is one."""
    x, weight = call.of(call.args[0]), call.of(call.args[1])
    bias, groups = call.get(2, "bias"), call.get(6, "groups", 1)
    _spatial(call, x, weight, call.target)
    if groups == 1:
        unify(x[1], weight[1], call.target)
        channels = weight[0]
    else:
        group_in, inner = factor([x[1]], [groups, size(x[1]) // groups])
        group_out, outer = factor([weight[0]], [groups, size(weight[0]) // groups])
        unify(group_in, group_out, f"groups of {call.target}")
        unify(inner, weight[1], call.target)
        group = resolve(group_in)
        if isinstance(group, Atom) and size(inner) > 1:
            group.unit = "group"
        channels = product([group, outer])
        call.follow(6, group)
    call.contract(call.args[1], 1)
    if bias is not None:
        unify(channels, call.of(bias)[0], call.target)
    return [x[0], resolve(channels), *call.fixed(start=2)]


@rule("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
def conv_transpose(call: Call) -> Dims:
    """`n i ..., i o ..., o -> n o ...`; grouped ones are frozen."""
    x, weight, bias = call.of(call.args[0]), call.of(call.args[1]), call.get(2, "bias")
    _spatial(call, x, weight, call.target)
    if call.get(6, "groups", 1) != 1:
        raise AlgebraError("grouped transposed convolution")
    unify(x[1], weight[0], call.target)
    call.contract(call.args[1], 0)
    if bias is not None:
        unify(weight[1], call.of(bias)[0], call.target)
    return [x[0], resolve(weight[1]), *call.fixed(start=2)]


@rule("linear.default")
def linear(call: Call) -> Dims:
    """`... i, o i, o -> ... o`"""
    x, weight, bias = call.of(call.args[0]), call.of(call.args[1]), call.get(2, "bias")
    unify(x[-1], weight[1], call.target)
    call.contract(call.args[1], 1)
    if bias is not None:
        unify(weight[0], call.of(bias)[0], call.target)
    return [*x[:-1], resolve(weight[0])]


@rule("matmul.default", "bmm.default", "mm.default")
def matmul(call: Call) -> Dims:
    """`... m k, ... k n -> ... m n`"""
    return _product(call, call.args[0], call.args[1])


@rule("addmm.default", "baddbmm.default", "addbmm.default")
def addmm(call: Call) -> Dims:
    """`... m n, ... m k, ... k n -> ... m n`"""
    result = _product(call, call.args[1], call.args[2])
    added = call.of(call.args[0])
    for mine, theirs in zip(result[::-1], added[::-1], strict=False):
        if size(theirs) != 1:
            unify(mine, theirs, call.target)
    return [resolve(dimension) for dimension in result]


def _product(call: Call, first: Any, second: Any) -> Dims:
    a, b = call.of(first), call.of(second)
    if len(a) < 2 or len(b) < 2:
        raise AlgebraError("a vector operand")
    unify(a[-1], b[-2], call.target)
    call.contract(first, len(a) - 1)
    call.contract(second, len(b) - 2)
    batch = broadcast(call, [a[:-2], b[:-2]])
    if first.name not in call.origins and second.name not in call.origins:
        name_units(batch, "head")
        name_units([a[-1]], "head_dim")
    return [*batch, resolve(a[-2]), resolve(b[-1])]


@rule("einsum.default")
def einsum(call: Call) -> Dims:
    """As the equation says; letters that vanish are contracted."""
    equation = call.args[0].replace(" ", "")
    left, arrow, right = equation.partition("->")
    operands = left.split(",")
    if "." in equation or not arrow or any(len(set(letters)) != len(letters) for letters in operands):
        raise AlgebraError(f"equation {equation}")
    named: dict[str, Expression] = {}
    for letters, argument in zip(operands, call.args[1], strict=True):
        for axis, letter in enumerate(letters):
            dimension = call.of(argument)[axis]
            if letter in named and size(named[letter]) != 1 and size(dimension) != 1:
                unify(named[letter], dimension, call.target)
            elif letter not in named or size(dimension) != 1:
                named[letter] = dimension
    for letters, argument in zip(operands, call.args[1], strict=True):
        for axis, letter in enumerate(letters):
            if letter not in right:
                call.contract(argument, axis)
    return [resolve(named[letter]) for letter in right]


@rule("embedding.default")
def embedding(call: Call) -> Dims:
    """`v d, ... -> ... d`"""
    table, index = call.of(call.args[0]), call.of(call.args[1])
    freeze(table[0], "is the vocabulary of an embedding")
    return [*index, table[1]]

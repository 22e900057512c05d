"""Normalisations: statistics run over the units that are there."""

from __future__ import annotations

from autoprune.graph.algebra import factor, resolve, size, unify
from autoprune.graph.program import Ref
from autoprune.graph.rules.call import Call, Dims, rule


@rule("batch_norm.default", "instance_norm.default")
def batch_norm(call: Call) -> Dims:
    """`n c ..., c, c, c, c -> n c ...`"""
    x = call.of(call.args[0])
    for position in range(1, 5):
        if isinstance(call.args[position], Ref):
            unify(x[1], call.of(call.args[position])[0], call.target)
    return x


@rule("layer_norm.default", "rms_norm.default")
def layer_norm(call: Call) -> Dims:
    """`... c, c, c -> ... c`; statistics run over the units that are there."""
    x, count = call.of(call.args[0]), len(call.args[1])
    for tensor in call.tensors()[1:]:
        for mine, theirs in zip(x[-count:], call.of(tensor), strict=True):
            unify(mine, theirs, call.target)
    normalised = [resolve(dimension) for dimension in x[-count:]]
    call.read.extend(normalised)
    call.follow(1, normalised)
    return [*x[:-count], *normalised]


@rule("group_norm.default")
def group_norm(call: Call) -> Dims:
    """`n (g c) ..., (g c), (g c) -> n (g c) ...`; statistics run over the c that are there."""
    x, groups = call.of(call.args[0]), call.args[1]
    for tensor in call.tensors()[1:]:
        unify(x[1], call.of(tensor)[0], call.target)
    group, channels = factor([x[1]], [groups, size(x[1]) // groups])
    call.read.append(channels)
    call.follow(1, group)
    return [x[0], resolve(x[1]), *x[2:]]

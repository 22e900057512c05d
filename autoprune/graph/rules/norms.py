"""Normalisations: statistics run over the units that are there."""

from __future__ import annotations

from autoprune.graph.algebra import AlgebraError, constant, factor, resolve, size
from autoprune.graph.program import Ref
from autoprune.graph.rules.call import Call, Dims, rule


@rule("batch_norm.default", "instance_norm.default", "_native_batch_norm_legit_no_training.default")
def batch_norm(call: Call) -> Dims | list[Dims]:
    """`n c ..., c, c, c, c -> n c ...`; without running statistics they are taken over the other dimensions."""
    x = call.of(call.args[0])
    for position in range(1, 5):
        if isinstance(call.args[position], Ref):
            call.unify(x[1], call.of(call.args[position])[0])
    if "instance_norm" in call.target:
        for dimension in x[2:]:
            call.freeze(dimension, "takes its statistics over it")
    elif "no_training" not in call.target and (call.args[5] or call.args[3] is None):
        call.read.extend([x[0], *x[2:]])
    x = call.of(call.args[0])
    return [x, call.fixed(1), call.fixed(2)] if len(call.shapes) == 3 else x


@rule("layer_norm.default", "rms_norm.default", "native_layer_norm.default", "_fused_rms_norm.default")
def layer_norm(call: Call) -> Dims | list[Dims]:
    """`... c, c, c -> ... c`; statistics run over the units that are there."""
    x, count = call.of(call.args[0]), len(call.args[1])
    for tensor in call.tensors()[1:]:
        call.match(x[-count:], call.of(tensor))
    normalised = [resolve(dimension) for dimension in x[-count:]]
    call.read.extend(normalised)
    call.follow(1, normalised)
    result = [*x[:-count], *normalised]
    statistics = [*x[:-count], *(constant(1, "has a single unit") for _ in normalised)]
    return [result, *(statistics for _ in call.shapes[1:])] if len(call.shapes) > 1 else result


@rule("group_norm.default")
def group_norm(call: Call) -> Dims:
    """`n (g c) ..., (g c), (g c) -> n (g c) ...`; statistics run over the c that are there."""
    x, groups = call.of(call.args[0]), call.args[1]
    for tensor in call.tensors()[1:]:
        call.unify(x[1], call.of(tensor)[0])
    for dimension in x[2:]:
        call.freeze(dimension, "takes its statistics over it")
    group, channels = factor([x[1]], [groups, size(x[1]) // groups])
    call.read.append(channels)
    call.follow(1, group)
    return [x[0], resolve(x[1]), *x[2:]]


@rule("_weight_norm.default")
def weight_norm(call: Call) -> Dims:
    """`d ..., d 1 ... -> d ...`: each slice of a weight divided by its length, over the units that are there."""
    v, g, axis = call.of(call.args[0]), call.of(call.args[1]), call.get(2, "dim", 0)
    if axis == -1:
        raise AlgebraError("one length of the whole weight")
    call.unify(v[axis], g[axis])
    call.read.extend(d for place, d in enumerate(v) if place != axis % len(v))
    return call.of(call.args[0])

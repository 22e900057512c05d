"""Scaled dot-product attention."""

from __future__ import annotations

from autoprune.graph.algebra import factor, freeze, resolve, size, unify
from autoprune.graph.rules.call import Call, Dims, broadcast, name_units, rule


@rule("scaled_dot_product_attention.default")
def attention(call: Call) -> Dims:
    """`... (h r) n d, ... h m d, ... h m e -> ... (h r) n e`; r query heads share a key-value head."""
    q, k, v = (call.of(argument) for argument in call.args[:3])
    mask = call.get(3, "attn_mask")
    if call.kwargs.get("scale") is None:
        call.kwargs["scale"] = size(q[-1]) ** -0.5  # the default follows the width; the trained one does not
    unify(q[-1], k[-1], call.target)
    for argument, dims in zip(call.args[:2], (q, k), strict=True):
        call.contract(argument, len(dims) - 1)
    unify(k[-2], v[-2], call.target)
    freeze(k[-2], f"{call.target} runs along it")
    for axis in range(len(q) - 2):
        unify(k[axis], v[axis], call.target)
        heads = q[axis]
        if size(heads) != size(k[axis]) and size(k[axis]) > 1:
            heads, _ = factor([heads], [size(k[axis]), size(heads) // size(k[axis])])
        if size(k[axis]) > 1:
            unify(heads, k[axis], call.target)
    name_units([resolve(d) for d in q[:-2]], "head")
    name_units([resolve(q[-1]), resolve(v[-1])], "head_dim")
    if mask is not None:
        broadcast(call, [[*map(resolve, q[:-1]), resolve(k[-2])], call.of(mask)])
    return [*map(resolve, q[:-1]), resolve(v[-1])]

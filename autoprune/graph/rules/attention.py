"""Scaled dot-product attention."""

from __future__ import annotations

from autoprune.graph.algebra import factor, resolve, size
from autoprune.graph.rules.call import Call, Dims, broadcast, name_units, rule


@rule("scaled_dot_product_attention.default")
def attention(call: Call) -> Dims:
    """`... (h r) n d, ... h m d, ... h m e -> ... (h r) n e`; r query heads share a key-value head."""
    query, key, value = call.args[:3]
    q, k, v = call.of(query), call.of(key), call.of(value)
    mask = call.get(3, "attn_mask")
    if call.kwargs.get("scale") is None:
        call.kwargs["scale"] = size(q[-1]) ** -0.5  # the default follows the width; the trained one does not
    call.unify(q[-1], k[-1])
    call.contract(query, len(q) - 1)
    call.contract(key, len(k) - 1)
    call.unify(k[-2], v[-2])
    call.freeze(k[-2], "runs along it")
    if call.get(5, "is_causal", False):
        call.freeze(q[-2], "masks by places in it")
    shared = broadcast(call, [k[:-2], v[:-2]])
    for mine, theirs in zip(q[:-2], shared, strict=True):
        if 1 in (size(mine), size(theirs)):
            continue
        heads, _ = factor([mine], [size(theirs), size(mine) // size(theirs)])
        call.unify(heads, theirs)
    batch = [m if size(m) != 1 else t for m, t in zip(q[:-2], shared, strict=True)]
    batch = [resolve(dimension) for dimension in batch]
    name_units(batch, "head")
    name_units([resolve(q[-1]), resolve(v[-1])], "head_dim")
    if mask is not None:
        broadcast(call, [[*batch, resolve(q[-2]), resolve(k[-2])], call.of(mask)])
    return [*map(resolve, batch), resolve(q[-2]), resolve(v[-1])]

"""One rule an ATen operator: which dimensions of its operands and results shrink together.

A rule receives a `Call` and returns the dimensions of the result (a list of them where there are several results). It
unifies dimensions that must shrink together, marks the dimensions that are contracted (`call.contract`), names the
integer arguments that follow the policy (`call.follow`) and freezes the rest with a reason. An operator without a rule
freezes everything that it touches. To add one, see CONTRIBUTING.md.

| file | operators |
|---|---|
| `elementwise` | place by place, with broadcasting |
| `contractions` | multiply and sum: convolutions, linear layers, matrix products, einsum, embeddings |
| `attention` | scaled dot-product attention |
| `recurrent` | LSTM, GRU and plain recurrent layers |
| `norms` | batch, layer, group, instance and RMS normalisation |
| `reductions` | sums, means, extrema, softmax, cumulative sums |
| `pooling` | space resampled: pooling, interpolation, pixel shuffles |
| `shapes` | dimensions regrouped, reordered, added, repeated |
| `parts` | dimensions cut and put together: slices, chunks, concatenation, padding |
| `places` | places matter: indices, gather, scatter, roll, triangles |
| `creation` | tensors out of nothing |
"""

from autoprune.graph.rules import (  # noqa: F401 - each registers its rules
    attention,
    contractions,
    creation,
    elementwise,
    norms,
    parts,
    places,
    pooling,
    recurrent,
    reductions,
    shapes,
)
from autoprune.graph.rules.call import RULES, Call, Dims, Rule, apply, rule
from autoprune.graph.rules.elementwise import is_elementwise
from autoprune.graph.rules.shapes import segments

__all__ = ["RULES", "Call", "Dims", "Rule", "apply", "is_elementwise", "rule", "segments"]

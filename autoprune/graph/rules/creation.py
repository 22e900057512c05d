"""Operators that make tensors out of nothing."""

from __future__ import annotations

from autoprune.graph.rules.call import Call, Dims, rule


@rule(
    "full.default", "zeros.default", "ones.default", "arange.default", "arange.start", "arange.start_step",
    "empty.default", "scalar_tensor.default", "new_zeros.default", "new_ones.default", "new_full.default",
)  # fmt: skip
def create(call: Call) -> Dims:
    """A constant; its sizes are as traced."""
    return call.fixed()

"""Operators that make tensors out of nothing."""

from __future__ import annotations

from typing import Any

from autoprune.graph.algebra import Atom
from autoprune.graph.rules.call import Call, Dims, rule


@rule(
    "zeros.default", "ones.default", "full.default", "empty.memory_format", "new_zeros.default", "new_ones.default",
    "new_full.default", "new_empty.default",
)  # fmt: skip
def uniform(call: Call) -> Dims:
    """`-> ...`: the same number everywhere, so that every size follows what it meets."""
    position = 1 if ".new_" in call.target else 0
    sizes: list[Any] = []
    dims: Dims = []
    for given, units in zip(call.args[position], call.shapes[0], strict=True):
        dims.append(Atom(units) if isinstance(given, int) else call.opaque(units, "sets this size"))
        sizes.append(dims[-1] if isinstance(given, int) else given)
    call.follow(position, sizes)
    return dims


@rule(
    "arange.default", "arange.start", "arange.start_step", "linspace.default", "eye.default", "eye.m",
    "scalar_tensor.default", "rand.default", "randn.default", "randint.low", "randperm.default", "tril_indices.default",
    "triu_indices.default", "hann_window.default",
)  # fmt: skip
def sequence(call: Call) -> Dims:
    """`-> ...`: places matter; its sizes are as traced."""
    return call.fixed()

"""Operators that reduce a dimension, or run along one."""

from __future__ import annotations

from collections.abc import Callable

from autoprune.graph.algebra import Expression, constant, freeze, size
from autoprune.graph.rules.call import Call, Dims, rule


@rule("mean.dim", "mean.default", "var.dim", "var.correction", "std.dim", "std.correction", "sum.dim_IntList",
      "sum.default", "linalg_vector_norm.default")  # fmt: skip
def statistic(call: Call) -> Dims:
    """`... d ... -> ... (1) ...` over the units that are there."""
    return _reduced(call, call.read.append)


@rule("amax.default", "amin.default", "argmax.default", "argmin.default", "any.dim", "all.dim", "prod.dim_int")
def extremum(call: Call) -> Dims:
    """`... d ... -> ... (1) ...`; what it runs over stays."""
    return _reduced(call, lambda dimension: freeze(dimension, f"is reduced by {call.target}"))


@rule("max.dim", "min.dim", "topk.default", "sort.default")
def extrema(call: Call) -> list[Dims]:
    """Values and places along a dimension, which stays."""
    x = call.of(call.args[0])
    axis = call.get(2 if "topk" in call.target else 1, "dim", -1) % len(x)
    freeze(x[axis], f"is reduced by {call.target}")
    rest = [*x[:axis], *x[axis + 1 :]] if len(call.shapes[0]) < len(x) else x
    return [[_same_or_fixed(d, units, call) for d, units in zip(rest, s, strict=True)] for s in call.shapes]


def _same_or_fixed(dimension: Expression, units: int, call: Call) -> Expression:
    if size(dimension) == units:
        return dimension
    freeze(dimension, f"is changed by {call.target}")
    return call.opaque(units, f"is set by {call.target}")


def _reduced(call: Call, over: Callable[[Expression], None]) -> Dims:
    x = call.of(call.args[0])
    first = 2 if "vector_norm" in call.target else 1
    axes = call.get(first, "dim")
    wanted = range(len(x)) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    reduced = {axis % len(x) for axis in wanted}
    keep = call.get(3 if call.target in ("aten.var.dim", "aten.std.dim") or first == 2 else 2, "keepdim", False)
    for axis in reduced:
        over(x[axis])
    if keep is True:
        return [constant(1, "reduced") if axis in reduced else d for axis, d in enumerate(x)]
    return [d for axis, d in enumerate(x) if axis not in reduced]


@rule("softmax.int", "log_softmax.int", "_softmax.default", "cumsum.default")
def along(call: Call) -> Dims:
    """`... d ... -> ... d ...`; units of d depend on each other."""
    x = call.of(call.args[0])
    freeze(x[call.args[1]], f"{call.target} runs along it")
    return x

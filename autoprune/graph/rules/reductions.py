"""Operators that reduce a dimension, or run along one."""

from __future__ import annotations

from collections.abc import Callable

from autoprune.graph.algebra import Expression, constant, size
from autoprune.graph.rules.call import Call, Dims, rule

_KEEPDIM_THIRD = ("aten.var.dim", "aten.std.dim", "aten.var_mean.dim", "aten.std_mean.dim")


@rule(
    "mean.dim", "mean.default", "sum.dim_IntList", "sum.default", "nansum.default", "amax.default", "amin.default",
    "logsumexp.default", "var.dim", "var.default", "var.correction", "std.dim", "std.default", "std.correction",
    "linalg_vector_norm.default", "norm.ScalarOpt_dim", "norm.Scalar", "norm.ScalarOpt_dtype", "frobenius_norm.dim",
)  # fmt: skip
def statistic(call: Call) -> Dims:
    """`... d ... -> ... (1) ...` over the units that are there."""
    return _reduced(call, call.read.append)


@rule("var_mean.correction", "var_mean.dim", "std_mean.correction", "std_mean.dim")
def statistics(call: Call) -> list[Dims]:
    """`... d ... -> ... (1) ..., ... (1) ...` over the units that are there."""
    return [_reduced(call, call.read.append)] * 2


@rule(
    "argmax.default", "argmin.default", "any.default", "any.dim", "any.dims", "all.default", "all.dim", "all.dims",
    "prod.dim_int", "prod.default", "max.default", "min.default", "median.default", "count_nonzero.dim_IntList",
)  # fmt: skip
def extremum(call: Call) -> Dims:
    """`... d ... -> ... (1) ...`; what it runs over stays."""
    return _reduced(call, lambda dimension: call.freeze(dimension, "reduces it"))


def _reduced(call: Call, over: Callable[[Expression], None]) -> Dims:
    x = call.of(call.args[0])
    second = "norm" in call.target  # norms have an order before the dimensions
    places = "default" not in call.target or call.target.split(".")[1] in _WITH_DIM
    axes = call.get(2 if second else 1, "dim") if places else None
    wanted = range(len(x)) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    reduced = {axis % len(x) for axis in wanted} if x else set()
    keep = call.get(3 if second or call.target in _KEEPDIM_THIRD else 2, "keepdim", False)
    for axis in reduced:
        over(x[axis])
    if keep is True:
        return [constant(1, "has a single unit") if axis in reduced else d for axis, d in enumerate(x)]
    return [d for axis, d in enumerate(x) if axis not in reduced]


_WITH_DIM = ("amax", "amin", "logsumexp", "argmax", "argmin", "linalg_vector_norm")


@rule(
    "max.dim", "min.dim", "median.dim", "nanmedian.dim", "mode.default", "kthvalue.default", "topk.default",
    "sort.default", "sort.stable", "argsort.default", "argsort.stable", "aminmax.default", "cummax.default",
    "cummin.default",
)  # fmt: skip
def extrema(call: Call) -> list[Dims]:
    """Values and places along a dimension, which stays."""
    x = call.of(call.args[0])
    axis = call.get(2 if "topk" in call.target or "kthvalue" in call.target else 1, "dim", -1)
    for place, dimension in enumerate(x):
        if axis is None or not isinstance(axis, int) or place == axis % len(x):
            call.freeze(dimension, "orders or compares its units")
    rest = x if len(call.shapes[0]) == len(x) or not isinstance(axis, int) else [*x[:axis], *x[axis % len(x) + 1 :]]
    return [[_same_or_fixed(d, units, call) for d, units in zip(rest, s, strict=False)] for s in call.shapes]


def _same_or_fixed(dimension: Expression, units: int, call: Call) -> Expression:
    if size(dimension) == units:
        return dimension
    call.freeze(dimension, "changes its size")
    return call.opaque(units, "sets this size")


@rule(
    "softmax.int", "log_softmax.int", "_softmax.default", "_log_softmax.default", "_safe_softmax.default",
    "cumsum.default", "cumprod.default", "logcumsumexp.default",
)  # fmt: skip
def along(call: Call) -> Dims:
    """`... d ... -> ... d ...`; units of d depend on each other."""
    x = call.of(call.args[0])
    call.freeze(x[call.get(1, "dim")], "runs along it")
    return x


@rule("diff.default")
def diff(call: Call) -> Dims:
    """`... d ... -> ... (d - 1) ...`; neighbours matter."""
    x = call.of(call.args[0])
    axis = call.get(2, "dim", -1) % len(x)
    call.freeze(x[axis], "compares neighbours in it")
    return [*x[:axis], call.opaque(call.shapes[0][axis], "sets this size"), *x[axis + 1 :]]

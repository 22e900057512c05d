"""Sums, means, extremes and norms along dimensions; what is found at which place."""

from __future__ import annotations

import math
from typing import Any

from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.pooling import only_first_is_read
from autoprune.graph.onnx.emitters.registry import emits, refuse, result_type
from autoprune.graph.program import Operation

_REDUCE = {
    "mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin", "prod": "ReduceProd",
    "logsumexp": "ReduceLogSumExp", "max": "ReduceMax", "min": "ReduceMin",
}  # fmt: skip


def _axes(context: Context, operation: Operation, wanted: Any) -> list[int]:
    """Axes counted from the front; all of them where none is named."""
    rank = context.rank(operation)
    return list(range(rank)) if wanted in (None, (), []) else [axis % rank for axis in context.integers(wanted)]


@emits(
    "mean.dim", "mean.default", "sum.dim_IntList", "sum.default", "amax.default", "amin.default", "prod.dim_int",
    "prod.default", "logsumexp.default", "max.default", "min.default",
)  # fmt: skip
def _reduce(context: Context, operation: Operation) -> None:
    kind = _REDUCE[operation.target.split(".")[1]]
    whole = operation.target in ("aten.mean.default", "aten.sum.default", "aten.prod.default")  # their 2nd is a type
    axes = _axes(context, operation, None if whole else operation.argument(1, "dim"))
    keep = 0 if whole else int(bool(operation.argument(2, "keepdim", False)))
    x = context.operand(operation.args[0], result_type(context, operation), f"{operation.name}.self")
    if kind == "ReduceMean" and context.rank(operation) == 4 and sorted(axes) == [2, 3]:
        # runtimes keep their blocked layout for it
        pooled = context.node("GlobalAveragePool", [x], [operation.name if keep else f"{operation.name}.pooled"])
        if not keep:
            context.node("Flatten", [pooled], [operation.name], axis=1)
        return
    if axes:
        context.node(kind, [x, context.constant(axes)], [operation.name], keepdims=keep)
    else:
        context.node("Identity", [x], [operation.name])


@emits("any.default", "any.dim", "any.dims", "all.default", "all.dim", "all.dims")
def _truth(context: Context, operation: Operation) -> None:
    kind = "ReduceMax" if "any" in operation.target else "ReduceMin"
    axes = _axes(context, operation, operation.argument(1, "dim"))
    keep = int(bool(operation.argument(2, "keepdim", False)))
    numbers = context.operand(operation.args[0], "bool", f"{operation.name}.truth")
    numbers = context.cast(numbers, "bool", "int32", f"{operation.name}.numbers")
    found = context.node(kind, [numbers, context.constant(axes)], [f"{operation.name}.found"], keepdims=keep)
    context.node("Cast", [found], [operation.name], to=9)


@emits("linalg_vector_norm.default")
def _norm(context: Context, operation: Operation) -> None:
    order = float(operation.argument(1, "ord", 2))
    axes = context.constant(_axes(context, operation, operation.argument(2, "dim")))
    keep = int(bool(operation.argument(3, "keepdim", False)))
    x = context.operand(operation.args[0], result_type(context, operation), f"{operation.name}.self")
    if order in (1.0, 2.0):
        context.node(f"ReduceL{int(order)}", [x, axes], [operation.name], keepdims=keep)
        return
    size = context.node("Abs", [x], [f"{operation.name}.size"])
    if math.isinf(order):
        context.node("ReduceMax" if order > 0 else "ReduceMin", [size, axes], [operation.name], keepdims=keep)
        return
    dtype = result_type(context, operation)
    power = context.node("Pow", [size, context.constant(order, dtype)], [f"{operation.name}.power"])
    total = context.node("ReduceSum", [power, axes], [f"{operation.name}.total"], keepdims=keep)
    context.node("Pow", [total, context.constant(1.0 / order, dtype)], [operation.name])


@emits(
    "var.correction", "var.dim", "var.default", "std.correction", "std.dim", "std.default",
    "var_mean.correction", "std_mean.correction",
)  # fmt: skip
def _variance(context: Context, operation: Operation) -> None:
    """The mean of squared distances from the mean, times `n / (n - correction)`."""
    name, dtype = operation.name, result_type(context, operation)
    _, kind, overload = operation.target.split(".")
    places = {"correction": (1, 99, 99), "dim": (1, 2, 3), "default": (99, 1, 99)}[overload]
    axes = _axes(context, operation, operation.argument(places[0], "dim"))
    unbiased = operation.argument(places[1], "unbiased", True)
    correction = operation.argument(99, "correction", 1) if overload == "correction" else int(unbiased)
    keep = int(bool(operation.argument(places[2], "keepdim", False)))
    shape = context.shape(operation)
    count = math.prod(shape[axis] for axis in axes)
    if any(shape[axis] < 0 for axis in axes):
        raise refuse(operation, "statistics along the batch")
    x, along = context.input(operation, 0, "self"), context.constant(axes)
    mean = context.node("ReduceMean", [x, along], [f"{name}.center"], keepdims=1)
    away = context.node("Sub", [x, mean], [f"{name}.away"])
    square = context.node("Mul", [away, away], [f"{name}.square"])
    spread = context.node("ReduceMean", [square, along], [f"{name}.spread"], keepdims=keep)
    factor = count / max(count - (1 if correction is None else correction), 0) if count else 1.0
    scaled = [spread, context.constant(factor, dtype)]
    if kind.startswith("std"):
        context.node("Sqrt", [context.node("Mul", scaled, [f"{name}.variance"])], [name])
    else:
        context.node("Mul", scaled, [name])
    if "mean" in kind:
        context.node("ReduceMean", [x, along], [operation.results[1]], keepdims=keep)


@emits("max.dim", "min.dim")
def _extreme(context: Context, operation: Operation) -> None:
    kind = "Max" if "max" in operation.target else "Min"
    axis, keep = context.axis(operation, 1), int(bool(operation.argument(2, "keepdim", False)))
    x = context.input(operation, 0, "self")
    context.node(f"Reduce{kind}", [x, context.constant([axis])], [operation.name], keepdims=keep)
    if not only_first_is_read(context, operation):
        context.node(f"Arg{kind}", [x], [operation.results[1]], axis=axis, keepdims=keep)


@emits("argmax.default", "argmin.default")
def _place(context: Context, operation: Operation) -> None:
    kind, name = ("ArgMax" if "max" in operation.target else "ArgMin"), operation.name
    x, keep = context.input(operation, 0, "self"), int(bool(operation.argument(2, "keepdim", False)))
    if operation.argument(1, "dim") is not None:
        context.node(kind, [x], [name], axis=context.axis(operation, 1), keepdims=keep)
        return
    flat = context.node("Reshape", [x, context.constant([-1])], [f"{name}.flat"])
    found = context.node(kind, [flat], [f"{name}.found"], axis=0, keepdims=0)
    context.reshape(found, context.dimensions(name), name)


@emits("topk.default", "sort.default", "sort.stable")
def _top(context: Context, operation: Operation) -> None:
    sort, stable = "sort" in operation.target, "stable" in operation.target
    axis = context.axis(operation, 2 if not sort or stable else 1, default=-1)
    if sort:
        count = context.shape(operation)[axis]
        largest = bool(operation.argument(3 if stable else 2, "descending", False))
    else:
        count, largest = context.integer(operation.argument(1, "k")), bool(operation.argument(3, "largest", True))
    if count < 0:
        raise refuse(operation, "an order along the batch")
    inputs = [context.input(operation, 0, "self"), context.constant([count])]
    context.node("TopK", inputs, list(operation.results), axis=axis, largest=int(largest), sorted=1)


@emits("cumsum.default")
def _running_sum(context: Context, operation: Operation) -> None:
    dtype, axis = result_type(context, operation), context.axis(operation, 1)
    x = context.operand(operation.args[0], dtype, f"{operation.name}.self")
    context.node("CumSum", [x, context.constant(axis)], [operation.name])


@emits("diff.default")
def _difference(context: Context, operation: Operation) -> None:
    if context.integer(operation.argument(1, "n", 1)) != 1:
        raise refuse(operation, "differences of differences")
    axis, name = context.axis(operation, 2, default=-1), operation.name
    parts = [operation.argument(3, "prepend"), operation.args[0], operation.argument(4, "append")]
    given = [context.name(part.name) for part in parts if part is not None]
    x = given[0] if len(given) == 1 else context.node("Concat", given, [f"{name}.whole"], axis=axis)
    ends = ((1, (1 << 63) - 1, "later"), (0, -1, "sooner"))
    later, sooner = (
        context.node("Slice", [x, *(context.constant([n]) for n in (first, end, axis))], [f"{name}.{label}"])
        for first, end, label in ends
    )
    if result_type(context, operation) == "bool":
        context.node("Xor", [later, sooner], [name])
    else:
        context.node("Sub", [later, sooner], [name])

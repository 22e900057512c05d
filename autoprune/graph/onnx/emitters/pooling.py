"""Pooling."""

from __future__ import annotations

import numpy as np

from autoprune.graph.dimension import Constant
from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.registry import emits, refuse, result_type
from autoprune.graph.program import Operation


def only_first_is_read(context: Context, operation: Operation) -> bool:
    """Whether no operation and no output reads any result but the first."""
    others = set(operation.results[1:])
    if not others:
        return True
    read = {name for other in context.program.operations for name in other.refs()}
    return not others & (read | {name for name in context.program.outputs if name is not None})


@emits(
    "max_pool1d.default", "max_pool2d.default", "max_pool3d.default",
    "max_pool2d_with_indices.default", "max_pool3d_with_indices.default",
)  # fmt: skip
def _max_pool(context: Context, operation: Operation) -> None:
    if not only_first_is_read(context, operation):
        raise refuse(operation, "the places of the maxima")
    spatial = context.rank(operation) - 2
    kernel = context.integers(operation.argument(1, "kernel_size"), spatial)
    stride = context.integers(operation.argument(2, "stride") or kernel, spatial)
    context.node(
        "MaxPool",
        [context.input(operation, 0, "self")],
        [operation.name],
        kernel_shape=kernel,
        strides=stride,
        pads=context.integers(operation.argument(3, "padding", 0), spatial) * 2,
        dilations=context.integers(operation.argument(4, "dilation", 1), spatial),
        ceil_mode=int(bool(operation.argument(5, "ceil_mode", False))),
    )


@emits("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default")
def _average_pool(context: Context, operation: Operation) -> None:
    spatial = context.rank(operation) - 2
    kernel = context.integers(operation.argument(1, "kernel_size"), spatial)
    stride = context.integers(operation.argument(2, "stride") or kernel, spatial)
    divisor = operation.argument(6, "divisor_override")
    inside = bool(operation.argument(5, "count_include_pad", True))
    ceil = bool(operation.argument(4, "ceil_mode", False))
    if divisor is not None and (ceil or not inside):
        raise refuse(operation, "divisor_override with windows that are not whole")
    pooled = context.node(
        "AveragePool",
        [context.input(operation, 0, "self")],
        [operation.name if divisor is None else f"{operation.name}.mean"],
        kernel_shape=kernel,
        strides=stride,
        pads=context.integers(operation.argument(3, "padding", 0), spatial) * 2,
        ceil_mode=int(ceil),
        count_include_pad=int(inside),
    )
    if divisor is not None:
        factor = context.constant(np.prod(kernel) / divisor, result_type(context, operation))
        context.node("Mul", [pooled, factor], [operation.name])


@emits(
    "adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default",
    "adaptive_max_pool1d.default", "adaptive_max_pool2d.default", "adaptive_max_pool3d.default",
)  # fmt: skip
def _adaptive_pool(context: Context, operation: Operation) -> None:
    kind = "Max" if "max" in operation.target else "Average"
    if not only_first_is_read(context, operation):
        raise refuse(operation, "the places of the maxima")
    spatial = context.rank(operation) - 2
    shape = context.shape(operation)[2:]
    wanted = context.value_shape(operation.name)[2:]
    x = context.input(operation, 0, "self")
    if all(size == 1 for size in wanted):
        context.node(f"Global{kind}Pool", [x], [operation.name])
    elif not any(have % want for have, want in zip(shape, wanted, strict=True)):
        kernel = [have // want for have, want in zip(shape, wanted, strict=True)]
        context.node(f"{kind}Pool", [x], [operation.name], kernel_shape=kernel, strides=kernel)
    elif kind == "Average" and spatial <= 2:
        _uneven_average(context, operation, x, shape, wanted)
    else:
        raise refuse(operation, f"{shape} is not a multiple of {wanted}")


def _uneven_average(context: Context, operation: Operation, x: str, shape: list[int], wanted: list[int]) -> None:
    """Windows of different sizes: a matrix of means along each axis."""
    dtype, name = result_type(context, operation), operation.name
    last = context.constant(_means(shape[-1], wanted[-1]).T, dtype)
    along = context.node("MatMul", [x, last], [name if len(shape) == 1 else f"{name}.along"])
    if len(shape) == 2:
        context.node("MatMul", [context.constant(_means(shape[0], wanted[0]), dtype), along], [name])


def _means(size: int, wanted: int) -> np.ndarray:
    """Row i averages torch's window i, from floor(i n / m) up to ceil((i + 1) n / m).  # (wanted, size)"""
    rows = np.zeros((wanted, size))
    for place in range(wanted):
        first, end = place * size // wanted, -(-(place + 1) * size // wanted)
        rows[place, first:end] = 1.0 / (end - first)
    return rows


@emits("channel_shuffle.default")
def _channel_shuffle(context: Context, operation: Operation) -> None:
    batch, channels, *rest = context.dimensions(operation.args[0].name)
    groups = context.integer(operation.argument(1, "groups"))
    if not isinstance(channels, Constant):
        raise refuse(operation, "channels that are the batch")
    grid = [batch, Constant(groups), Constant(channels.value // groups), *rest]
    split = context.reshape(context.input(operation, 0, "self"), grid, f"{operation.name}.grid")
    order = [0, 2, 1, *range(3, len(grid))]
    turned = context.node("Transpose", [split], [f"{operation.name}.turned"], perm=order)
    context.reshape(turned, context.dimensions(operation.name), operation.name)

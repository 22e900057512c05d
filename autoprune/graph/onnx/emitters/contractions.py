"""Convolutions and matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from autoprune.graph.dimension import Constant
from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.registry import emits, refuse, result_type
from autoprune.graph.program import Operation, Ref


@emits(
    "conv1d.default", "conv2d.default", "conv3d.default", "conv1d.padding", "conv2d.padding", "conv3d.padding",
)  # fmt: skip
def _convolution(context: Context, operation: Operation) -> None:
    inputs = [context.input(operation, 0, "input"), context.input(operation, 1, "weight")]
    if operation.argument(2, "bias") is not None:
        inputs.append(context.input(operation, 2, "bias"))
    kernel = context.shape(operation, 1, "weight")[2:]
    spatial = len(kernel)
    padding = operation.argument(4, "padding", 0)
    dilations = context.integers(operation.argument(5, "dilation", 1), spatial)
    context.node(
        "Conv",
        inputs,
        [operation.name],
        kernel_shape=kernel,
        strides=context.integers(operation.argument(3, "stride", 1), spatial),
        dilations=dilations,
        group=context.integer(operation.argument(6, "groups", 1)),
        **_padding(context, padding, kernel, dilations),
    )


def _padding(context: Context, padding: Any, kernel: list[int], dilations: list[int]) -> dict[str, Any]:
    if padding == "same":
        if all(dilation == 1 for dilation in dilations):
            return {"auto_pad": "SAME_UPPER"}
        total = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
        return {"pads": [amount // 2 for amount in total] + [amount - amount // 2 for amount in total]}
    return {"pads": context.integers(0 if padding == "valid" else padding, len(kernel)) * 2}


@emits("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
def _transposed_convolution(context: Context, operation: Operation) -> None:
    inputs = [context.input(operation, 0, "input"), context.input(operation, 1, "weight")]
    if operation.argument(2, "bias") is not None:
        inputs.append(context.input(operation, 2, "bias"))
    kernel = context.shape(operation, 1, "weight")[2:]
    spatial = len(kernel)
    context.node(
        "ConvTranspose",
        inputs,
        [operation.name],
        kernel_shape=kernel,
        strides=context.integers(operation.argument(3, "stride", 1), spatial),
        pads=context.integers(operation.argument(4, "padding", 0), spatial) * 2,
        output_padding=context.integers(operation.argument(5, "output_padding", 0), spatial),
        group=context.integer(operation.argument(6, "groups", 1)),
        dilations=context.integers(operation.argument(7, "dilation", 1), spatial),
    )


@emits("im2col.default")
def _patches(context: Context, operation: Operation) -> None:
    """Patches as columns: a depthwise convolution whose filters each pick one place of the kernel."""
    kernel, dilation, padding, stride = (context.integers(item, 2) for item in operation.args[1:5])
    channels, places = context.shape(operation)[1], kernel[0] * kernel[1]
    picks = np.tile(np.eye(places, dtype=np.float32).reshape(places, 1, *kernel), (channels, 1, 1, 1))
    patches = context.node(
        "Conv",
        [context.input(operation, 0, "self"), context.constant(picks, result_type(context, operation))],
        [f"{operation.name}.patches"],
        kernel_shape=kernel, strides=stride, dilations=dilation, pads=padding * 2, group=channels,
    )  # fmt: skip
    context.reshape(patches, context.dimensions(operation.name), operation.name)


@emits("col2im.default")
def _overlapped(context: Context, operation: Operation) -> None:
    """Columns back to an image, overlaps added: the transpose of `im2col`."""
    size, kernel, dilation, padding, stride = (context.integers(item, 2) for item in operation.args[1:6])
    places = kernel[0] * kernel[1]
    batch, columns, _ = context.dimensions(operation.args[0].name)
    channels = context.shape(operation)[1] // places
    steps = [
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, k, d, p, t in zip(size, kernel, dilation, padding, stride, strict=True)
    ]
    left = [
        s + 2 * p - d * (k - 1) - 1 - (n - 1) * t
        for s, k, d, p, t, n in zip(size, kernel, dilation, padding, stride, steps, strict=True)
    ]
    maps = [batch, columns, *map(Constant, steps)]
    grid = context.reshape(context.input(operation, 0, "self"), maps, f"{operation.name}.grid")
    picks = np.tile(np.eye(places, dtype=np.float32).reshape(places, 1, *kernel), (channels, 1, 1, 1))
    context.node(
        "ConvTranspose",
        [grid, context.constant(picks, result_type(context, operation))],
        [operation.name],
        kernel_shape=kernel, strides=stride, dilations=dilation, pads=padding * 2, group=channels, output_padding=left,
    )  # fmt: skip


@emits("linear.default")
def _linear(context: Context, operation: Operation) -> None:
    x, weight = context.input(operation, 0, "input"), context.input(operation, 1, "weight")
    bias = context.optional(operation, 2, "bias")
    if context.rank(operation, 0, "input") == 2:
        context.node("Gemm", [x, weight, bias] if bias else [x, weight], [operation.name], transB=1)
        return
    turned = context.node("Transpose", [weight], [f"{operation.name}.weight"], perm=[1, 0])
    product = context.node("MatMul", [x, turned], [f"{operation.name}.product" if bias else operation.name])
    if bias:
        context.node("Add", [product, bias], [operation.name])


@emits("matmul.default", "bmm.default", "mm.default", "mv.default", "dot.default")
def _matmul(context: Context, operation: Operation) -> None:
    names = ("self", "tensor" if "dot" in operation.target else "vec" if "mv" in operation.target else "mat2")
    right = operation.argument(1, names[1], operation.argument(1, "other"))
    if not isinstance(right, Ref):
        raise refuse(operation, "expected two tensors")
    context.node("MatMul", [context.input(operation, 0, "self"), context.name(right.name)], [operation.name])


@emits("addmm.default")
def _addmm(context: Context, operation: Operation) -> None:
    context.node(
        "Gemm",
        [context.input(operation, 1, "mat1"), context.input(operation, 2, "mat2"), context.input(operation, 0, "self")],
        [operation.name],
        alpha=float(operation.argument(99, "alpha", 1)),
        beta=float(operation.argument(99, "beta", 1)),
    )


@emits("baddbmm.default")
def _baddbmm(context: Context, operation: Operation) -> None:
    dtype = result_type(context, operation)
    base, left, right = (context.input(operation, i, name) for i, name in enumerate(("self", "batch1", "batch2")))
    product = context.node("MatMul", [left, right], [f"{operation.name}.product"])
    parts = []
    for name, value, label in ((base, "beta", "base"), (product, "alpha", "scaled")):
        factor = operation.argument(99, value, 1)
        if factor != 1:
            name = context.node("Mul", [name, context.constant(factor, dtype)], [f"{operation.name}.{label}"])
        if factor != 0:  # torch leaves out what counts for nothing, NaN included
            parts.append(name)
    context.node("Add" if len(parts) == 2 else "Identity", parts, [operation.name])


@emits("outer.default")
def _outer(context: Context, operation: Operation) -> None:
    column = context.node(
        "Unsqueeze", [context.input(operation, 0, "self"), context.constant([1])], [f"{operation.name}.column"]
    )
    context.node("Mul", [column, context.input(operation, 1, "vec2")], [operation.name])


@emits("einsum.default")
def _einsum(context: Context, operation: Operation) -> None:
    equation = str(operation.args[0]).replace(" ", "")
    parts = [context.name(item.name) for item in operation.args[1]]
    context.node("Einsum", parts, [operation.name], equation=equation)

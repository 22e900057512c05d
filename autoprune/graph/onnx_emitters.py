"""One emitter an ATen operator: what `autoprune.graph.onnx` writes for it.

Each takes the context and the operation, appends nodes, and leaves the operation's result under its own name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from autoprune.graph.fusion import is_whole_slice
from autoprune.graph.onnx_context import Context, UnsupportedOperator
from autoprune.graph.program import Operation, Ref

Emitter = Callable[[Context, Operation], None]
EMITTERS: dict[str, Emitter] = {}


def emits(*targets: str) -> Callable[[Emitter], Emitter]:
    """Register an emitter for ATen overloads (without `aten.`)."""

    def register(emitter: Emitter) -> Emitter:
        for target in targets:
            EMITTERS[f"aten.{target}"] = emitter
        return emitter

    return register


def _refuse(operation: Operation, detail: str) -> UnsupportedOperator:
    return UnsupportedOperator(operation.target, operation.name, detail)


# Convolution and matrix products


@emits("conv1d.default", "conv2d.default", "conv3d.default", "conv1d.padding", "conv2d.padding")
def _convolution(context: Context, operation: Operation) -> None:
    inputs = [context.input(operation, 0, "input"), context.input(operation, 1, "weight")]
    if operation.argument(2, "bias") is not None:
        inputs.append(context.input(operation, 2, "bias"))
    kernel = context.shape(operation, 1, "weight")[2:]
    spatial = len(kernel)
    padding = operation.argument(4, "padding", 0)
    attributes: dict[str, Any] = {}
    if padding == "same":
        attributes["auto_pad"] = "SAME_UPPER"
    else:
        attributes["pads"] = context.integers(0 if padding == "valid" else padding, spatial) * 2
    context.node(
        "Conv",
        inputs,
        [operation.name],
        kernel_shape=kernel,
        strides=context.integers(operation.argument(3, "stride", 1), spatial),
        dilations=context.integers(operation.argument(5, "dilation", 1), spatial),
        group=context.integer(operation.argument(6, "groups", 1)),
        **attributes,
    )


@emits("conv_transpose1d.default", "conv_transpose2d.input")
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


@emits("linear.default")
def _linear(context: Context, operation: Operation) -> None:
    x, weight = context.input(operation, 0, "input"), context.input(operation, 1, "weight")
    bias = context.optional(operation, 2, "bias")
    if context.rank(operation) == 2:
        context.node("Gemm", [x, weight, bias] if bias else [x, weight], [operation.name], transB=1)
        return
    turned = context.node("Transpose", [weight], [f"{operation.name}.weight"], perm=[1, 0])
    product = context.node("MatMul", [x, turned], [f"{operation.name}.product" if bias else operation.name])
    if bias:
        context.node("Add", [product, bias], [operation.name])


@emits("matmul.default", "bmm.default", "mm.default")
def _matmul(context: Context, operation: Operation) -> None:
    context.node(
        "MatMul", [context.input(operation, 0, "self"), context.input(operation, 1, "other")], [operation.name]
    )


@emits("addmm.default")
def _addmm(context: Context, operation: Operation) -> None:
    context.node(
        "Gemm",
        [context.input(operation, 1, "mat1"), context.input(operation, 2, "mat2"), context.input(operation, 0, "self")],
        [operation.name],
        alpha=float(operation.argument(99, "alpha", 1)),
        beta=float(operation.argument(99, "beta", 1)),
    )


# Normalisation


@emits("batch_norm.default")
def _batch_norm(context: Context, operation: Operation) -> None:
    channels = context.shape(operation)[1]
    ones, zeros = np.ones(channels), np.zeros(channels)
    if operation.argument(3, "running_mean") is None:
        raise _refuse(operation, "batch norm without running statistics depends on the batch")
    inputs = [
        context.input(operation, 0, "input"),
        context.optional(operation, 1, "weight") or context.constant(ones, "float32"),
        context.optional(operation, 2, "bias") or context.constant(zeros, "float32"),
        context.input(operation, 3, "running_mean"),
        context.input(operation, 4, "running_var"),
    ]
    context.node("BatchNormalization", inputs, [operation.name], epsilon=float(operation.argument(7, "eps", 1e-5)))


@emits("layer_norm.default")
def _layer_norm(context: Context, operation: Operation) -> None:
    shape = context.integers(operation.argument(1, "normalized_shape"))
    inputs = [
        context.input(operation, 0, "input"),
        context.optional(operation, 2, "weight") or context.constant(np.ones(shape), "float32"),
    ]
    bias = context.optional(operation, 3, "bias")
    epsilon = float(operation.argument(4, "eps", 1e-5))
    context.node(
        "LayerNormalization", [*inputs, bias] if bias else inputs, [operation.name], axis=-len(shape), epsilon=epsilon
    )


@emits("group_norm.default")
def _group_norm(context: Context, operation: Operation) -> None:
    """As instance norm over (batch, groups, everything else), scaled after."""
    shape = context.shape(operation)
    groups = context.integer(operation.argument(1, "num_groups"))
    x = context.input(operation, 0, "input")
    split = context.node("Reshape", [x, context.constant([0, groups, -1])], [f"{operation.name}.groups"])
    flat = [context.constant(np.ones(groups), "float32"), context.constant(np.zeros(groups), "float32")]
    epsilon = float(operation.argument(4, "eps", 1e-5))
    normal = context.node("InstanceNormalization", [split, *flat], [f"{operation.name}.normal"], epsilon=epsilon)
    current = context.node("Reshape", [normal, context.constant([0, *shape[1:]])], [f"{operation.name}.whole"])
    column = context.constant([shape[1], *[1] * (len(shape) - 2)])
    for position, label, kind in ((2, "weight", "Mul"), (3, "bias", "Add")):
        parameter = context.optional(operation, position, label)
        if parameter:
            turned = context.node("Reshape", [parameter, column], [f"{operation.name}.{label}"])
            current = context.node(kind, [current, turned], [f"{operation.name}.{kind}"])
    context.node("Identity", [current], [operation.name])


# Activations


def _plain(kind: str) -> Emitter:
    def emit(context: Context, operation: Operation) -> None:
        context.node(kind, [context.input(operation, 0, "self")], [operation.name])

    return emit


for _target, _kind in {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "neg": "Neg",
    "exp": "Exp",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "erf": "Erf",
    "log": "Log",
    "hardswish": "HardSwish",
    "mish": "Mish",
}.items():
    emits(f"{_target}.default", f"{_target}_.default")(_plain(_kind))


@emits("relu6.default", "relu6_.default")
def _relu6(context: Context, operation: Operation) -> None:
    _clip(context, operation, 0.0, 6.0)


@emits("hardtanh.default", "hardtanh_.default")
def _hardtanh(context: Context, operation: Operation) -> None:
    _clip(context, operation, operation.argument(1, "min_val", -1.0), operation.argument(2, "max_val", 1.0))


@emits("clamp.default", "clamp_.default")
def _clamp(context: Context, operation: Operation) -> None:
    _clip(context, operation, operation.argument(1, "min"), operation.argument(2, "max"))


def _clip(context: Context, operation: Operation, low: Any, high: Any) -> None:
    dtype = context.program.values[operation.name].dtype
    bounds = ["" if bound is None else context.constant(bound, dtype) for bound in (low, high)]
    context.node("Clip", [context.input(operation, 0, "self"), *bounds], [operation.name])


@emits("leaky_relu.default", "leaky_relu_.default")
def _leaky_relu(context: Context, operation: Operation) -> None:
    slope = float(operation.argument(1, "negative_slope", 0.01))
    context.node("LeakyRelu", [context.input(operation, 0, "self")], [operation.name], alpha=slope)


@emits("elu.default", "elu_.default")
def _elu(context: Context, operation: Operation) -> None:
    if operation.argument(2, "scale", 1) != 1 or operation.argument(3, "input_scale", 1) != 1:
        raise _refuse(operation, "scaled ELU")
    alpha = float(operation.argument(1, "alpha", 1))
    context.node("Elu", [context.input(operation, 0, "self")], [operation.name], alpha=alpha)


@emits("gelu.default", "gelu_.default")
def _gelu(context: Context, operation: Operation) -> None:
    kind = str(operation.argument(1, "approximate", "none"))
    context.node("Gelu", [context.input(operation, 0, "self")], [operation.name], approximate=kind)


@emits("silu.default", "silu_.default")
def _silu(context: Context, operation: Operation) -> None:
    x = context.input(operation, 0, "self")
    gate = context.node("Sigmoid", [x], [f"{operation.name}.gate"])
    context.node("Mul", [x, gate], [operation.name])


@emits("hardsigmoid.default", "hardsigmoid_.default")
def _hardsigmoid(context: Context, operation: Operation) -> None:
    context.node("HardSigmoid", [context.input(operation, 0, "self")], [operation.name], alpha=1 / 6, beta=0.5)


@emits("softplus.default")
def _softplus(context: Context, operation: Operation) -> None:
    if operation.argument(1, "beta", 1) != 1:
        raise _refuse(operation, "softplus with beta other than 1")
    context.node("Softplus", [context.input(operation, 0, "self")], [operation.name])


@emits("prelu.default")
def _prelu(context: Context, operation: Operation) -> None:
    slope = context.input(operation, 1, "weight")
    count = context.shape(operation, 1, "weight")[0]
    column = context.constant([count, *[1] * (context.rank(operation) - 2)])
    turned = context.node("Reshape", [slope, column], [f"{operation.name}.slope"])
    context.node("PRelu", [context.input(operation, 0, "self"), turned], [operation.name])


@emits("softmax.int", "log_softmax.int")
def _softmax(context: Context, operation: Operation) -> None:
    kind = "LogSoftmax" if "log" in operation.target else "Softmax"
    axis = context.integer(operation.argument(1, "dim"))
    context.node(kind, [context.input(operation, 0, "self")], [operation.name], axis=axis)


# Arithmetic


def _binary(kind: str) -> Emitter:
    def emit(context: Context, operation: Operation) -> None:
        if operation.argument(99, "rounding_mode") is not None:
            raise _refuse(operation, "division with rounding")
        dtype = context.program.values[operation.name].dtype
        left, right = operation.argument(0, "self"), operation.argument(1, "other")
        second = context.scalar(right, dtype)
        alpha = operation.argument(2, "alpha", 1)
        if alpha != 1:
            scaled = [second, context.constant(alpha, dtype)]
            second = context.node("Mul", scaled, [f"{operation.name}.scaled"])
        context.node(kind, [context.scalar(left, dtype), second], [operation.name])

    return emit


for _target, _kind in {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}.items():
    for _mark in ("", "_"):
        emits(f"{_target}{_mark}.Tensor", f"{_target}{_mark}.Scalar")(_binary(_kind))


@emits("pow.Tensor_Scalar")
def _power(context: Context, operation: Operation) -> None:
    dtype = context.program.values[operation.name].dtype
    exponent = context.scalar(operation.argument(1, "exponent"), dtype)
    context.node("Pow", [context.input(operation, 0, "self"), exponent], [operation.name])


@emits("rsqrt.default")
def _rsqrt(context: Context, operation: Operation) -> None:
    root = context.node("Sqrt", [context.input(operation, 0, "self")], [f"{operation.name}.root"])
    context.node("Reciprocal", [root], [operation.name])


# Shapes


@emits(
    "dropout.default",
    "dropout_.default",
    "feature_dropout.default",
    "alpha_dropout.default",
    "alias.default",
    "contiguous.default",
    "clone.default",
    "detach.default",
    "detach_.default",
    "lift_fresh_copy.default",
)
def _identity(context: Context, operation: Operation) -> None:
    item = operation.args[0]
    if not isinstance(item, Ref):
        raise _refuse(operation, "expected a tensor")
    context.alias(operation.name, item.name)


@emits("to.dtype", "_to_copy.default")
def _cast(context: Context, operation: Operation) -> None:
    before = context.program.values[operation.args[0].name].dtype
    after = context.program.values[operation.name].dtype
    if before != after:
        raise _refuse(operation, f"a cast from {before} to {after}")
    _identity(context, operation)


@emits(
    "view.default",
    "reshape.default",
    "_unsafe_view.default",
    "flatten.using_ints",
    "unflatten.int",
    "squeeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "unsqueeze.default",
)
def _reshape(context: Context, operation: Operation) -> None:
    """Every view is a reshape to the sizes of its result; the batch is the one size left free."""
    shape = context.value_shape(operation.name)
    if shape.count(-1) > 1:
        raise _refuse(operation, "the batch in several dimensions")
    if 0 in shape:
        raise _refuse(operation, "an empty tensor")
    context.node("Reshape", [context.input(operation, 0, "self"), context.constant(shape)], [operation.name])


@emits("permute.default")
def _permute(context: Context, operation: Operation) -> None:
    rank = context.rank(operation, 0, "self")
    order = [axis % rank for axis in context.integers(operation.argument(1, "dims"))]
    context.node("Transpose", [context.input(operation, 0, "self")], [operation.name], perm=order)


@emits("transpose.int", "t.default")
def _transpose(context: Context, operation: Operation) -> None:
    rank = context.rank(operation, 0, "self")
    first = context.integer(operation.argument(1, "dim0", 0)) % rank
    second = context.integer(operation.argument(2, "dim1", 1)) % rank
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    context.node("Transpose", [context.input(operation, 0, "self")], [operation.name], perm=order)


@emits("cat.default", "concat.default")
def _concatenate(context: Context, operation: Operation) -> None:
    parts = [context.name(item.name) for item in operation.argument(0, "tensors")]
    context.node("Concat", parts, [operation.name], axis=context.integer(operation.argument(1, "dim", 0)))


@emits("slice.Tensor")
def _slice(context: Context, operation: Operation) -> None:
    axis, step = context.integer(operation.argument(1, "dim", 0)), context.integer(operation.argument(4, "step", 1))
    start, end = operation.argument(2, "start"), operation.argument(3, "end")
    if is_whole_slice(operation):
        _identity(context, operation)
        return
    first = 0 if start is None else context.integer(start)
    last = np.iinfo(np.int64).max if end is None else context.integer(end)
    bounds = [context.constant([number]) for number in (first, last, axis, step)]
    context.node("Slice", [context.input(operation, 0, "self"), *bounds], [operation.name])


@emits("select.int")
def _select(context: Context, operation: Operation) -> None:
    axis = context.integer(operation.argument(1, "dim"))
    place = context.constant(context.integer(operation.argument(2, "index")))
    context.node("Gather", [context.input(operation, 0, "self"), place], [operation.name], axis=axis)


@emits("chunk.default", "split.Tensor", "split_with_sizes.default", "split.sizes")
def _split(context: Context, operation: Operation) -> None:
    """Sizes are those of the results, whatever way they were asked for."""
    rank = context.rank(operation, 0, "self")
    axis = context.integer(operation.argument(2, "dim", 0)) % rank
    sizes = [context.value_shape(name)[axis] for name in operation.results]
    inputs = [context.input(operation, 0, "self"), context.constant(sizes)]
    context.node("Split", inputs, list(operation.results), axis=axis)


@emits("constant_pad_nd.default", "pad.default")
def _pad(context: Context, operation: Operation) -> None:
    amounts = context.integers(operation.argument(1, "pad"))
    constant_only = "constant_pad" in operation.target
    mode = "constant" if constant_only else str(operation.argument(2, "mode", "constant"))
    number = operation.argument(2 if constant_only else 3, "value", 0.0) or 0.0
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    rank = context.rank(operation, 0, "self")
    before, after = [0] * rank, [0] * rank
    for position in range(len(amounts) // 2):  # torch names the last dimension first
        before[rank - 1 - position], after[rank - 1 - position] = amounts[2 * position], amounts[2 * position + 1]
    dtype = context.program.values[operation.name].dtype
    inputs = [context.input(operation, 0, "self"), context.constant(before + after)]
    if mode == "constant":
        inputs.append(context.constant(number, dtype))
    context.node("Pad", inputs, [operation.name], mode=names[mode])


# Pooling and reductions


@emits("max_pool1d.default", "max_pool2d.default")
def _max_pool(context: Context, operation: Operation) -> None:
    spatial = context.rank(operation, 0, "self") - 2
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


@emits("avg_pool1d.default", "avg_pool2d.default")
def _average_pool(context: Context, operation: Operation) -> None:
    if operation.argument(6, "divisor_override") is not None:
        raise _refuse(operation, "divisor_override")
    spatial = context.rank(operation, 0, "self") - 2
    kernel = context.integers(operation.argument(1, "kernel_size"), spatial)
    stride = context.integers(operation.argument(2, "stride") or kernel, spatial)
    context.node(
        "AveragePool",
        [context.input(operation, 0, "self")],
        [operation.name],
        kernel_shape=kernel,
        strides=stride,
        pads=context.integers(operation.argument(3, "padding", 0), spatial) * 2,
        ceil_mode=int(bool(operation.argument(4, "ceil_mode", False))),
        count_include_pad=int(bool(operation.argument(5, "count_include_pad", True))),
    )


@emits("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_max_pool2d.default")
def _adaptive_pool(context: Context, operation: Operation) -> None:
    kind = "Max" if "max" in operation.target else "Average"
    shape = context.shape(operation, 0, "self")[2:]
    wanted = context.integers(operation.argument(1, "output_size"), len(shape))
    x = context.input(operation, 0, "self")
    if all(size == 1 for size in wanted):
        context.node(f"Global{kind}Pool", [x], [operation.name])
        return
    if any(have % want for have, want in zip(shape, wanted, strict=True)):
        raise _refuse(operation, f"{shape} is not a multiple of {wanted}")
    kernel = [have // want for have, want in zip(shape, wanted, strict=True)]
    context.node(f"{kind}Pool", [x], [operation.name], kernel_shape=kernel, strides=kernel)


@emits("mean.dim", "sum.dim_IntList", "amax.default")
def _reduce(context: Context, operation: Operation) -> None:
    kind = {"mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax"}[operation.target.split(".")[1]]
    wanted = operation.argument(1, "dim")
    rank = context.rank(operation, 0, "self")
    axes = list(range(rank)) if wanted in (None, (), []) else [axis % rank for axis in context.integers(wanted)]
    keep = int(bool(operation.argument(2, "keepdim", False)))
    x = context.input(operation, 0, "self")
    if kind == "ReduceMean" and rank == 4 and sorted(axes) == [2, 3]:  # runtimes keep their blocked layout for it
        pooled = context.node("GlobalAveragePool", [x], [operation.name if keep else f"{operation.name}.pooled"])
        if not keep:
            context.node("Flatten", [pooled], [operation.name], axis=1)
        return
    context.node(kind, [x, context.constant(axes)], [operation.name], keepdims=keep)


@emits("upsample_nearest2d.vec", "upsample_bilinear2d.vec")
def _upsample(context: Context, operation: Operation) -> None:
    bilinear = "bilinear" in operation.target
    before = context.shape(operation)[2:]
    after = context.value_shape(operation.name)[2:]
    align = bilinear and bool(operation.argument(2, "align_corners", False))
    scales = context.constant([1.0, 1.0, *(b / a for a, b in zip(before, after, strict=True))], "float32")
    context.node(
        "Resize",
        [context.input(operation, 0, "input"), "", scales],
        [operation.name],
        mode="linear" if bilinear else "nearest",
        coordinate_transformation_mode="align_corners" if align else "half_pixel" if bilinear else "asymmetric",
        nearest_mode=None if bilinear else "floor",
    )


@emits("scaled_dot_product_attention.default")
def _attention(context: Context, operation: Operation) -> None:
    if operation.argument(5, "is_causal", False) or operation.argument(3, "attn_mask") is not None:
        raise _refuse(operation, "a masked attention")
    query, key, value = (context.input(operation, i, name) for i, name in enumerate(("query", "key", "value")))
    shape = context.shape(operation, 1, "key")
    rank, width = len(shape), shape[-1]
    given = operation.argument(6, "scale")
    scale = 1.0 / math.sqrt(width) if given is None else float(given)
    order = [*range(rank - 2), rank - 1, rank - 2]
    turned = context.node("Transpose", [key], [f"{operation.name}.key"], perm=order)
    scores = context.node("MatMul", [query, turned], [f"{operation.name}.scores"])
    scaled = context.node("Mul", [scores, context.constant(scale, "float32")], [f"{operation.name}.scaled"])
    weights = context.node("Softmax", [scaled], [f"{operation.name}.weights"], axis=-1)
    context.node("MatMul", [weights, value], [operation.name])


@emits("embedding.default")
def _embedding(context: Context, operation: Operation) -> None:
    inputs = [context.input(operation, 0, "weight"), context.input(operation, 1, "indices")]
    context.node("Gather", inputs, [operation.name], axis=0)


def _runtime_integer(context: Context, operation: Operation) -> None:
    """Sizes read while the model runs: every use of them is written from the sizes instead."""


for _target in ("aten.sym_size.int", "operator.mul", "operator.floordiv", "operator.add", "operator.sub"):
    EMITTERS[_target] = _runtime_integer

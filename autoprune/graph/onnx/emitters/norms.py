"""Normalisation."""

from __future__ import annotations

import numpy as np

from autoprune.graph.dimension import Constant
from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.pooling import only_first_is_read
from autoprune.graph.onnx.emitters.registry import emits, refuse, result_type
from autoprune.graph.program import Operation


@emits("batch_norm.default")
def _batch_norm(context: Context, operation: Operation) -> None:
    """With the statistics of one sample, as standardised weights ask for, it is an instance norm."""
    if operation.argument(3, "running_mean") is not None and not operation.argument(5, "training", False):
        _running_norm(context, operation)
    elif context.dimensions(operation.args[0].name)[0] == Constant(1):
        _own_norm(context, operation)
    else:
        raise refuse(operation, "batch norm without running statistics depends on the batch")


@emits("_native_batch_norm_legit_no_training.default")
def _native_batch_norm(context: Context, operation: Operation) -> None:
    if not only_first_is_read(context, operation):
        raise refuse(operation, "the statistics of the batch")
    _running_norm(context, operation, epsilon=float(operation.args[6]))


def _running_norm(context: Context, operation: Operation, epsilon: float | None = None) -> None:
    channels = context.shape(operation, 0, "input")[1]
    inputs = [
        context.input(operation, 0, "input"),
        context.optional(operation, 1, "weight") or context.constant(np.ones(channels), "float32"),
        context.optional(operation, 2, "bias") or context.constant(np.zeros(channels), "float32"),
        context.input(operation, 3, "running_mean"),
        context.input(operation, 4, "running_var"),
    ]
    epsilon = float(operation.argument(7, "eps", 1e-5)) if epsilon is None else epsilon
    context.node("BatchNormalization", inputs, [operation.name], epsilon=epsilon)


@emits("instance_norm.default")
def _instance_norm(context: Context, operation: Operation) -> None:
    if not operation.argument(5, "use_input_stats", True):
        _running_norm(context, operation)
        return
    _own_norm(context, operation)


def _own_norm(context: Context, operation: Operation) -> None:
    channels = context.shape(operation, 0, "input")[1]
    inputs = [
        context.input(operation, 0, "input"),
        context.optional(operation, 1, "weight") or context.constant(np.ones(channels), "float32"),
        context.optional(operation, 2, "bias") or context.constant(np.zeros(channels), "float32"),
    ]
    context.node("InstanceNormalization", inputs, [operation.name], epsilon=float(operation.argument(7, "eps", 1e-5)))


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


@emits("rms_norm.default")
def _rms_norm(context: Context, operation: Operation) -> None:
    """`x / sqrt(mean(x**2) + eps) * weight`, from its parts: this ONNX version has no operator for it."""
    shape = context.integers(operation.argument(1, "normalized_shape"))
    x, name, dtype = context.input(operation, 0, "input"), operation.name, result_type(context, operation)
    given = operation.argument(3, "eps")
    epsilon = float(np.finfo(dtype).eps) if given is None else float(given)
    weight = context.optional(operation, 2, "weight")
    square = context.node("Mul", [x, x], [f"{name}.square"])
    axes = context.constant(list(range(-len(shape), 0)))
    mean = context.node("ReduceMean", [square, axes], [f"{name}.mean"], keepdims=1)
    shifted = context.node("Add", [mean, context.constant(epsilon, dtype)], [f"{name}.shifted"])
    root = context.node("Sqrt", [shifted], [f"{name}.root"])
    normal = context.node("Div", [x, root], [f"{name}.normal" if weight else name])
    if weight:
        context.node("Mul", [normal, weight], [name])


@emits("group_norm.default")
def _group_norm(context: Context, operation: Operation) -> None:
    """As instance norm over (batch, groups, everything else), scaled after."""
    shape = context.dimensions(operation.argument(0, "input").name)
    groups = context.integer(operation.argument(1, "num_groups"))
    x = context.input(operation, 0, "input")
    split = context.node("Reshape", [x, context.constant([0, groups, -1])], [f"{operation.name}.groups"])
    flat = [context.constant(np.ones(groups), "float32"), context.constant(np.zeros(groups), "float32")]
    epsilon = float(operation.argument(4, "eps", 1e-5))
    normal = context.node("InstanceNormalization", [split, *flat], [f"{operation.name}.normal"], epsilon=epsilon)
    current = context.reshape(normal, shape, f"{operation.name}.whole")
    column = [shape[1], *[Constant(1)] * (len(shape) - 2)]
    for position, label, kind in ((2, "weight", "Mul"), (3, "bias", "Add")):
        parameter = context.optional(operation, position, label)
        if parameter:
            turned = context.reshape(parameter, column, f"{operation.name}.{label}")
            current = context.node(kind, [current, turned], [f"{operation.name}.{kind}"])
    context.node("Identity", [current], [operation.name])


@emits("_weight_norm.default")
def _weight_norm(context: Context, operation: Operation) -> None:
    """`g v / |v|`, the norm over all axes but `dim`."""
    axis, rank, name = context.integer(operation.argument(2, "dim", 0)), context.rank(operation, 0, "v"), operation.name
    others = [place for place in range(rank) if axis == -1 or place != axis % rank]
    v, g = context.input(operation, 0, "v"), context.input(operation, 1, "g")
    length = context.node("ReduceL2", [v, context.constant(others)], [f"{name}.length"], keepdims=1)
    unit = context.node("Div", [v, length], [f"{name}.unit"])
    context.node("Mul", [unit, g], [name])

"""Functions of one tensor, element by element."""

from __future__ import annotations

import math
from typing import Any

from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.registry import Emitter, emits, refuse, result_type
from autoprune.graph.program import Operation

_PLAIN = {
    "relu": "Relu", "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "round": "Round",
    "isnan": "IsNaN", "isinf": "IsInf", "logical_not": "Not", "hardswish": "HardSwish", "mish": "Mish",
}  # fmt: skip
_REAL = {  # of integers too: torch computes them as floats
    "sigmoid": "Sigmoid", "tanh": "Tanh", "exp": "Exp", "sqrt": "Sqrt", "erf": "Erf", "log": "Log", "sin": "Sin",
    "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh",
    "reciprocal": "Reciprocal",
}  # fmt: skip


def _self(context: Context, operation: Operation) -> str:
    """The operand, as a number of the result's type."""
    return context.operand(operation.argument(0, "self"), result_type(context, operation), f"{operation.name}.self")


def _plain(kind: str) -> Emitter:
    def emit(context: Context, operation: Operation) -> None:
        context.node(kind, [context.input(operation, 0, "self")], [operation.name])

    return emit


def _real(kind: str) -> Emitter:
    def emit(context: Context, operation: Operation) -> None:
        context.node(kind, [_self(context, operation)], [operation.name])

    return emit


for _target, _kind in _PLAIN.items():
    emits(f"{_target}.default")(_plain(_kind))
for _target, _kind in _REAL.items():
    emits(f"{_target}.default")(_real(_kind))


def _chain(*steps: tuple[str, float | None]) -> Emitter:
    """Nodes one behind the other, each with a number as its second operand where one is given."""

    def emit(context: Context, operation: Operation) -> None:
        current, dtype = _self(context, operation), result_type(context, operation)
        for place, (kind, number) in enumerate(steps):
            label = operation.name if place == len(steps) - 1 else f"{operation.name}.{kind}"
            operands = [current] if number is None else [current, context.constant(number, dtype)]
            current = context.node(kind, operands, [label])

    return emit


_CHAINS: dict[str, tuple[tuple[str, float | None], ...]] = {
    "rsqrt": (("Sqrt", None), ("Reciprocal", None)),
    "expm1": (("Exp", None), ("Sub", 1.0)),
    "log1p": (("Add", 1.0), ("Log", None)),
    "log2": (("Log", None), ("Div", math.log(2.0))),
    "log10": (("Log", None), ("Div", math.log(10.0))),
    "erfc": (("Erf", None), ("Neg", None), ("Add", 1.0)),
    "square": (("Pow", 2),),
    "log_sigmoid": (("Neg", None), ("Softplus", None), ("Neg", None)),
}
for _target, _steps in _CHAINS.items():
    emits(f"{_target}.default")(_chain(*_steps))


@emits("trunc.default")
def _trunc(context: Context, operation: Operation) -> None:
    x = context.input(operation, 0, "self")
    size = context.node("Abs", [x], [f"{operation.name}.size"])
    whole = context.node("Floor", [size], [f"{operation.name}.whole"])
    sign = context.node("Sign", [x], [f"{operation.name}.sign"])
    context.node("Mul", [whole, sign], [operation.name])


@emits("bitwise_not.default")
def _bitwise_not(context: Context, operation: Operation) -> None:
    kind = "Not" if result_type(context, operation) == "bool" else "BitwiseNot"
    context.node(kind, [context.input(operation, 0, "self")], [operation.name])


@emits("nan_to_num.default")
def _nan_to_num(context: Context, operation: Operation) -> None:
    dtype = result_type(context, operation)
    x = context.input(operation, 0, "self")
    largest = 3.4028234663852886e38
    for position, name, default, kind in (
        (1, "nan", 0.0, {}),
        (2, "posinf", largest, {"detect_negative": 0}),
        (3, "neginf", -largest, {"detect_positive": 0}),
    ):
        given = operation.argument(position, name)
        number = context.constant(default if given is None else given, dtype)
        found = context.node("IsInf" if kind else "IsNaN", [x], [f"{operation.name}.is_{name}"], **kind)
        label = operation.name if name == "neginf" else f"{operation.name}.{name}"
        x = context.node("Where", [found, number, x], [label])


# Bounds


@emits("relu6.default")
def _relu6(context: Context, operation: Operation) -> None:
    _clip(context, operation, 0.0, 6.0)


@emits("hardtanh.default")
def _hardtanh(context: Context, operation: Operation) -> None:
    _clip(context, operation, operation.argument(1, "min_val", -1.0), operation.argument(2, "max_val", 1.0))


@emits("clamp.default", "clip.default", "clamp.Tensor")
def _clamp(context: Context, operation: Operation) -> None:
    _clip(context, operation, operation.argument(1, "min"), operation.argument(2, "max"))


@emits("clamp_min.default", "clamp_min.Tensor")
def _clamp_min(context: Context, operation: Operation) -> None:
    _clip(context, operation, operation.argument(1, "min"), None)


@emits("clamp_max.default", "clamp_max.Tensor")
def _clamp_max(context: Context, operation: Operation) -> None:
    _clip(context, operation, None, operation.argument(1, "max"))


def _clip(context: Context, operation: Operation, low: Any, high: Any) -> None:
    dtype = result_type(context, operation)
    if "Tensor" not in operation.target:
        bounds = ["" if bound is None else context.constant(bound, dtype) for bound in (low, high)]
        context.node("Clip", [_self(context, operation), *bounds], [operation.name])
        return
    current = _self(context, operation)
    for kind, bound in (("Max", low), ("Min", high)):
        if bound is not None:
            other = context.operand(bound, dtype, f"{operation.name}.{kind}.bound")
            current = context.node(kind, [current, other], [f"{operation.name}.{kind}"])
    context.node("Identity", [current], [operation.name])


# Activations


@emits("leaky_relu.default")
def _leaky_relu(context: Context, operation: Operation) -> None:
    slope = float(operation.argument(1, "negative_slope", 0.01))
    context.node("LeakyRelu", [context.input(operation, 0, "self")], [operation.name], alpha=slope)


@emits("rrelu.default")
def _random_leaky_relu(context: Context, operation: Operation) -> None:
    """In inference the slope is the middle of its range."""
    slope = (float(operation.argument(1, "lower", 1 / 8)) + float(operation.argument(2, "upper", 1 / 3))) / 2
    context.node("LeakyRelu", [context.input(operation, 0, "self")], [operation.name], alpha=slope)


@emits("elu.default")
def _elu(context: Context, operation: Operation) -> None:
    alpha, scale, inner = (
        float(operation.argument(i, n, 1)) for i, n in enumerate(("alpha", "scale", "input_scale"), 1)
    )
    x = context.input(operation, 0, "self")
    if scale == inner == 1.0:
        context.node("Elu", [x], [operation.name], alpha=alpha)
    elif inner == 1.0 and scale > 0.0:
        context.node("Selu", [x], [operation.name], alpha=alpha, gamma=scale)
    else:
        raise refuse(operation, "ELU with an input scale")


@emits("selu.default")
def _selu(context: Context, operation: Operation) -> None:
    context.node("Selu", [context.input(operation, 0, "self")], [operation.name])


@emits("celu.default")
def _celu(context: Context, operation: Operation) -> None:
    alpha = float(operation.argument(1, "alpha", 1))
    context.node("Celu", [context.input(operation, 0, "self")], [operation.name], alpha=alpha)


@emits("gelu.default")
def _gelu(context: Context, operation: Operation) -> None:
    kind = str(operation.argument(1, "approximate", "none"))
    context.node("Gelu", [context.input(operation, 0, "self")], [operation.name], approximate=kind)


@emits("silu.default")
def _silu(context: Context, operation: Operation) -> None:
    x = context.input(operation, 0, "self")
    gate = context.node("Sigmoid", [x], [f"{operation.name}.gate"])
    context.node("Mul", [x, gate], [operation.name])


@emits("hardsigmoid.default")
def _hardsigmoid(context: Context, operation: Operation) -> None:
    context.node("HardSigmoid", [context.input(operation, 0, "self")], [operation.name], alpha=1 / 6, beta=0.5)


@emits("softplus.default")
def _softplus(context: Context, operation: Operation) -> None:
    """`log(1 + exp(beta x)) / beta`; above a threshold torch goes over to x, which float32 cannot tell from it."""
    beta = float(operation.argument(1, "beta", 1))
    x = context.input(operation, 0, "self")
    if beta == 1.0:
        context.node("Softplus", [x], [operation.name])
        return
    factor = context.constant(beta, result_type(context, operation))
    scaled = context.node("Mul", [x, factor], [f"{operation.name}.scaled"])
    soft = context.node("Softplus", [scaled], [f"{operation.name}.soft"])
    context.node("Div", [soft, factor], [operation.name])


@emits("hardshrink.default", "softshrink.default")
def _shrink(context: Context, operation: Operation) -> None:
    bound = float(operation.argument(1, "lambd", 0.5))
    bias = bound if "soft" in operation.target else 0.0
    context.node("Shrink", [context.input(operation, 0, "self")], [operation.name], lambd=bound, bias=bias)


@emits("threshold.default")
def _threshold(context: Context, operation: Operation) -> None:
    dtype, x = result_type(context, operation), context.input(operation, 0, "self")
    above = context.node("Greater", [x, context.constant(operation.args[1], dtype)], [f"{operation.name}.above"])
    context.node("Where", [above, x, context.constant(operation.args[2], dtype)], [operation.name])


@emits("prelu.default")
def _prelu(context: Context, operation: Operation) -> None:
    slope = context.input(operation, 1, "weight")
    count = context.shape(operation, 1, "weight")[0]
    column = context.constant([count, *[1] * (context.rank(operation) - 2)])
    turned = context.node("Reshape", [slope, column], [f"{operation.name}.slope"])
    context.node("PRelu", [context.input(operation, 0, "self"), turned], [operation.name])


@emits("glu.default")
def _glu(context: Context, operation: Operation) -> None:
    axis = context.axis(operation, 1, default=-1)
    half = context.shape(operation)[axis] // 2
    parts = [f"{operation.name}.value", f"{operation.name}.gate"]
    context.node("Split", [context.input(operation, 0, "self"), context.constant([half, half])], parts, axis=axis)
    gate = context.node("Sigmoid", [parts[1]], [f"{operation.name}.open"])
    context.node("Mul", [parts[0], gate], [operation.name])


@emits("softmax.int", "log_softmax.int")
def _softmax(context: Context, operation: Operation) -> None:
    kind = "LogSoftmax" if "log" in operation.target else "Softmax"
    context.node(kind, [_self(context, operation)], [operation.name], axis=context.axis(operation, 1))

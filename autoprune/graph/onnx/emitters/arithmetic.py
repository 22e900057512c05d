"""Arithmetic of two tensors, or a tensor and a number, with broadcasting; powers, and sums of products."""

from __future__ import annotations

from typing import Any

from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.registry import Emitter, emits, result_type
from autoprune.graph.program import Operation

_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}
_EXTREMES = {"maximum.default": "Max", "minimum.default": "Min", "max.other": "Max", "min.other": "Min"}


def operands(context: Context, operation: Operation, dtype: str) -> list[str]:
    """Both operands as numbers of one type."""
    return [
        context.operand(operation.argument(place, label), dtype, f"{operation.name}.{label}")
        for place, label in enumerate(("self", "other"))
    ]


def _alpha(context: Context, operation: Operation, scaled: str, dtype: str) -> str:
    """`other`, multiplied as `add` and `sub` ask for."""
    alpha = operation.argument(2, "alpha", 1)
    if alpha == 1:
        return scaled
    return context.node("Mul", [scaled, context.constant(alpha, dtype)], [f"{operation.name}.scaled"])


def _binary(kind: str) -> Emitter:
    def emit(context: Context, operation: Operation) -> None:
        dtype = result_type(context, operation)
        if dtype == "bool":  # torch adds and multiplies truth values as OR and AND
            logic = {"Add": "Or", "Mul": "And", "Max": "Or", "Min": "And"}[kind]
            context.node(logic, operands(context, operation, dtype), [operation.name])
            return
        left, right = operands(context, operation, dtype)
        if kind in ("Add", "Sub"):
            right = _alpha(context, operation, right, dtype)
        context.node(kind, [left, right], [operation.name])

    return emit


for _target, _kind in _BINARY.items():
    emits(f"{_target}.Tensor", f"{_target}.Scalar")(_binary(_kind))
for _target, _kind in _EXTREMES.items():
    emits(_target)(_binary(_kind))


@emits("rsub.Tensor", "rsub.Scalar")
def _reversed_difference(context: Context, operation: Operation) -> None:
    dtype = result_type(context, operation)
    left, right = operands(context, operation, dtype)
    scaled = _alpha(context, operation, left, dtype)
    context.node("Sub", [right, scaled], [operation.name])


@emits("div.Tensor_mode", "div.Scalar_mode", "floor_divide.default")
def _rounded_division(context: Context, operation: Operation) -> None:
    dtype = result_type(context, operation)
    mode = "floor" if "floor_divide" in operation.target else operation.argument(99, "rounding_mode")
    if mode is None:
        context.node("Div", operands(context, operation, dtype), [operation.name])
        return
    exact = dtype if dtype.startswith("float") else "float64"  # ONNX divides integers towards zero
    quotient = context.node("Div", operands(context, operation, exact), [f"{operation.name}.quotient"])
    if mode == "trunc":
        size = context.node("Abs", [quotient], [f"{operation.name}.size"])
        whole = context.node("Floor", [size], [f"{operation.name}.whole"])
        sign = context.node("Sign", [quotient], [f"{operation.name}.sign"])
        rounded = context.node("Mul", [whole, sign], [f"{operation.name}.rounded"])
    else:
        rounded = context.node("Floor", [quotient], [f"{operation.name}.rounded"])
    result = context.cast(rounded, exact, dtype, operation.name)
    context.node("Identity", [result], [operation.name])


@emits("remainder.Tensor", "remainder.Scalar", "fmod.Tensor", "fmod.Scalar")
def _remainder(context: Context, operation: Operation) -> None:
    """`remainder` has the sign of the divisor, `fmod` that of the dividend."""
    dtype = result_type(context, operation)
    left, right = operands(context, operation, dtype)
    if "fmod" in operation.target or not dtype.startswith("float"):
        context.node("Mod", [left, right], [operation.name], fmod=int("fmod" in operation.target))
        return
    quotient = context.node("Div", [left, right], [f"{operation.name}.quotient"])
    whole = context.node("Floor", [quotient], [f"{operation.name}.whole"])
    taken = context.node("Mul", [whole, right], [f"{operation.name}.taken"])
    context.node("Sub", [left, taken], [operation.name])


@emits("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def _power(context: Context, operation: Operation) -> None:
    dtype = result_type(context, operation)
    base = context.operand(operation.argument(0, "self"), dtype, f"{operation.name}.self")
    exponent = context.operand(operation.argument(1, "exponent"), dtype, f"{operation.name}.exponent")
    context.node("Pow", [base, exponent], [operation.name])


@emits("addcmul.default", "addcdiv.default")
def _add_product(context: Context, operation: Operation) -> None:
    dtype = result_type(context, operation)
    base, first, second = (
        context.operand(operation.argument(place, label), dtype, f"{operation.name}.{label}")
        for place, label in enumerate(("self", "tensor1", "tensor2"))
    )
    kind = "Mul" if "mul" in operation.target else "Div"
    product = context.node(kind, [first, second], [f"{operation.name}.product"])
    value: Any = operation.argument(3, "value", 1)
    if value != 1:
        product = context.node("Mul", [product, context.constant(value, dtype)], [f"{operation.name}.scaled"])
    context.node("Add", [base, product], [operation.name])


@emits("lerp.Scalar", "lerp.Tensor")
def _lerp(context: Context, operation: Operation) -> None:
    dtype = result_type(context, operation)
    start, end, weight = (
        context.operand(operation.argument(place, label), dtype, f"{operation.name}.{label}")
        for place, label in enumerate(("self", "end", "weight"))
    )
    span = context.node("Sub", [end, start], [f"{operation.name}.span"])
    part = context.node("Mul", [span, weight], [f"{operation.name}.part"])
    context.node("Add", [start, part], [operation.name])

"""Comparisons, logic and choices."""

from __future__ import annotations

import torch

from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.arithmetic import operands
from autoprune.graph.onnx.emitters.registry import Emitter, emits, result_type
from autoprune.graph.program import Operation, Ref

_COMPARISONS = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}
_LOGIC = {"and": "And", "or": "Or", "xor": "Xor"}
_BITS = {"And": "BitwiseAnd", "Or": "BitwiseOr", "Xor": "BitwiseXor"}


def _common_type(context: Context, operation: Operation) -> str:
    """The type two operands are compared in."""
    samples = []
    for place, label in enumerate(("self", "other")):
        item = operation.argument(place, label)
        if isinstance(item, Ref):
            dimensions = len(context.program.values[item.name].dimensions) if item.name in context.program.values else 0
            samples.append(torch.empty([1] * dimensions, dtype=getattr(torch, context.dtype(item.name))))
        else:
            samples.append(item)
    return str(torch.result_type(*samples)).removeprefix("torch.")


def _comparison(kind: str) -> Emitter:
    def emit(context: Context, operation: Operation) -> None:
        dtype = _common_type(context, operation)
        if dtype == "bool" and kind != "Equal":  # ONNX orders numbers only
            dtype = "int32"
        context.node(kind, operands(context, operation, dtype), [operation.name])

    return emit


for _target, _kind in _COMPARISONS.items():
    emits(f"{_target}.Tensor", f"{_target}.Scalar")(_comparison(_kind))


@emits("ne.Tensor", "ne.Scalar")
def _not_equal(context: Context, operation: Operation) -> None:
    both = operands(context, operation, _common_type(context, operation))
    equal = context.node("Equal", both, [f"{operation.name}.equal"])
    context.node("Not", [equal], [operation.name])


def _logic(kind: str) -> Emitter:
    def emit(context: Context, operation: Operation) -> None:
        context.node(kind, operands(context, operation, "bool"), [operation.name])

    return emit


def _bits(kind: str) -> Emitter:
    def emit(context: Context, operation: Operation) -> None:
        dtype = result_type(context, operation)
        name = kind if dtype == "bool" else _BITS[kind]
        context.node(name, operands(context, operation, dtype), [operation.name])

    return emit


for _target, _kind in _LOGIC.items():
    emits(f"logical_{_target}.default")(_logic(_kind))
    for _overload in ("Tensor", "Scalar"):
        emits(f"bitwise_{_target}.{_overload}", f"__{_target}__.{_overload}")(_bits(_kind))


@emits("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(context: Context, operation: Operation) -> None:
    dtype = result_type(context, operation)
    condition = context.operand(operation.argument(0, "condition"), "bool", f"{operation.name}.condition")
    chosen = context.operand(operation.argument(1, "self"), dtype, f"{operation.name}.self")
    other = context.operand(operation.argument(2, "other"), dtype, f"{operation.name}.other")
    context.node("Where", [condition, chosen, other], [operation.name])


@emits("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(context: Context, operation: Operation) -> None:
    dtype = result_type(context, operation)
    mask = context.operand(operation.argument(1, "mask"), "bool", f"{operation.name}.mask")
    value = context.operand(operation.argument(2, "value"), dtype, f"{operation.name}.value")
    context.node("Where", [mask, value, context.input(operation, 0, "self")], [operation.name])

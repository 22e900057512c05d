"""Tensors made out of nothing but sizes; those without the batch in them are folded (see `autoprune.graph.folding`)."""

from __future__ import annotations

from typing import Any

from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.registry import emits, result_type
from autoprune.graph.program import Operation

_NUMBERS = {"zeros": 0, "new_zeros": 0, "zeros_like": 0, "ones": 1, "new_ones": 1, "ones_like": 1}


@emits(*(f"{name}.default" for name in _NUMBERS), "empty.memory_format", "new_empty.default", "empty_like.default")
def _numbers(context: Context, operation: Operation) -> None:
    """Zeros where nothing is said: nothing may depend on what is in an empty tensor."""
    _filled(context, operation, _NUMBERS.get(operation.target.split(".")[1], 0))


@emits("full.default", "full_like.default", "scalar_tensor.default")
def _full(context: Context, operation: Operation) -> None:
    _filled(context, operation, operation.args[0 if "scalar" in operation.target else 1])


@emits("new_full.default")
def _new_full(context: Context, operation: Operation) -> None:
    _filled(context, operation, operation.args[2])


def _filled(context: Context, operation: Operation, value: Any) -> None:
    number = context.operand(value, result_type(context, operation), f"{operation.name}.value")
    sizes = context.sizes(context.dimensions(operation.name), operation.name)
    context.node("Expand", [number, sizes], [operation.name])


@emits("arange.default", "arange.start", "arange.start_step")
def _range(context: Context, operation: Operation) -> None:
    name, dtype = operation.name, result_type(context, operation)
    given = list(operation.args)
    start, end, step = ([0, given[0], 1], [*given[:2], 1], given[:3])[len(given) - 1]
    bounds = [context.operand(item, dtype, f"{name}.{label}") for item, label in ((start, "start"), (end, "end"))]
    context.node("Range", [*bounds, context.operand(step, dtype, f"{name}.step")], [name])

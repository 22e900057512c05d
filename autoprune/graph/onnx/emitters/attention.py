"""Scaled dot-product attention as the parts that runtimes run: two products, a mask and a softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from autoprune.graph.dimension import Constant, Dimension, has_batch
from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.registry import emits, refuse, result_type
from autoprune.graph.program import Operation, Ref

_LOWEST = float(np.finfo(np.float32).min)


@emits("scaled_dot_product_attention.default")
def _attention(context: Context, operation: Operation) -> None:
    query, key, value = (context.input(operation, i, name) for i, name in enumerate(("query", "key", "value")))
    shape = context.dimensions(operation.argument(0, "query").name)
    given = context.dimensions(operation.argument(1, "key").name)
    together = _grouped(operation, shape, given)
    dtype = result_type(context, operation)
    if together is not None:
        query = context.reshape(query, together, f"{operation.name}.query")
    order = [*range(len(given) - 2), len(given) - 1, len(given) - 2]
    turned = context.node("Transpose", [key], [f"{operation.name}.key"], perm=order)
    scores = context.node("MatMul", [query, turned], [f"{operation.name}.scores"])
    if together is not None:
        scores = context.reshape(scores, [*shape[:-1], given[-2]], f"{operation.name}.heads")
    factor = context.constant(_scale(operation, given[-1]), dtype)
    scaled = context.node("Mul", [scores, factor], [f"{operation.name}.scaled"])
    weights = _weights(context, operation, scaled, shape[-2], given[-2])
    if together is None:
        context.node("MatMul", [weights, value], [operation.name])
        return
    weights = context.reshape(weights, [*together[:-1], given[-2]], f"{operation.name}.grouped")
    mixed = context.node("MatMul", [weights, value], [f"{operation.name}.mixed"])
    context.reshape(mixed, context.dimensions(operation.name), operation.name)


def _scale(operation: Operation, width: Dimension) -> float:
    given = operation.argument(6, "scale")
    if given is not None:
        return float(given)
    if not isinstance(width, Constant):
        raise refuse(operation, "a head width that is the batch")
    return 1.0 / math.sqrt(width.value)


def _grouped(operation: Operation, query: list[Dimension], key: list[Dimension]) -> list[Dimension] | None:
    """Dimensions of the query where several of its heads share one of the key's: their rows under one another.

    No copy of the keys is made, and the reshapes cost nothing.
    """
    if len(query) < 3 or not operation.argument(7, "enable_gqa", False) or query[-3] == key[-3]:
        return None
    heads, shared, rows = query[-3], key[-3], query[-2]
    if not (isinstance(heads, Constant) and isinstance(shared, Constant) and isinstance(rows, Constant)):
        raise refuse(operation, "grouped queries along the batch")
    return [*query[:-3], shared, Constant(heads.value // shared.value * rows.value), query[-1]]


def _weights(context: Context, operation: Operation, scores: str, rows: Dimension, columns: Dimension) -> str:
    """The softmax of masked scores. A row that is masked everywhere becomes zeros, as in torch."""
    dtype, name = result_type(context, operation), operation.name
    mask: Any = operation.argument(3, "attn_mask")
    if operation.argument(5, "is_causal", False):
        if has_batch(rows) or has_batch(columns):
            raise refuse(operation, "a causal mask along the batch")
        count, length = (d.value for d in (rows, columns) if isinstance(d, Constant))
        hidden = context.constant(np.where(np.tri(count, length), 0.0, _LOWEST), dtype)
        scores = context.node("Add", [scores, hidden], [f"{name}.causal"])
    if not isinstance(mask, Ref):
        return context.node("Softmax", [scores], [f"{name}.weights"], axis=-1)
    if context.dtype(mask.name) != "bool":
        added = context.operand(mask, dtype, f"{name}.mask")
        masked = context.node("Add", [scores, added], [f"{name}.masked"])
        return context.node("Softmax", [masked], [f"{name}.weights"], axis=-1)
    shown = context.name(mask.name)
    masked = context.node("Where", [shown, scores, context.constant(_LOWEST, dtype)], [f"{name}.masked"])
    soft = context.node("Softmax", [masked], [f"{name}.soft"], axis=-1)
    return context.node("Where", [shown, soft, context.constant(0.0, dtype)], [f"{name}.weights"])

"""Writing at places: what export makes of assignments to parts of a tensor."""

from __future__ import annotations

import numpy as np

from autoprune.graph.dimension import Constant
from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.indexing import index_tensors, places
from autoprune.graph.onnx.emitters.registry import emits, refuse, result_type
from autoprune.graph.program import Operation, Ref


@emits("copy.default", "fill.Tensor", "fill.Scalar")
def _fill(context: Context, operation: Operation) -> None:
    """The other operand, in the shape of the first."""
    dtype, name = result_type(context, operation), operation.name
    value = context.operand(operation.args[1], dtype, f"{name}.value")
    sizes = context.sizes(context.dimensions(name), name)
    context.node("Expand", [value, sizes], [name])


@emits("slice_scatter.default", "select_scatter.default")
def _replace_part(context: Context, operation: Operation) -> None:
    """The tensor and its new part side by side, and a gather that takes each place from one of the two."""
    name, axis = operation.name, context.axis(operation, 2)
    size, source = context.shape(operation)[axis], operation.argument(1, "src")
    x, part = (
        context.input(operation, 0, "self"),
        context.operand(source, result_type(context, operation), f"{name}.src"),
    )
    if context.dimensions(source.name) == context.dimensions(name):
        context.node("Identity", [part], [name])
        return
    if size < 0:
        raise refuse(operation, "a part of the batch")
    if "select" in operation.target:
        part = context.node("Unsqueeze", [part, context.constant([axis])], [f"{name}.column"])
        written = [context.integer(operation.argument(3, "index")) % size]
    else:
        start, end = operation.argument(3, "start"), operation.argument(4, "end")
        first = None if start is None else context.integer(start)
        last = None if end is None else context.integer(end)
        written = list(range(size))[first : last : context.integer(operation.argument(5, "step", 1))]
    index = np.arange(size)
    index[written] = size + np.arange(len(written))
    both = context.node("Concat", [x, part], [f"{name}.both"], axis=axis)
    context.node("Gather", [both, context.constant(index)], [name], axis=axis)


@emits("index_put.default")
def _index_put(context: Context, operation: Operation) -> None:
    name, dtype = operation.name, result_type(context, operation)
    accumulate = bool(operation.argument(3, "accumulate", False))
    masks = [item for item in operation.args[1] if item is not None and context.dtype(item.name) == "bool"]
    x, value = context.input(operation, 0, "self"), operation.args[2]
    if len(masks) == 1 and len(operation.args[1]) == 1 and not accumulate:
        _put_where(context, operation, masks[0])
        return
    used = index_tensors(context, operation)
    if list(used) != list(range(len(used))):
        raise refuse(operation, "indices behind a dimension that stays")
    index = places(context, operation, used)
    updates = context.operand(value, dtype, f"{name}.value")
    wide = max(len(context.dimensions(item)) for item in used.values())
    shape = context.node("Shape", [index], [f"{name}.lead"], start=0, end=wide)
    rest = context.sizes(context.dimensions(operation.args[0].name)[len(used) :], f"{name}.rest")
    whole = context.node("Concat", [shape, rest], [f"{name}.whole"], axis=0)
    updates = context.node("Expand", [updates, whole], [f"{name}.updates"])
    reduction = "add" if accumulate else None
    context.node("ScatterND", [x, index, updates], [name], reduction=reduction)


def _put_where(context: Context, operation: Operation, mask: Ref) -> None:
    """One value wherever a mask says so."""
    value, name = operation.args[2], operation.name
    if any(dimension != Constant(1) for dimension in context.dimensions(value.name)):
        raise refuse(operation, "several values at the places of a mask")
    rank, own = context.rank(operation), context.dimensions(mask.name)
    shown = context.reshape(context.name(mask.name), [*own, *[Constant(1)] * (rank - len(own))], f"{name}.mask")
    number = context.operand(value, result_type(context, operation), f"{name}.value")
    context.node("Where", [shown, number, context.input(operation, 0, "self")], [name])


@emits("scatter.src", "scatter.value", "scatter_add.default")
def _scatter(context: Context, operation: Operation) -> None:
    name, dtype = operation.name, result_type(context, operation)
    index, source = operation.argument(2, "index"), operation.args[3]
    updates = context.operand(source, dtype, f"{name}.value")
    if not isinstance(source, Ref):
        sizes = context.sizes(context.dimensions(index.name), f"{name}.index")
        updates = context.node("Expand", [updates, sizes], [f"{name}.updates"])
    elif context.dimensions(source.name) != context.dimensions(index.name):
        raise refuse(operation, "an index smaller than its source")
    context.node(
        "ScatterElements",
        [context.input(operation, 0, "self"), context.name(index.name), updates],
        [name],
        axis=context.axis(operation, 1),
        reduction="add" if "add" in operation.target else None,
    )

"""Reading at places: indices, gathers, windows, shifts and triangles."""

from __future__ import annotations

import numpy as np

from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.registry import emits, refuse
from autoprune.graph.program import Operation


@emits("embedding.default")
def _embedding(context: Context, operation: Operation) -> None:
    inputs = [context.input(operation, 0, "weight"), context.input(operation, 1, "indices")]
    context.node("Gather", inputs, [operation.name], axis=0)


@emits("index_select.default")
def _index_select(context: Context, operation: Operation) -> None:
    inputs = [context.input(operation, 0, "self"), context.input(operation, 2, "index")]
    context.node("Gather", inputs, [operation.name], axis=context.axis(operation, 1))


@emits("gather.default")
def _gather(context: Context, operation: Operation) -> None:
    inputs = [context.input(operation, 0, "self"), context.input(operation, 2, "index")]
    context.node("GatherElements", inputs, [operation.name], axis=context.axis(operation, 1))


def index_tensors(context: Context, operation: Operation) -> dict[int, str]:
    """Axis -> the value that indexes it.

    Raises:
        UnsupportedOperator: a mask among them: how many places it picks is known to the running model alone.
    """
    used = {axis: item.name for axis, item in enumerate(operation.args[1]) if item is not None}
    if any(context.dtype(name) in ("bool", "uint8") for name in used.values()):
        raise refuse(operation, "a mask as an index")
    return used


def places(context: Context, operation: Operation, used: dict[int, str]) -> str:
    """Index tensors, broadcast against one another, side by side.  # (..., n_indices)"""
    name = operation.name
    parts = [context.cast(context.name(item), context.dtype(item), "int64", f"{name}.{item}") for item in used.values()]
    ranks = [len(context.dimensions(item)) for item in used.values()]
    if len({str(context.dimensions(item)) for item in used.values()}) > 1:
        shapes = [context.node("Shape", [part], [f"{name}.shape{i}"]) for i, part in enumerate(parts)]
        whole = _broadcast_shape(context, operation, shapes, ranks)
        parts = [context.node("Expand", [part, whole], [f"{name}.index{i}"]) for i, part in enumerate(parts)]
    last = context.constant([max(ranks)])
    columns = [context.node("Unsqueeze", [part, last], [f"{name}.column{i}"]) for i, part in enumerate(parts)]
    return columns[0] if len(columns) == 1 else context.node("Concat", columns, [f"{name}.places"], axis=-1)


def _broadcast_shape(context: Context, operation: Operation, shapes: list[str], ranks: list[int]) -> str:
    """The largest size of each dimension, counted from the last."""
    rank, padded = max(ranks), []
    for place, (shape, own) in enumerate(zip(shapes, ranks, strict=True)):
        ones = [context.constant([1] * (rank - own)), shape]
        label = f"{operation.name}.ranked{place}"
        padded.append(shape if own == rank else context.node("Concat", ones, [label], axis=0))
    return context.node("Max", padded, [f"{operation.name}.broadcast"])


@emits("index.Tensor")
def _index(context: Context, operation: Operation) -> None:
    used, name = index_tensors(context, operation), operation.name
    x, axes = context.input(operation, 0, "self"), list(used)
    if len(axes) == 1:
        context.node("Gather", [x, context.name(used[axes[0]])], [name], axis=axes[0])
        return
    rank = context.rank(operation)
    rest = [axis for axis in range(rank) if axis not in used]
    if axes != list(range(len(axes))):
        x = context.node("Transpose", [x], [f"{name}.turned"], perm=[*axes, *rest])
    neighbours = axes == list(range(axes[0], axes[0] + len(axes)))
    before = axes[0] if neighbours else 0  # dimensions that stay in front of the picked ones
    picked = context.node(
        "GatherND", [x, places(context, operation, used)], [f"{name}.picked" if before else name], batch_dims=0
    )
    if before:
        wide = max(len(context.dimensions(item)) for item in used.values())
        front = [wide + place for place in range(before)]
        order = [*front, *range(wide), *range(wide + before, wide + len(rest))]
        context.node("Transpose", [picked], [name], perm=order)


@emits("unfold.default")
def _windows(context: Context, operation: Operation) -> None:
    """Windows along a dimension; their places become the last one."""
    axis, name = context.axis(operation, 1, "dimension"), operation.name
    size, step = (context.integer(item) for item in operation.args[2:4])
    count = context.value_shape(name)[axis]
    if count < 0:
        raise refuse(operation, "windows along the batch")
    index = context.constant(np.arange(count)[:, None] * step + np.arange(size)[None, :])
    x, rank = context.input(operation, 0, "self"), context.rank(operation)
    order = [place for place in range(rank + 1) if place != axis + 1] + [axis + 1]
    last = order == sorted(order)
    windows = context.node("Gather", [x, index], [name if last else f"{name}.windows"], axis=axis)
    if not last:
        context.node("Transpose", [windows], [name], perm=order)


@emits("roll.default")
def _roll(context: Context, operation: Operation) -> None:
    """Each dimension cut in two, the parts changing places."""
    name, current = operation.name, context.input(operation, 0, "self")
    shifts, axes = context.integers(operation.args[1]), context.integers(operation.argument(2, "dims", ()))
    if not axes:
        raise refuse(operation, "a roll over all dimensions at once")
    shape = context.shape(operation)
    for place, (shift, axis) in enumerate(zip(shifts, axes, strict=True)):
        size = shape[axis]
        if size < 0:
            raise refuse(operation, "the batch rolled")
        cut = (-shift) % size if size else 0
        if cut:
            parts = [f"{name}.head{place}", f"{name}.tail{place}"]
            context.node("Split", [current, context.constant([cut, size - cut])], parts, axis=axis)
            current = context.node("Concat", parts[::-1], [f"{name}.rolled{place}"], axis=axis)
    context.node("Identity", [current], [name])


@emits("flip.default")
def _flip(context: Context, operation: Operation) -> None:
    axes = context.integers(operation.args[1])
    bounds = [[-1] * len(axes), [-(1 << 63)] * len(axes), axes, [-1] * len(axes)]
    inputs = [context.input(operation, 0, "self"), *(context.constant(numbers) for numbers in bounds)]
    context.node("Slice", inputs, [operation.name])


@emits("tril.default", "triu.default")
def _triangle(context: Context, operation: Operation) -> None:
    diagonal = context.integer(operation.argument(1, "diagonal", 0))
    inputs = [context.input(operation, 0, "self"), context.constant(diagonal)]
    context.node("Trilu", inputs, [operation.name], upper=int("triu" in operation.target))

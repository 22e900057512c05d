"""Views and copies: what changes an array's dimensions but no number in it."""

from __future__ import annotations

from autoprune.graph.dimension import Batch, Constant, Dimension, Product, has_batch
from autoprune.graph.fusion import is_whole_slice
from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.registry import emits, refuse, result_type
from autoprune.graph.program import Operation, Ref


@emits(
    "dropout.default",
    "feature_dropout.default",
    "alpha_dropout.default",
    "alias.default",
    "contiguous.default",
    "clone.default",
    "detach.default",
    "lift_fresh_copy.default",
)
def identity(context: Context, operation: Operation) -> None:
    """The operand itself."""
    item = operation.args[0]
    if not isinstance(item, Ref):
        raise refuse(operation, "expected a tensor")
    context.alias(operation.name, item.name)


@emits(
    "to.dtype", "to.dtype_layout", "to.device", "to.other", "_to_copy.default", "type_as.default",
)  # fmt: skip
def _cast(context: Context, operation: Operation) -> None:
    before, after = context.dtype(operation.args[0].name), result_type(context, operation)
    if before == after:
        identity(context, operation)
        return
    cast = context.cast(context.input(operation, 0, "self"), before, after, operation.name)
    context.node("Identity", [cast], [operation.name])


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
    """Every view is a reshape to the sizes of its result."""
    context.reshape(context.input(operation, 0, "self"), context.dimensions(operation.name), operation.name)


@emits("expand.default", "expand_as.default", "broadcast_to.default")
def _expand(context: Context, operation: Operation) -> None:
    if context.dimensions(operation.args[0].name) == context.dimensions(operation.name):
        identity(context, operation)
        return
    sizes = context.sizes(context.dimensions(operation.name), operation.name)
    context.node("Expand", [context.input(operation, 0, "self"), sizes], [operation.name])


@emits("repeat.default", "tile.default")
def _repeat(context: Context, operation: Operation) -> None:
    after = context.dimensions(operation.name)
    before = context.dimensions(operation.args[0].name)
    before = [Constant(1)] * (len(after) - len(before)) + before
    times = [_ratio(context, operation, a, b) for a, b in zip(after, before, strict=True)]
    x = context.input(operation, 0, "self")
    if len(before) != context.rank(operation):
        x = context.reshape(x, before, f"{operation.name}.wide")
    context.node("Tile", [x, context.sizes(times, operation.name)], [operation.name])


def _ratio(context: Context, operation: Operation, after: Dimension, before: Dimension) -> Dimension:
    """How often a dimension was repeated."""
    if after == before:
        return Constant(1)
    (slope, offset), (own_slope, own_offset) = context.affine(after), context.affine(before)
    if not own_slope and own_offset and not offset:
        return Product((Batch(), Constant(slope // own_offset)))
    if bool(slope) == bool(own_slope) and (own_slope or own_offset):
        return Constant(slope // own_slope if own_slope else offset // own_offset)
    raise refuse(operation, "the batch repeated")


@emits("repeat_interleave.self_int")
def _repeat_interleave(context: Context, operation: Operation) -> None:
    axis, name = context.axis(operation, 2), operation.name
    before, after = context.dimensions(operation.args[0].name), context.dimensions(name)
    times = context.integer(operation.argument(1, "repeats"))
    apart = [*before[: axis + 1], Constant(1), *before[axis + 1 :]]
    wide = [*before[: axis + 1], Constant(times), *before[axis + 1 :]]
    column = context.reshape(context.input(operation, 0, "self"), apart, f"{name}.apart")
    copies = context.node("Expand", [column, context.sizes(wide, f"{name}.wide")], [f"{name}.copies"])
    context.reshape(copies, after, name)


@emits(
    "permute.default", "transpose.int", "t.default", "swapaxes.default", "swapdims.default", "movedim.int",
    "movedim.intlist", "numpy_T.default", "mT.default", "adjoint.default",
)  # fmt: skip
def _permute(context: Context, operation: Operation) -> None:
    order = _order(context, operation)
    if order == sorted(order):
        identity(context, operation)
        return
    context.node("Transpose", [context.input(operation, 0, "self")], [operation.name], perm=order)


def _order(context: Context, operation: Operation) -> list[int]:
    rank, name = context.rank(operation), operation.target.split(".")[1]
    order = list(range(rank))
    if name == "permute":
        return [axis % rank for axis in context.integers(operation.argument(1, "dims"))]
    if name == "numpy_T":
        return order[::-1]
    if name == "movedim":
        sources, places = ([axis % rank for axis in context.integers(item)] for item in operation.args[1:3])
        rest = iter(axis for axis in order if axis not in sources)
        put = dict(zip(places, sources, strict=True))
        return [put[place] if place in put else next(rest) for place in range(rank)]
    if rank < 2:
        return order
    if name in ("t", "mT", "adjoint"):
        first, second = rank - 2, rank - 1
    else:
        first, second = (context.integer(operation.args[place]) % rank for place in (1, 2))
    order[first], order[second] = second, first
    return order


@emits("cat.default", "concat.default", "concatenate.default")
def _concatenate(context: Context, operation: Operation) -> None:
    """torch skips empty vectors among the parts."""
    dtype, items = result_type(context, operation), operation.argument(0, "tensors")
    whole = [item for item in items if context.dimensions(item.name) != [Constant(0)]]
    parts = [context.operand(item, dtype, f"{operation.name}.part{place}") for place, item in enumerate(whole)]
    rank = len(context.dimensions(operation.name))
    context.node("Concat", parts, [operation.name], axis=context.integer(operation.argument(1, "dim", 0)) % rank)


@emits("stack.default")
def _stack(context: Context, operation: Operation) -> None:
    dtype, name = result_type(context, operation), operation.name
    axis = context.integer(operation.argument(1, "dim", 0)) % len(context.dimensions(name))
    parts = []
    for place, item in enumerate(operation.argument(0, "tensors")):
        x = context.operand(item, dtype, f"{name}.part{place}")
        parts.append(context.node("Unsqueeze", [x, context.constant([axis])], [f"{name}.{place}.column"]))
    context.node("Concat", parts, [name], axis=axis)


@emits("chunk.default", "split.Tensor", "split_with_sizes.default")
def _split(context: Context, operation: Operation) -> None:
    """Sizes are those of the results, whatever way they were asked for."""
    axis = context.axis(operation, 2)
    sizes = [context.value_shape(name)[axis] for name in operation.results]
    if -1 in sizes:
        raise refuse(operation, "the batch cut")
    inputs = [context.input(operation, 0, "self"), context.constant(sizes)]
    context.node("Split", inputs, list(operation.results), axis=axis)


@emits("unbind.int")
def _unbind(context: Context, operation: Operation) -> None:
    axis, place = context.axis(operation, 1), context.constant([1] * len(operation.results))
    columns = [f"{result}.column" for result in operation.results]
    context.node("Split", [context.input(operation, 0, "self"), place], columns, axis=axis)
    for result, column in zip(operation.results, columns, strict=True):
        context.reshape(column, context.dimensions(result), result)


@emits("select.int")
def _select(context: Context, operation: Operation) -> None:
    index = operation.argument(2, "index")
    place = context.operand(index, "int64", f"{operation.name}.index")
    context.node(
        "Gather", [context.input(operation, 0, "self"), place], [operation.name], axis=context.axis(operation, 1)
    )


@emits("slice.Tensor")
def _slice(context: Context, operation: Operation) -> None:
    name, axis = operation.name, context.axis(operation, 1)
    if is_whole_slice(operation) or _takes_all(context, operation, axis):
        identity(context, operation)
        return
    start, end = operation.argument(2, "start"), operation.argument(3, "end")
    step = context.integer(operation.argument(4, "step", 1))
    first = context.integer_vector(0 if start is None else start, name)
    last = context.integer_vector((1 << 63) - 1 if end is None else end, name)
    bounds = [first, last, context.constant([axis]), context.constant([step])]
    context.node("Slice", [context.input(operation, 0, "self"), *bounds], [name])


def _takes_all(context: Context, operation: Operation, axis: int) -> bool:
    before, after = context.dimensions(operation.args[0].name)[axis], context.dimensions(operation.name)[axis]
    return before == after and not has_batch(before)


@emits("pixel_shuffle.default")
def _pixel_shuffle(context: Context, operation: Operation) -> None:
    factor = context.integer(operation.argument(1, "upscale_factor"))
    x = context.input(operation, 0, "self")
    context.node("DepthToSpace", [x], [operation.name], blocksize=factor, mode="CRD")


@emits("pixel_unshuffle.default")
def _pixel_unshuffle(context: Context, operation: Operation) -> None:
    """ONNX's own operator puts the places before the channels; torch the channels first."""
    factor, name = Constant(context.integer(operation.argument(1, "downscale_factor"))), operation.name
    batch, channels, *_ = context.dimensions(operation.args[0].name)
    rows, columns = context.dimensions(name)[-2:]
    grid = [batch, channels, rows, factor, columns, factor]
    split = context.reshape(context.input(operation, 0, "self"), grid, f"{name}.grid")
    turned = context.node("Transpose", [split], [f"{name}.turned"], perm=[0, 1, 3, 5, 2, 4])
    context.reshape(turned, context.dimensions(name), name)

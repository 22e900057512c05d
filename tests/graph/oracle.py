"""What slicing must equal: the dense program in which every reduction over a group's units sees only those kept.

Contractions (convolutions, linear layers, matrix products, sums) see zeros in the place of removed units; statistics
(layer norm, group norm, means) run over the kept ones. Everything else is computed densely. Written apart from the
rules, operator by operator, so that one checks the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoprune.graph import DependencyGraph
from autoprune.graph.dimension import (
    Batch,
    Constant,
    Dimension,
    Indices,
    Product,
    dense_size,
    groups_of,
    has_batch,
    indices,
)
from autoprune.graph.module import plain_spec
from autoprune.graph.program import Operation, Program, Ref, Size
from autoprune.graph.run import INTEGER, resolve_target

Kept = Mapping[str, Indices]

# contractions: target's name -> the operand positions and axes that are summed over
_SUMMED: dict[str, tuple[tuple[int, int], ...]] = {
    "linear": ((0, -1),),
    "matmul": ((0, -1),),
    "bmm": ((0, -1),),
    "mm": ((0, -1),),
    "addmm": ((1, -1),),
    "baddbmm": ((1, -1),),
    "conv1d": ((0, 1),),
    "conv2d": ((0, 1),),
    "conv3d": ((0, 1),),
    "conv_transpose1d": ((0, 1),),
    "conv_transpose2d": ((0, 1),),
    "conv_transpose3d": ((0, 1),),
    "scaled_dot_product_attention": ((0, -1),),
    "mv": ((0, -1),),
    "dot": ((0, -1),),
    "vdot": ((0, -1),),
    "addmv": ((1, -1),),
    "cdist": ((0, -1), (1, -1)),
}
_REDUCTIONS = (
    "mean", "var", "std", "sum", "nansum", "amax", "amin", "logsumexp", "var_mean", "std_mean", "linalg_vector_norm",
    "norm",
)  # fmt: skip
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class Oracle:
    """The dense program under a policy's kept units.

    Args:
        graph: the traced model.
        kept: group id -> units kept; groups not named keep all.
    """

    def __init__(self, graph: DependencyGraph, kept: Kept) -> None:
        self._graph = graph
        self._program: Program = graph.program
        self._kept = kept

    def __call__(self, *inputs: Tensor) -> Any:
        """Outputs for inputs in the program's order."""
        values: dict[str, Any] = dict(zip(self._program.inputs, inputs, strict=True))
        values |= {name: self._graph.state[name] for name in (*self._program.parameters, *self._program.buffers)}
        with torch.no_grad():
            for operation in self._program.operations:
                result = self._run(operation, values)
                if len(operation.results) == 1 and isinstance(result, Tensor | int):
                    values[operation.name] = result
                else:
                    values |= dict(zip(operation.results, result, strict=False))
        outputs = [None if name is None else values[name] for name in self._program.outputs]
        return pytree.tree_unflatten(outputs, plain_spec(self._program.output_tree))

    def _run(self, operation: Operation, values: Mapping[str, Any]) -> Any:
        args = [_dense(argument, values) for argument in operation.args]
        kwargs = {name: _dense(value, values) for name, value in operation.kwargs}
        if operation.target in INTEGER:
            return INTEGER[operation.target](*args)
        call = resolve_target(operation.target)
        name = operation.target.split(".")[1]
        if name in ("layer_norm", "rms_norm", "group_norm"):
            return self._norm(name, operation, args, call)
        if name in _REDUCTIONS:
            return self._reduction(operation, args, kwargs, call)
        if name == "_weight_norm":
            kept = [axis for axis in range(args[0].ndim) if axis != operation.argument(2, "dim", 0)]
            return self._restricted(operation, args, kept, call)
        if name == "batch_norm" and (args[5] or args[3] is None):
            return self._restricted(operation, args, [0, *range(2, args[0].ndim)], call)
        if name in _RECURRENT:
            args[2] = [self._columns(w, ref) for w, ref in zip(args[2], operation.args[2], strict=True)]
        if name == "einsum":
            args[1] = self._einsum_operands(operation, args)
        for position, axis in _SUMMED.get(name, ()):
            args[position] = self._zeroed(args[position], self._dims(operation.args[position]), axis)
        return call(*args, **kwargs)

    def _dims(self, argument: Any) -> tuple[Dimension, ...]:
        return self._program.values[argument.name].dimensions

    def _index(self, dimension: Dimension, units: int) -> Tensor | None:
        """Kept places along a dimension of `units` (more than its dense size where the batch is part of it)."""
        if not groups_of(dimension):
            return None
        blocks = units // dense_size(dimension)
        factors = dimension.factors if isinstance(dimension, Product) else (dimension,)
        real = tuple(Constant(blocks) if isinstance(f, Batch) else f for f in factors)
        return torch.from_numpy(indices(Product(real), self._kept))

    def _zeroed(self, tensor: Tensor, dims: tuple[Dimension, ...], axis: int) -> Tensor:
        index = self._index(dims[axis], tensor.shape[axis])
        if index is None:
            return tensor
        gone = np.setdiff1d(np.arange(tensor.shape[axis]), index.numpy())
        return tensor.index_fill(axis, torch.from_numpy(gone), 0.0)

    def _columns(self, weight: Tensor, ref: Any) -> Tensor:
        return self._zeroed(weight, self._dims(ref), 1) if weight.ndim == 2 else weight

    def _einsum_operands(self, operation: Operation, args: list[Any]) -> list[Tensor]:
        """The first operand, zeroed along the letters that vanish; those behind an ellipsis count from the end."""
        left, arrow, right = args[0].replace(" ", "").partition("->")
        first = args[1][0]
        head, _, tail = left.split(",")[0].partition("...")
        for axis, letter in [*enumerate(head), *enumerate(tail, start=-len(tail))]:
            if letter not in right if arrow else left.count(letter) > 1:
                first = self._zeroed(first, self._dims(operation.args[1][0]), axis)
        return [first, *args[1][1:]]

    def _restricted(self, operation: Operation, args: list[Any], axes: list[int], call: Callable[..., Any]) -> Tensor:
        """A statistic over `axes` of the first operand: computed on their kept units, zeros in the place of others."""
        x, dims = args[0], self._dims(operation.args[0])
        found = {axis: self._index(dims[axis], x.shape[axis]) for axis in axes}
        places = [found.get(axis) for axis in range(x.ndim)]
        index = [torch.arange(n) if place is None else place for place, n in zip(places, x.shape, strict=True)]
        grid = torch.meshgrid(*index, indexing="ij")
        result = torch.zeros_like(x)
        result[grid] = call(x[grid], *args[1:])
        return result

    def _reduction(
        self, operation: Operation, args: list[Any], kwargs: dict[str, Any], call: Callable[..., Any]
    ) -> Any:
        """Over the kept units of whatever is reduced."""
        dims = self._dims(operation.args[0])
        axes = operation.argument(2 if "norm" in operation.target else 1, "dim")
        chosen = range(len(dims)) if axes in (None, ()) else [axes] if isinstance(axes, int) else axes
        x = args[0]
        for axis in chosen:
            index = self._index(dims[axis], x.shape[axis])
            x = x if index is None else x.index_select(axis, index)
        return call(x, *args[1:], **kwargs)

    def _norm(self, name: str, operation: Operation, args: list[Any], call: Callable[..., Any]) -> Tensor:
        """On the kept units; those removed come out as zeros."""
        x, dims = args[0], self._dims(operation.args[0])
        axes = [1] if name == "group_norm" else list(range(len(dims) - len(args[1]), len(dims)))
        selected, rest = [x, *args[2:]], [a if isinstance(a, Tensor) else None for a in args[2:]]
        result = torch.zeros_like(x)
        places: list[Tensor] = [torch.arange(n) for n in x.shape]
        for number, axis in enumerate(axes):
            index = self._index(dims[axis], x.shape[axis])
            if index is None:
                continue
            places[axis] = index
            selected[0] = selected[0].index_select(axis, index)
            for position, tensor in enumerate(rest, start=1):
                if tensor is not None:
                    selected[position] = selected[position].index_select(number, index)
        if selected[0].numel() == 0:  # of a removed branch
            return result
        shape: Any = [selected[0].shape[axis] for axis in axes]
        if name == "group_norm":
            groups = operation.args[1]
            shape = len(indices(groups.dimension, self._kept)) if isinstance(groups, Size) else groups
        result[torch.meshgrid(*places, indexing="ij")] = call(selected[0], shape, *selected[1:])
        return result


def _dense(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, Ref):
        return values[argument.name]
    if isinstance(argument, Size):
        return -1 if has_batch(argument.dimension) else dense_size(argument.dimension)
    if isinstance(argument, tuple):
        return [_dense(item, values) for item in argument]
    return argument

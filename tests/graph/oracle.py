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
}
_REDUCTIONS = ("mean", "var", "std", "sum", "linalg_vector_norm")


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

    def _einsum_operands(self, operation: Operation, args: list[Any]) -> list[Tensor]:
        left, _, right = args[0].replace(" ", "").partition("->")
        first, letters = args[1][0], left.split(",")[0]
        for axis, letter in enumerate(letters):
            if letter not in right:
                first = self._zeroed(first, self._dims(operation.args[1][0]), axis)
        return [first, *args[1][1:]]

    def _reduction(
        self, operation: Operation, args: list[Any], kwargs: dict[str, Any], call: Callable[..., Any]
    ) -> Any:
        """Over the kept units of whatever is reduced."""
        dims = self._dims(operation.args[0])
        axes = operation.argument(2 if "vector_norm" in operation.target else 1, "dim")
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

"""Tensors cut down to the units that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from autoprune.graph.dimension import Dimension, Indices, dense_size, groups_of, indices


class Slicer:
    """Cuts tensors for one policy; what it needs for a dimension is worked out once.

    Only the last cut of a tensor makes a new one: a run of first units is a view, and results between two cuts go to
    one buffer that is used again, since fresh memory costs more than the copy.

    Args:
        kept: group id -> units to keep, ascending; groups not named stay whole.
    """

    def __init__(self, kept: Mapping[str, Indices]) -> None:
        self._kept = kept
        self._selections: dict[Dimension, torch.Tensor | None] = {}
        self._scratch: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    def __call__(self, tensor: torch.Tensor, dimensions: Sequence[Dimension]) -> torch.Tensor:
        """The units that are kept, along every axis that is still dense; the tensor itself where that is all of it."""
        cuts = []
        for axis, dimension in enumerate(dimensions):
            index = self._selection(dimension)
            if index is not None and tensor.shape[axis] == dense_size(dimension):
                cuts.append((index.numel() / max(tensor.shape[axis], 1), axis, index))
        if not cuts:
            return tensor
        result = tensor.detach()
        gathered = []
        for _, axis, index in sorted(cuts, key=lambda cut: cut[0]):  # what removes most first
            if index.numel() == 0 or int(index[-1]) == index.numel() - 1:
                result = result.narrow(axis, 0, index.numel())
            else:
                gathered.append((axis, index.to(result.device)))
        for axis, index in gathered[:-1]:
            result = torch.index_select(result, axis, index, out=self._buffer(result, axis, index.numel()))
        if not gathered:
            return result.clone(memory_format=torch.contiguous_format)
        axis, index = gathered[-1]
        return result.index_select(axis, index)

    def _selection(self, dimension: Dimension) -> torch.Tensor | None:
        """Indices that stay along a dimension; None where all do."""
        if dimension not in self._selections:
            whole = not any(group in self._kept for group in groups_of(dimension))
            index = None if whole else indices(dimension, self._kept)
            full = index is None or index.size == dense_size(dimension)
            self._selections[dimension] = None if full else torch.from_numpy(index)
        return self._selections[dimension]

    def _buffer(self, tensor: torch.Tensor, axis: int, units: int) -> torch.Tensor:
        """Memory for a result with `units` along `axis` that does not share it with `tensor`."""
        shape = [*tensor.shape]
        shape[axis] = units
        key = (tensor.dtype, tensor.device)
        count = tensor.numel() // max(tensor.shape[axis], 1) * units
        buffer = self._scratch.pop(key, None)
        if buffer is None or buffer.numel() < count or buffer.data_ptr() == tensor.data_ptr():
            buffer = tensor.new_empty(count)
        self._scratch[key] = buffer
        return buffer[:count].view(shape)

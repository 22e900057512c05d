"""Tensors cut down to the units that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from autoprune.graph.dimension import Indices
from autoprune.graph.plan import Plan


class _Selection(NamedTuple):
    """The indices that stay along a dimension; `first` where they are its first ones."""

    places: torch.Tensor
    units: int
    dense: int
    first: bool


class Slicer:
    """Cuts tensors for one policy; what it needs for a dimension is worked out once.

    First units are views and cost no copy (see `DependencyGraph.ordered`). Of other cuts only a tensor's last makes a
    new one: results between two go to one buffer that is used again, since fresh memory costs more than the copy.

    Args:
        plan: of the program whose state is cut.
        kept: group id -> units to keep, ascending; groups not named stay whole.
    """

    def __init__(self, plan: Plan, kept: Mapping[str, Indices]) -> None:
        self._cuts = plan.cuts
        self._selections: list[_Selection | None] = []
        for (_, _, dense), index in zip(plan.dimensions, plan.selections(kept), strict=True):
            if index is None or index.size == dense:
                self._selections.append(None)
                continue
            first = index.size == 0 or int(index[-1]) == index.size - 1
            self._selections.append(_Selection(torch.from_numpy(index), index.size, dense, first))
        self._scratch: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The units of a parameter or buffer that are kept, along every axis that is still dense.

        The tensor itself where that is all of it.
        """
        result = tensor
        gathered = []
        for axis, place in self._cuts[name]:
            found = self._selections[place]
            if found is None or tensor.shape[axis] != found.dense:
                continue
            if found.first:
                result = result.narrow(axis, 0, found.units)
            else:
                gathered.append((found, axis))
        if not gathered:
            return result
        if len(gathered) > 1:
            gathered.sort(key=lambda cut: cut[0].units / cut[0].dense)  # what removes most first
        for found, axis in gathered[:-1]:
            out = self._buffer(result, axis, found.units)
            result = torch.index_select(result, axis, found.places.to(result.device), out=out)
        found, axis = gathered[-1]
        return result.index_select(axis, found.places.to(result.device))

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

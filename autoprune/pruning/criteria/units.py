"""What a member's tensor says about each unit of its group, whatever its layout.

A unit may own several places along the member's axis (a head its dimensions, a channel its positions behind a flatten,
one of two concatenated branches a stretch in the middle); places of no unit are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from autoprune.graph import DependencyGroup, Member
from autoprune.graph.dimension import Dimension, Indices, units_of

_CHUNK = 1 << 22  # elements converted to float64 at a time


def ranked(score: Tensor) -> Indices:
    """Units by falling score; ties fall to the lower index.  # (size,) int64"""
    return np.argsort(-score.double().cpu().numpy(), kind="stable").astype(np.int64)


def producers(group: DependencyGroup, state: Mapping[str, Tensor]) -> tuple[Member, ...]:
    """The members that weigh a unit: matrix-like producers; all members where there are none."""
    matrices = tuple(m for m in group.members if m.role == "producer" and state[m.parameter].dim() > 1)
    return matrices or group.members


def unit_sums(places: Tensor, dimension: Dimension, group: str, size: int) -> Tensor:
    """Numbers along an axis, summed over the places of each unit.

    Args:
        places: # (..., dense size of `dimension`)
        dimension: the axis over groups.
        group: whose units.
        size: how many.

    Returns:
        # (..., size) float64
    """
    units = torch.from_numpy(units_of(dimension, group)).to(places.device)
    owned = units >= 0
    sums = places.new_zeros(*places.shape[:-1], size, dtype=torch.float64)
    return sums.index_add_(places.dim() - 1, units[owned], places[..., owned].double())


def axis_sums(tensor: Tensor, axis: int, of: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of every element, summed over all axes but one, in double precision.  # (size of the axis,) float64"""
    flat = tensor.detach().movedim(axis, 0).flatten(1) if tensor.dim() > 1 else tensor.detach()[:, None]
    parts = torch.split(flat, max(1, _CHUNK // max(1, flat.shape[1])))
    return torch.cat([of(part.double()).sum(dim=1) for part in parts])


def unit_rows(tensor: Tensor, member: Member, group: DependencyGroup) -> Iterator[Tensor]:
    """All of a member that belongs to each unit, as a row a unit, a chunk at a time.  # (size, some) float64"""
    owner = torch.from_numpy(units_of(member.dimension, group.id))
    owned = torch.nonzero(owner >= 0).flatten()
    places = owned[torch.argsort(owner[owned], stable=True)].reshape(group.size, -1)  # (size, places of one)
    flat = (
        tensor.detach().cpu().movedim(member.axis, 0).flatten(1) if tensor.dim() > 1 else tensor.detach().cpu()[:, None]
    )
    for place in places.unbind(1):
        for part in torch.split(flat, max(1, _CHUNK // group.size), dim=1):
            yield part[place].double()

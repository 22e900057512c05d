"""Magnitude: a unit is worth what its filters weigh (Li et al. 2017, Pruning Filters for Efficient ConvNets)."""

from __future__ import annotations

import numpy as np
import torch

from autoprune.graph import DependencyGroup
from autoprune.graph.dimension import Indices, units_of
from autoprune.pruning.criteria import Evidence


class L1:
    """Sum of absolute weights over all layers that produce the unit."""

    needs_calibration = False

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        """See `Criterion.order`."""
        return magnitude_order(group, evidence, power=1)


class L2:
    """Sum of squared weights over all layers that produce the unit."""

    needs_calibration = False

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        """See `Criterion.order`."""
        return magnitude_order(group, evidence, power=2)


def magnitude_order(group: DependencyGroup, evidence: Evidence, power: int) -> Indices:
    """Units by the sum of |w|^power over matrix-like producers, else over all members; ties fall to the lower index."""
    members = [m for m in group.members if m.role == "producer" and evidence.state[m.parameter].dim() > 1]
    score = torch.zeros(group.size, dtype=torch.float64)
    for member in members or group.members:
        weight = evidence.state[member.parameter].detach().double().cpu().abs() ** power
        columns = weight.movedim(member.axis, 0).flatten(1).sum(dim=1) if weight.dim() > 1 else weight
        units = torch.from_numpy(units_of(member.dimension, group.id))
        score.index_add_(0, units[units >= 0], columns[units >= 0])
    return np.argsort(-score.numpy(), kind="stable").astype(np.int64)

"""Magnitude: a unit is worth what its filters weigh (Li et al. 2017, Pruning Filters for Efficient ConvNets)."""

from __future__ import annotations

import torch

from autoprune.graph import DependencyGroup
from autoprune.graph.dimension import Indices
from autoprune.pruning.criteria import Evidence, Need
from autoprune.pruning.criteria.units import axis_sums, producers, ranked, unit_sums


class L1:
    """Sum of absolute weights over all layers that produce the unit."""

    needs: frozenset[Need] = frozenset()

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        """See `Criterion.order`."""
        return magnitude_order(group, evidence, power=1)


class L2:
    """Sum of squared weights over all layers that produce the unit."""

    needs: frozenset[Need] = frozenset()

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        """See `Criterion.order`."""
        return magnitude_order(group, evidence, power=2)


def magnitude_order(group: DependencyGroup, evidence: Evidence, power: int) -> Indices:
    """Units by the sum of |w|^power over matrix-like producers, else over all members; ties fall to the lower index."""
    score = torch.zeros(group.size, dtype=torch.float64)
    for member in producers(group, evidence.state):
        places = axis_sums(evidence.state[member.parameter], member.axis, lambda w: w.abs() ** power).cpu()
        score += unit_sums(places, member.dimension, group.id, group.size)
    return ranked(score)

"""Batch-norm scale: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming."""

from __future__ import annotations

import torch

from autoprune.graph import DependencyGroup
from autoprune.graph.dimension import Indices
from autoprune.pruning.criteria import Evidence, Need
from autoprune.pruning.criteria.units import axis_sums, ranked, unit_sums


class BatchNormScale:
    """|gamma| of the batch norms that scale the unit, summed over them (eq. 1 there penalises the same sum).

    Meaningful for networks that were trained with that penalty, and as a baseline for those that were not. It says
    nothing of a group that no batch norm scales: see `Criterion.order`.
    """

    needs: frozenset[Need] = frozenset()

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices | None:
        """See `Criterion.order`."""
        members = [member for member in group.members if member.parameter in evidence.batch_norms]
        if not members:
            return None
        score = torch.zeros(group.size, dtype=torch.float64)
        for member in members:
            places = axis_sums(evidence.state[member.parameter], member.axis, torch.abs).cpu()
            score += unit_sums(places, member.dimension, group.id, group.size)
        return ranked(score)

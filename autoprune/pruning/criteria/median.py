"""Redundancy: He et al. 2019, Filter Pruning via Geometric Median for Deep Neural Networks Acceleration (FPGM)."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.graph import DependencyGroup
from autoprune.graph.dimension import Indices
from autoprune.pruning.criteria import Evidence, Need
from autoprune.pruning.criteria.units import producers, ranked, unit_rows


class FPGM:
    """The unit goes whose filters are nearest to the geometric median: the others can stand in for it.

    The median is looked for among the filters themselves, as there: a unit's score is `sum_j |F_i - F_j|`, the sum of
    its distances to all units of the group; its filters are those of all layers that produce it, one behind the other.
    """

    needs: frozenset[Need] = frozenset()

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        """See `Criterion.order`."""
        return ranked(median_distances(group, evidence))


def median_distances(group: DependencyGroup, evidence: Evidence) -> Tensor:
    """Sum of the distances of each unit's weights to those of all units.  # (size,) float64

    From inner products, summed over chunks of the weights: (size x size) numbers are held, whatever the filters.
    """
    products = torch.zeros(group.size, group.size, dtype=torch.float64)
    for member in producers(group, evidence.state):
        for rows in unit_rows(evidence.state[member.parameter], member, group):
            products.addmm_(rows, rows.T)
    squares = products.diagonal()
    total = torch.zeros(group.size, dtype=torch.float64)
    for unit in range(group.size):  # one row at a time: no second matrix
        total[unit] = (squares[unit] + squares - 2 * products[unit]).clamp(min=0).sqrt().sum()
    return total

"""OBS: the unit goes whose loss the others make up for best."""

from __future__ import annotations

from autoprune.graph import DependencyGroup
from autoprune.graph.dimension import Indices
from autoprune.pruning.criteria import Evidence, Need
from autoprune.pruning.criteria.magnitude import magnitude_order
from autoprune.pruning.obs import elimination_order


class OBS:
    """Backward elimination by least-squares error over all consumers.

    Consumers that cannot be re-fitted count by the energy a unit sends through their weights. Where no regression reads
    the group (it ends in a mean or a norm alone), units are ordered by L2.
    """

    needs: frozenset[Need] = frozenset({"consumers"})

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        """See `Criterion.order`."""
        if not evidence.consumers:
            return magnitude_order(group, evidence, power=2)
        return elimination_order(evidence.consumers, group.size)

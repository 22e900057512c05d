"""OBS: the unit goes whose loss the others make up for best."""

from __future__ import annotations

from autoprune.graph import DependencyGroup
from autoprune.graph.dimension import Indices
from autoprune.pruning.criteria import Evidence
from autoprune.pruning.criteria.magnitude import magnitude_order
from autoprune.pruning.obs import elimination_order


class OBS:
    """Backward elimination by least-squares error over all consumers; L2 where no regression reads the group."""

    needs_calibration = True

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        """See `Criterion.order`."""
        if not evidence.consumers:
            return magnitude_order(group, evidence, power=2)
        return elimination_order(evidence.consumers, group.size)

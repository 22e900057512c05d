"""Criteria that are one number a unit, measured on calibration data in `autoprune.pruning.statistics`."""

from __future__ import annotations

from typing import ClassVar

from autoprune.graph import DependencyGroup
from autoprune.graph.dimension import Indices
from autoprune.pruning.criteria import Evidence, Need
from autoprune.pruning.criteria.units import ranked


class Measured:
    """Units by one of the measured statistics; it says nothing of a group that nothing reads as `Evidence` tells."""

    statistic: ClassVar[Need]

    @property
    def needs(self) -> frozenset[Need]:
        """See `Criterion.needs`."""
        return frozenset({self.statistic})

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices | None:
        """See `Criterion.order`."""
        score = evidence.measured.get(self.statistic)
        return None if score is None else ranked(score)


class Activation(Measured):
    """Mean square of what the unit sends to whatever reads it: "activation" in Molchanov et al. 2017, section 2.2.

    Each reader counts by its share: the mean square of the unit's activations, over samples and places, as a part of
    those of all units.
    """

    statistic = "activation"


class Taylor(Measured):
    """First-order Taylor: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, section 3.

    `sum_s (g_s w_s)^2` over the parameters `s` that go with the unit, whether they make or read it; gradients are of a
    batch's mean loss, and what is squared is averaged over batches.
    """

    statistic = "taylor"


class Fisher(Measured):
    """Fisher information of a gate: Theis et al. 2018, Faster Gaze Prediction with Dense Networks and Fisher Pruning.

    `mean_n (sum a_n dL_n/da_n)^2` over samples `n`; the sum runs over all places of the unit's activations `a`, and, as
    in Liu et al. 2021, Group Fisher Pruning for Practical Network Compression, over all that reads the unit.
    """

    statistic = "fisher"

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
    """Mean square of what the unit sends to whatever reads it (Molchanov et al. 2017, section 2.2, "activation").

    Each reader counts by its share: the mean square of the unit's activations, over samples and places, as a part of
    those of all units.
    """

    statistic = "activation"


class Taylor(Measured):
    """First-order Taylor: sum of (weight x gradient)^2 over all that goes with the unit (Molchanov et al. 2019, eq. 4).

    Summed over the parameters of the structure, squared a batch at a time and averaged over batches, as there.
    """

    statistic = "taylor"


class Fisher(Measured):
    """Mean over samples of (sum of activation x gradient)^2: Theis et al. 2018, and Liu et al. 2021 for groups.

    The sum runs over all places, and over all that reads the unit: what is squared is a sample's derivative by one gate
    on every reading of the unit.
    """

    statistic = "fisher"

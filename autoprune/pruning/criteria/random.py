"""Random: the baseline every criterion must beat."""

from __future__ import annotations

import zlib

import numpy as np

from autoprune.graph import DependencyGroup
from autoprune.graph.dimension import Indices
from autoprune.pruning.criteria import Evidence, Need


class Random:
    """A permutation drawn from the seed and the group's id, whatever the other groups are."""

    needs: frozenset[Need] = frozenset()

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        """See `Criterion.order`."""
        generator = np.random.default_rng([evidence.seed, zlib.crc32(group.id.encode())])
        return generator.permutation(group.size).astype(np.int64)

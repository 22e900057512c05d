"""Uniformly random choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.search.samplers.sampler import SamplerSettings, Told
from autoprune.search.trial import Choice

_BATCH = 32


class Random:
    """Every level as likely as any other."""

    def __init__(self, settings: SamplerSettings) -> None:
        self._levels = settings.levels
        self.batch_size = settings.batch or _BATCH

    def ask(self, count: int, seed: int) -> list[Choice]:
        """`count` choices."""
        drawn = np.random.default_rng(seed).integers(0, np.array(self._levels), size=(count, len(self._levels)))
        return [tuple(int(level) for level in row) for row in drawn]

    def tell(self, batch: Sequence[Told]) -> None:
        """It does not learn."""

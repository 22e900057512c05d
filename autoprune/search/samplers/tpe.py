"""The multi-objective tree-structured Parzen estimator: Ozaki et al., GECCO 2020."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.samplers import TPESampler

from autoprune.search.samplers.memory import MemoryStudy, quiet
from autoprune.search.samplers.sampler import SamplerSettings, Told
from autoprune.search.trial import Choice

_BATCH = 8  # it learns between batches, so small ones; still some work for several workers


class Tpe:
    """Optuna's TPE, all variables together: one model a proposal instead of one a variable."""

    def __init__(self, settings: SamplerSettings) -> None:
        self.batch_size = settings.batch or _BATCH
        self._memory = MemoryStudy(settings)

    def ask(self, count: int, seed: int) -> list[Choice]:
        """Draws from one model; they differ by their draws, not by pretending to know each other's outcome."""
        with quiet():
            sampler = TPESampler(seed=seed, multivariate=True, constant_liar=False)
        return self._memory.ask(sampler, count, {})

    def tell(self, batch: Sequence[Told]) -> None:
        """Add what was found."""
        self._memory.add(batch, {})

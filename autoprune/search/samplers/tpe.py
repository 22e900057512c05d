"""The multi-objective tree-structured Parzen estimator: Ozaki et al., GECCO 2020."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.samplers import TPESampler

from autoprune.pareto.dominance import ranks
from autoprune.search.samplers.memory import MemoryStudy, quiet
from autoprune.search.samplers.sampler import SamplerSettings, Told
from autoprune.search.trial import Choice

_BATCH = 8  # it learns between batches, so small ones; still some work for several workers
WINDOW = 256  # trials kept once there are twice as many: each draw looks at all of them


class Tpe:
    """Optuna's TPE, all variables together: one model a proposal instead of one a variable.

    The estimator of what is good needs the best trials, that of what is not needs others: kept are the best half of a
    window, and the latest of the rest.
    """

    def __init__(self, settings: SamplerSettings) -> None:
        self.batch_size = settings.batch or _BATCH
        self._memory = MemoryStudy(settings)
        self._held: list[Told] = []

    def ask(self, count: int, seed: int) -> list[Choice]:
        """Draws from one model; they differ by their draws, not by pretending to know each other's outcome."""
        with quiet():
            sampler = TPESampler(seed=seed, multivariate=True, constant_liar=False)
        return self._memory.ask(sampler, count, {})

    def tell(self, batch: Sequence[Told]) -> None:
        """Add what was found."""
        self._held += [told for told in batch if told.values is not None]
        if len(self._held) < 2 * WINDOW:
            self._memory.add(batch, {})
            return
        self._held = window(self._held)
        self._memory.restart()
        self._memory.add(self._held, {})


def window(told: Sequence[Told], size: int = WINDOW) -> list[Told]:
    """The trials to go on with, in order: half of them the best by constraints and dominance, half the latest."""
    excess = np.array([sum(max(0.0, value) for value in one.violations.values()) for one in told])
    order = np.lexsort((ranks([one.values or () for one in told]), excess))
    best = set(order[: size // 2].tolist())
    latest = [place for place in range(len(told)) if place not in best][-(size - len(best)) :]
    return [told[place] for place in sorted([*best, *latest])]

"""What Optuna's genetic samplers share here: one batch is one generation, and seeds are parents.

Optuna reads the generation of a trial from a system attribute; what carries the tag 0 is a parent of generation 1,
whoever proposed it, so seeds are tagged and `enqueue_trial` (which tags nothing) is not used.

Each generation gets a study of its own: its trials and the parents of the one before, together generation 0, from which
Optuna selects as it would with the whole history at hand, of which it looks at nothing else. So what a generation costs
does not depend on how many there were.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from optuna.samplers import BaseGASampler
from optuna.trial import FrozenTrial

from autoprune.search.samplers.memory import MemoryStudy, quiet
from autoprune.search.samplers.sampler import SamplerSettings, Told
from autoprune.search.trial import Choice

ETA = 5.0
CROSSOVER_PROBABILITY = 0.9


def population_size(trials: int) -> int:
    """1.5 times the root of the trials: parents enough to cover a front, generations enough to move it.

    A multiple of 4, so that workers have equal shares. On a synthetic problem of 40 variables, from seeds allocated by
    noisy damage curves, 200 trials raise the hypervolume from .605 to .608 with 8 parents, .610 with 12, .611 with 24,
    .611 with 48; 1,000 trials from .608 to .610, .611, .615, .617. Without such seeds fewer parents do a little better.
    """
    return min(64, max(8, 4 * int(1.5 * math.sqrt(trials) / 4)))


def generation_key(kind: type[BaseGASampler]) -> str:
    """The system attribute that holds a trial's generation.

    Private in Optuna 5.0, but the only source of the name; tests hold that the tag makes parents.
    """
    key: str = kind._get_generation_key()
    return key


class Genetic(ABC):
    """An Optuna sampler over ordered integers, without its own bookkeeping of generations."""

    key: str  # as `generation_key`

    def __init__(self, settings: SamplerSettings) -> None:
        self.batch_size = settings.batch or population_size(settings.trials)
        self._objectives = settings.objectives
        self._memory = MemoryStudy(settings)
        self._generation = 0  # of the children: 1 once there is something to select from

    def ask(self, count: int, seed: int) -> list[Choice]:
        """Children of the parents so far; random choices where there are none to cross."""
        sampler = self._sampler(seed)
        parents = sampler.get_parent_population(self._memory.study(sampler), self._generation)
        return self._memory.ask(sampler, count, {self.key: self._generation}, relative=len(parents) >= 2)

    def tell(self, batch: Sequence[Told]) -> None:
        """Select the next parents from a generation and its own parents."""
        parents = self._parents()
        self._memory.restart()
        self._memory.add(batch, {self.key: 0})
        self._memory.keep(parents)
        self._generation = 1
        self._parents()  # at once: Optuna answers in another order when asked again

    def parents(self) -> list[Choice]:
        """Choices of the parents of the next generation."""
        return [tuple(int(level) for level in trial.params.values()) for trial in self._parents()]

    def _parents(self) -> list[FrozenTrial]:
        sampler = self._sampler(0)
        return sampler.get_parent_population(self._memory.study(sampler), self._generation)

    def _sampler(self, seed: int) -> BaseGASampler:
        """A fresh one for each batch: no state but the study's, so a resumed run cannot differ."""
        with quiet():
            return self._make(seed)

    @abstractmethod
    def _make(self, seed: int) -> BaseGASampler:
        """The sampler of Optuna."""

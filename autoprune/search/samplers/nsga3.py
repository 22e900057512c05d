"""NSGA-III: Deb & Jain, "An Evolutionary Many-Objective Optimization Algorithm Using Reference-Point-Based Nondominated
Sorting Approach, Part I", IEEE TEC 18(4), 2014. For three objectives and more: parents are spread by reference points.
"""

from __future__ import annotations

import math

import numpy as np
from optuna import Study
from optuna.samplers import NSGAIIISampler
from optuna.samplers.nsgaii import PolynomialMutation, SBXCrossover
from optuna.trial import FrozenTrial

from autoprune.search.samplers.genetic import CROSSOVER_PROBABILITY, ETA, Genetic, generation_key


def divisions(objectives: int, population: int) -> int:
    """How finely each objective is divided: as many reference points as parents at most (section IV-B there)."""
    found = 1
    while objectives > 1 and math.comb(found + objectives, objectives - 1) <= population:
        found += 1
    return found


class _Sampler(NSGAIIISampler):
    """Optuna's, which cannot scale an objective that is known of no candidate: those that are infeasible."""

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """As Optuna's; the nearest to feasible where objectives are unknown throughout."""
        candidates = self.get_population(study, generation - 1) + self.get_parent_population(study, generation - 1)
        if not candidates or np.isfinite([trial.values for trial in candidates]).any(axis=0).all():
            parents: list[FrozenTrial] = super().select_parent(study, generation)
            return parents
        excess = [sum(max(0.0, value) for value in trial.constraints.values()) for trial in candidates]
        return [candidates[place] for place in np.argsort(excess, kind="stable")[: self.population_size]]


class Nsga3(Genetic):
    """Optuna's NSGA-III."""

    key = generation_key(_Sampler)

    def _make(self, seed: int) -> _Sampler:
        return _Sampler(
            population_size=self.batch_size,
            crossover=SBXCrossover(eta=ETA),
            crossover_prob=CROSSOVER_PROBABILITY,
            mutation=PolynomialMutation(eta=ETA),
            dividing_parameter=divisions(self._objectives, self.batch_size),
            seed=seed,
        )

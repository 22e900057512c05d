"""NSGA-II: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE TEC 6(2), 2002."""

from __future__ import annotations

from optuna.samplers import NSGAIISampler
from optuna.samplers.nsgaii import PolynomialMutation, SBXCrossover

from autoprune.search.samplers.genetic import CROSSOVER_PROBABILITY, ETA, Genetic, generation_key

GENERATION_KEY = generation_key(NSGAIISampler)


class Nsga2(Genetic):
    """Optuna's NSGA-II."""

    key = GENERATION_KEY

    def _make(self, seed: int) -> NSGAIISampler:
        return NSGAIISampler(
            population_size=self.batch_size,
            crossover=SBXCrossover(eta=ETA),
            crossover_prob=CROSSOVER_PROBABILITY,
            mutation=PolynomialMutation(eta=ETA),
            seed=seed,
        )

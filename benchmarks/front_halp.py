"""A HALP-like knapsack: Taylor scores are kept, a latency budget is spent.

M. Shen et al., "Structural Pruning via Latency-Saliency Knapsack" (NeurIPS 2022): the units of a layer that are worth
most go first, what a layer costs at a width comes from a lookup table, and the knapsack keeps the most worth within a
budget. Theirs prunes a little between steps of training and looks costs up anew each time; here the costs are those
around several uniform cuts, and every budget of each is solved exactly.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoprune.graph import TracedModule
from autoprune.pruning.gradients import gradient_statistics
from autoprune.search.allocation import allocate_separable, linearised, spread_places
from autoprune.search.evaluation import threads_of_torch
from benchmarks.front_bench import Bench, Evaluated, Ledger, Outcome, Recipe, Subject

BASES = (0.0, 0.25, 0.5, 0.75)  # uniform cuts around which costs are looked up
BUDGETS = 30  # latencies, for each of them

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Halp:
    """The knapsack.

    Attributes:
        recalibrate: re-estimate batch norms.
    """

    recalibrate: bool

    @property
    def recipe(self) -> Recipe:
        """How policies become models."""
        return Recipe("taylor", recalibrate=self.recalibrate)

    def applies(self, subject: Subject) -> bool:
        """See `Method`."""
        return subject.has_norms or not self.recalibrate

    def run(self, bench: Bench, seed: int, budget: int, folder: Path) -> Outcome:
        """See `Method`."""
        start = time.perf_counter()
        pruner, ledger = bench.pruner(self.recipe, seed), Ledger(bench)
        with threads_of_torch(bench.threads):
            lost = lost_saliency(bench, seed)
        wanted = [objective for objective in bench.problem.objectives if not objective.evaluated]

        def cost(choices: npt.NDArray[np.int64]) -> Floats:
            return bench.problem.costs.values(wanted, choices)[:, 0]

        bases = np.array([bench.space.uniform(ratio) for ratio in BASES], dtype=np.int64)
        each = min(BUDGETS, max(1, budget // len(BASES)))
        choices: list[Sequence[int]] = []
        for slopes in linearised(cost, bases, lost):
            solved = allocate_separable(lost, slopes)
            choices += [[int(level) for level in row] for row in solved[spread_places(len(solved), each)]]
        setup_s = time.perf_counter() - start
        for choice in choices:
            policy = bench.space.policy(bench.space.canonical(choice))
            if len(ledger.evaluated) < budget and not ledger.knows(policy):
                ledger.judge(policy, partial(pruner.build, policy))
        return Outcome(tuple(ledger.evaluated), setup_s)

    def module(self, bench: Bench, seed: int, evaluated: Evaluated) -> TracedModule:
        """See `Method`."""
        return bench.pruner(self.recipe, seed).build(evaluated.policy)


def lost_saliency(bench: Bench, seed: int) -> list[Floats]:
    """Per variable of the space, the Taylor scores of the units that each level removes.  # n_variables x (n_levels,)

    A group that gradients say nothing of counts as worth nothing.
    """
    scores = gradient_statistics(bench.graph, bench.calibration, {"taylor"}, bench.calibration_loss, seed)["taylor"]
    kept = {}  # group -> worth of the best units at every width  (size + 1,)
    for group in bench.graph.groups.values():
        worth = scores[group.id].double().numpy() if group.id in scores else np.zeros(group.size)
        kept[group.id] = np.append(0.0, np.cumsum(np.sort(worth)[::-1]))
    return [
        np.array(
            [
                sum(float(kept[group][-1] - kept[group][width]) for group, width in zip(v.groups, row, strict=True))
                for row in v.widths
            ]
        )
        for v in bench.space.variables
    ]

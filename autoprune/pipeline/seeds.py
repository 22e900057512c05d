"""Where a search starts: the dense policy, uniform ratios, and the predicted front of damage against every cost."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from autoprune.core.errors import AutopruneError
from autoprune.search.allocation import Integers, allocate, repaired
from autoprune.search.damage import DamageCurves
from autoprune.search.objectives import Objective
from autoprune.search.prior import Floats, make_prior
from autoprune.search.trial import Seed

if TYPE_CHECKING:
    from autoprune.pipeline.problem import Problem, SearchSettings

LADDER = (0.25, 0.5, 0.75)  # uniform ratios among the seeds
SEED_SHARE = 0.3  # of all trials are seeds


def make_seeds(problem: Problem, curves: DamageCurves, settings: SearchSettings) -> list[Seed]:
    """The dense policy, a ladder of uniform ratios, and the predicted front of damage against each latency or cost.

    All but the dense one meet the constraints: of those that would not, the nearest that do stand in. Costs take turns,
    so that fewer trials than seeds still serve every device.
    """
    space, violations = problem.space, make_prior(problem).violations
    ladder = np.array([space.uniform(ratio) for ratio in LADDER], dtype=np.int64)
    feasible = ladder if not problem.bounds else repaired(ladder, curves.tables, violations)
    seeds = [Seed(space.policy(space.dense), "dense")]
    seeds += [Seed(space.policy(_levels(choice)), "uniform") for choice in feasible]
    costs = seeded_costs(problem)
    points = max(4, (max(4, round(SEED_SHARE * settings.trials)) - len(seeds)) // max(1, len(costs)))
    fronts = [_front(problem, curves, objective, points, settings.seed) for objective in costs]
    for turn in itertools.zip_longest(*map(list, fronts)):
        seeds += [Seed(space.policy(_levels(choice)), "allocation") for choice in turn if choice is not None]
    return seeds


def seeded_costs(problem: Problem) -> list[Objective]:
    """The costs among the objectives; where there are none, those that are bounded."""
    costs = [objective for objective in problem.objectives if not objective.evaluated]
    bounded = [bound.objective for bound in problem.bounds if not bound.objective.evaluated]
    return costs or list(dict.fromkeys(bounded))


def _front(problem: Problem, curves: DamageCurves, objective: Objective, points: int, seed: int) -> Integers:
    """Choices spread along the feasible front of damage against one cost, in an order of which any part is spread."""

    def cost(choices: Integers) -> Floats:
        return problem.costs.values([objective], choices)[:, 0]

    violation = make_prior(problem).violations if problem.bounds else None
    try:
        choices = allocate(curves.tables, cost, points, violation=violation, seed=seed)
    except AutopruneError:  # constraints so tight that none was found: the search itself may still find some
        return np.zeros((0, len(problem.space.levels)), dtype=np.int64)
    return np.asarray(choices[spread_order(len(choices))])


def spread_order(count: int) -> Integers:
    """0..count-1, ends first, then always the middle of the widest gap that is left."""
    order = list(dict.fromkeys((0, count - 1)))[:count]
    while len(order) < count:
        placed = sorted(order)
        gaps = np.diff(placed)
        widest = int(np.argmax(gaps))
        order.append(placed[widest] + int(gaps[widest]) // 2)
    return np.array(order, dtype=np.int64)


def _levels(choice: Integers) -> tuple[int, ...]:
    return tuple(map(int, choice))

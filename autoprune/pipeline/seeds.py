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
from autoprune.search.quality_model import Damage
from autoprune.search.trial import Seed

if TYPE_CHECKING:
    from autoprune.pipeline.problem import Problem, SearchSettings

LADDER = (0.25, 0.5, 0.75)  # uniform ratios among the seeds
SEED_SHARE = 0.3  # of all trials are seeds


def make_seeds(problem: Problem, curves: DamageCurves, settings: SearchSettings) -> list[Seed]:
    """All seeds: `opening_seeds` and `allocated_seeds`."""
    return [*opening_seeds(problem), *allocated_seeds(problem, curves, settings)]


def opening_seeds(problem: Problem) -> list[Seed]:
    """The dense policy and a ladder of uniform ratios: known without damage curves, so that they are evaluated first.

    Of the ladder, policies that do not meet the constraints are replaced by the nearest that do.
    """
    space = problem.space
    ladder = np.array([space.uniform(ratio) for ratio in LADDER], dtype=np.int64)
    if problem.bounds:
        ladder = repaired(ladder, Damage(space.levels).tables, make_prior(problem).violations)
    seeds = [Seed(space.policy(space.dense), "dense")]
    return seeds + [Seed(space.policy(_levels(choice)), "uniform") for choice in ladder]


def allocated_seeds(problem: Problem, curves: DamageCurves, settings: SearchSettings) -> list[Seed]:
    """The predicted fronts of damage against each latency or cost, all of them feasible.

    Costs take turns, so that fewer trials than seeds still serve every device.
    """
    costs = seeded_costs(problem)
    points = _points(len(costs), settings)
    fronts = [_front(problem, curves, objective, points, settings.seed) for objective in costs]
    turns = itertools.zip_longest(*map(list, fronts))
    return [
        Seed(problem.space.policy(_levels(choice)), "allocation")
        for turn in turns
        for choice in turn
        if choice is not None
    ]


def most_allocated(problem: Problem, settings: SearchSettings) -> int:
    """How many allocated seeds there are at most."""
    costs = len(seeded_costs(problem))
    return costs * _points(costs, settings)


def _points(costs: int, settings: SearchSettings) -> int:
    """Of the predicted front of each cost."""
    return max(4, (max(4, round(SEED_SHARE * settings.trials)) - 1 - len(LADDER)) // max(1, costs))


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

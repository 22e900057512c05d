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

LADDER = (0.25, 0.5, 1.0)  # uniform ratios among the seeds; the smallest policy tells how bad it can get
SEED_SHARE = 0.2  # of all trials are seeds
RICHER = 4  # times as many policies are allocated, to choose the seeds among


def make_seeds(problem: Problem, curves: DamageCurves, settings: SearchSettings) -> list[Seed]:
    """All seeds, where damage is known from the start: first those that may widen the front most, then the ladder,
    which tells more where the prediction is wrong, last the dense policy, which was judged before."""
    dense, *ladder = opening_seeds(problem)
    others = [*allocated_seeds(problem, curves, settings), *ladder]
    return [*(seed for seed in others if seed.policy != dense.policy), dense]


def opening_seeds(problem: Problem) -> list[Seed]:
    """The dense policy and a ladder of uniform ratios: known without damage curves, evaluated before they are measured.

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
    """Choices along the feasible front of damage against one cost, those first that tell most of it."""

    def cost(choices: Integers) -> Floats:
        return problem.costs.values([objective], choices)[:, 0]

    violation = make_prior(problem).violations if problem.bounds else None
    try:
        choices = allocate(curves.tables, cost, RICHER * points, violation=violation, seed=seed)
    except AutopruneError:  # constraints so tight that none was found: the search itself may still find some
        return np.zeros((0, len(problem.space.levels)), dtype=np.int64)
    return np.asarray(choices[gain_order(curves.predict(choices), cost(choices), points)])


def gain_order(damage: Floats, cost: Floats, count: int) -> Integers:
    """Places of a front, those first that add most hypervolume to the ones before.

    Damage has no unit yet; on a logarithmic scale it is about as even along a front as a metric is.

    Args:
        damage: falling.  # (n,)
        cost: rising.  # (n,)
        count: places at most.
    """
    if not len(damage):
        return np.zeros(0, dtype=np.int64)
    lost = np.log1p(damage / max(float(np.median(damage)), 1e-12))
    worst = lost.max() + 1e-9
    left, right = np.full(len(lost), worst), np.full(len(lost), cost.max())  # the taken on either side
    free = np.ones(len(lost), dtype=np.bool_)
    order: list[int] = []
    while free.any() and len(order) < count:
        gain = np.where(free, (left - lost) * (right - cost), -1.0)
        best = int(np.argmax(gain))
        order.append(best)
        free[best] = False
        right[:best] = np.minimum(right[:best], cost[best])
        left[best + 1 :] = np.minimum(left[best + 1 :], lost[best])
    return np.array(order, dtype=np.int64)


def _levels(choice: Integers) -> tuple[int, ...]:
    return tuple(map(int, choice))

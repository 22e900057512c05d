"""A search problem whose front a test can enumerate."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.pareto.dominance import non_dominated
from autoprune.search.objectives import Bound, Objective, parse_bounds, parse_objectives
from autoprune.search.space import SearchSpace, Variable
from tests.search.jobs import SyntheticEvaluator

__all__ = ["SyntheticCosts", "SyntheticEvaluator", "SyntheticProblem", "SyntheticTask", "synthetic_problem"]


@dataclass(frozen=True)
class SyntheticTask:
    """The part of a task that a search looks at."""

    quality: str = "error"
    minimize: tuple[str, ...] = ()


class SyntheticCosts:
    """Latency: each group costs its width times a price; size: the sum of widths."""

    def __init__(self, space: SearchSpace, prices: tuple[float, ...]) -> None:
        self._space = space
        self._prices = np.array(prices)
        self.calls = 0

    def values(self, objectives: Sequence[Objective], choices: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """As `Costs.values`."""
        self.calls += 1
        widths = self._space.group_widths(choices)
        columns = {"latency_p50": widths @ self._prices, "size": widths.sum(axis=1).astype(float)}
        return np.stack([columns[objective.kind] for objective in objectives], axis=1)


@dataclass(frozen=True, eq=False)
class SyntheticProblem:
    """A search problem whose front a test can enumerate."""

    space: SearchSpace
    objectives: tuple[Objective, ...]
    bounds: tuple[Bound, ...]
    costs: SyntheticCosts
    task: Any
    evaluator: SyntheticEvaluator

    def front(self) -> set[tuple[float, ...]]:
        """Objective values of the true front, by enumeration."""
        choices = list(itertools.product(*[range(count) for count in self.space.levels]))
        table = [objective for objective in self.objectives if not objective.evaluated]
        costs = self.costs.values(table, choices)
        rows = np.array(
            [[self.evaluator.error(self.space.policy(c)), *costs[i]] for i, c in enumerate(choices)], dtype=float
        )
        for bound in self.bounds:
            values = self.costs.values([bound.objective], choices)[:, 0]
            rows[bound.violation(values) > 0.0] = np.inf
        return {tuple(row) for row in rows[non_dominated(rows)]}


def synthetic_problem(
    variables: int = 5, levels: int = 4, constraints: tuple[str, ...] = (), seed: int = 0, **evaluator: Any
) -> SyntheticProblem:
    """A problem of `variables` groups of `levels` units each."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(variables)]
    space = SearchSpace(
        "synthetic",
        dict.fromkeys(names, levels),
        tuple(Variable(name, (name,), tuple((width,) for width in range(1, levels + 1))) for name in names),
    )
    sensitivities = tuple(float(x) for x in rng.uniform(0.01, 1.0, variables))
    prices = tuple(float(x) for x in rng.uniform(1.0, 5.0, variables))
    return SyntheticProblem(
        space,
        parse_objectives(["error", "latency_p50"], ["error"], ["cpu"]),
        parse_bounds(constraints, ["error", "accuracy"], ["cpu"]),
        SyntheticCosts(space, prices),
        SyntheticTask(),
        SyntheticEvaluator(sensitivities, levels, **evaluator),
    )

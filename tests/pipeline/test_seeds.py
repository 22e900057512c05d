"""Seeds: feasible under all constraints, spread over each cost, and some for every device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autoprune.pareto.hypervolume import hypervolume
from autoprune.pipeline.seeds import gain_order, make_seeds, seeded_costs
from autoprune.search.objectives import parse_bounds, parse_objectives
from autoprune.search.prior import make_prior
from tests.search.landscape import LandscapeProblem, landscape_problem


def seeds_of(problem: Any, trials: int = 100) -> list[Any]:
    wanted: Any = SimpleNamespace(trials=trials, seed=0)
    return make_seeds(problem, landscape_problem(16, seed=1).curves(), wanted)


def violations(problem: Any, seeds: list[Any]) -> Any:
    return make_prior(problem).violations(np.array([problem.space.choice(seed.policy) for seed in seeds]))


def test_without_constraints_they_span_the_costs() -> None:
    problem = landscape_problem(16, seed=1)
    seeds = seeds_of(problem)
    assert [seed.origin for seed in seeds] == [*["allocation"] * 16, "uniform", "uniform", "uniform", "dense"]
    choices = np.array([problem.space.choice(seed.policy) for seed in seeds])
    costs = problem.costs.values(problem.objectives[1:], choices)[:, 0]
    assert costs.max() == problem.costs.values(problem.objectives[1:], [problem.space.dense])[0, 0]
    assert costs.min() < 1.1 * problem.costs.values(problem.objectives[1:], [problem.space.narrowest])[0, 0]
    assert np.diff(np.sort(costs)).max() < 0.25 * np.ptp(costs)
    few = np.sort(costs[:7])  # any first part of the allocated ones is spread
    assert np.diff(few).max() < 0.5 * np.ptp(costs)


@pytest.mark.parametrize(
    "constraints",
    [("latency_p50 <= 600us",), ("size <= 300KB",), ("latency_p50 <= 700us", "size <= 200KB"), ("size >= 500KB",)],
)
def test_all_but_the_dense_one_meet_the_constraints(constraints: tuple[str, ...]) -> None:
    problem = landscape_problem(16, seed=1, constraints=constraints)
    seeds = seeds_of(problem)
    assert (violations(problem, seeds)[:-1] <= 0.0).all()
    assert sum(seed.origin == "uniform" for seed in seeds) == 3  # those that would not were led to what does
    assert sum(seed.origin == "allocation" for seed in seeds) > 10
    choices = np.array([problem.space.choice(seed.policy) for seed in seeds if seed.origin == "allocation"])
    free = landscape_problem(16, seed=1)
    kept = [seed for seed in seeds_of(free) if seed.origin == "allocation" and not violations(problem, [seed])[0]]
    assert len(choices) > len(kept)  # replaced, not dropped


def test_a_bound_pulls_no_seed_away_from_the_front() -> None:
    """Under a bound that binds, seeds are as good as any that brute force over their neighbourhood finds."""
    problem = landscape_problem(16, seed=1, constraints=("size <= 200KB",))
    curves = problem.curves()
    choices = np.array([problem.space.choice(seed.policy) for seed in seeds_of(problem) if seed.origin == "allocation"])
    damage = curves.predict(choices)
    costs = problem.costs.values(problem.objectives[1:], choices)[:, 0]
    rng = np.random.default_rng(0)
    rivals = np.clip(np.repeat(choices, 200, axis=0) + rng.integers(-1, 2, (200 * len(choices), 16)), 0, 7)
    posed: Any = problem
    rivals = rivals[make_prior(posed).violations(rivals) <= 0.0]
    rival_costs, rival_damage = problem.costs.values(problem.objectives[1:], rivals)[:, 0], curves.predict(rivals)
    beaten = [((rival_costs <= c) & (rival_damage < d - 1e-9)).any() for c, d in zip(costs, damage, strict=True)]
    assert np.mean(beaten) < 0.15


def test_every_cost_has_its_seeds() -> None:
    problem = landscape_problem(16, seed=1, objectives=("error", "latency_p50", "size"))
    seeds = seeds_of(problem)
    turns = np.array([problem.space.choice(seed.policy) for seed in seeds if seed.origin == "allocation"])
    assert len(seeds) <= 30
    costs = problem.costs.values(problem.objectives[1:], turns)
    for column in range(2):  # each cost's own turns reach both of its ends
        own = costs[column::2, column]
        assert np.ptp(own) > 0.9 * np.ptp(costs[:, column])


def test_which_costs() -> None:
    def costs(objectives: list[str], constraints: list[str], profiles: list[str]) -> list[str]:
        problem: Any = SimpleNamespace(
            objectives=parse_objectives(objectives, ["error"], profiles),
            bounds=parse_bounds(constraints, ["error"], profiles),
        )
        return [objective.name for objective in seeded_costs(problem)]

    assert costs(["error", "latency_p50"], ["size <= 1MB"], ["a", "b"]) == ["latency_p50@a", "latency_p50@b"]
    assert costs(["error"], ["latency_p50 <= 1ms", "latency_p50 >= 1us"], ["a"]) == ["latency_p50"]
    assert costs(["error"], [], ["a"]) == []


def test_quality_alone_has_a_ladder_down_to_the_smallest_policy() -> None:
    problem: LandscapeProblem = landscape_problem(16, seed=1, objectives=("error",))
    seeds = seeds_of(problem)
    assert [seed.origin for seed in seeds] == ["uniform", "uniform", "uniform", "dense"]
    assert problem.space.choice(seeds[2].policy) == problem.space.narrowest
    assert problem.space.choice(seeds[3].policy) == problem.space.dense


def test_the_first_places_of_a_front_cover_most_of_it() -> None:
    cost = np.linspace(0.0, 1.0, 101)
    damage = 100.0 * (1.0 - cost) ** 3
    order = gain_order(damage, cost, 40)
    assert len(set(order.tolist())) == 40
    lost = np.log1p(damage / np.median(damage))
    points = np.stack([lost / lost[0], cost], axis=1)
    volumes = [hypervolume(points[order[:k]], [1.0, 1.0]) for k in (1, 2, 4, 40)]
    assert volumes == sorted(volumes)
    whole = hypervolume(points, [1.0, 1.0])
    assert volumes[2] > 0.8 * whole
    assert volumes[0] == pytest.approx(max(hypervolume(point[None], [1.0, 1.0]) for point in points))
    assert sorted(gain_order(damage[:3], cost[:3], 9).tolist()) == [0, 1, 2]
    assert gain_order(np.zeros(0), np.zeros(0), 4).tolist() == []

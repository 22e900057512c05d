"""Allocation against brute force: exact where damage and cost are sums, close where the cost couples variables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.errors import AutopruneError, InputError
from autoprune.pareto.dominance import non_dominated
from autoprune.pareto.hypervolume import hypervolume
from autoprune.search.allocation import CostOf, allocate, allocate_separable, linearised, repaired, single_moves

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

whole = st.integers(0, 40).map(float)
problems = st.lists(
    st.integers(1, 4).flatmap(
        lambda levels: st.tuples(
            st.lists(whole, min_size=levels, max_size=levels), st.lists(whole, min_size=levels, max_size=levels)
        )
    ),
    min_size=1,
    max_size=5,
)


def totals(tables: Sequence[npt.ArrayLike], choices: Integers) -> Floats:
    columns = [np.asarray(table, dtype=np.float64)[choices[:, v]] for v, table in enumerate(tables)]
    return np.asarray(np.sum(columns, axis=0))


def everything(levels: Sequence[int]) -> Integers:
    return np.array(list(itertools.product(*(range(count) for count in levels))), dtype=np.int64)


def front_of(damage: Floats, cost: Floats) -> Floats:
    values = np.unique(np.stack([cost, damage], axis=1), axis=0)
    return values[non_dominated(values)]


@settings(max_examples=60, deadline=None)
@given(problems)
def test_separable_is_the_exact_front(problem: list[tuple[list[float], list[float]]]) -> None:
    damage, cost = [d for d, _ in problem], [c for _, c in problem]
    every = everything([len(table) for table in damage])
    found = allocate_separable(damage, cost)
    np.testing.assert_array_equal(
        np.stack([totals(cost, found), totals(damage, found)], axis=1),
        front_of(totals(damage, every), totals(cost, every)),
    )


@settings(max_examples=30, deadline=None)
@given(problems, st.integers(0, 2**31))
def test_coupled_is_close_to_the_exact_front(problem: list[tuple[list[float], list[float]]], seed: int) -> None:
    levels = [len(table) for table, _ in problem]
    damage = [sorted(table, reverse=True) for table, _ in problem]
    cost = chained_cost(levels, seed)
    every = everything(levels)
    exact = front_of(totals(damage, every), cost(every))
    found = allocate(damage, cost, points=len(every))
    reached = front_of(totals(damage, found), cost(found))
    reference = exact.max(axis=0) + 1.0
    assert hypervolume(reached, reference) >= 0.98 * hypervolume(exact, reference)


def chained_cost(levels: Sequence[int], seed: int) -> CostOf:
    """Each layer costs a power of input width times output width, as convolutions do."""
    scale = np.random.default_rng(seed).uniform(0.5, 4.0, len(levels))

    def cost(choices: Integers) -> Floats:
        widths = np.concatenate([np.full((len(choices), 1), 3.0), (choices + 1.0) / np.array(levels)], axis=1)
        return np.asarray(((8 * widths[:, :-1] * widths[:, 1:]) ** 1.2 * scale + 1.0).sum(axis=1))

    return cost


def large_problem(variables: int = 16, levels: int = 8) -> tuple[list[Floats], CostOf]:
    rng = np.random.default_rng(1)
    share = (np.arange(levels) + 1) / levels
    damage = [scale * (1 - share) ** 2 for scale in 10 ** rng.uniform(-2, 0, variables)]
    return damage, chained_cost([levels] * variables, 1)


def test_beats_uniform_ratios_and_spreads_along_the_front() -> None:
    damage, cost = large_problem()
    found = allocate(damage, cost, points=24)
    assert found.shape == (24, 16)
    assert len(np.unique(found, axis=0)) == 24
    assert (found[0] == 0).all()
    assert (found[-1] == 7).all()
    costs = cost(found)
    assert (np.diff(costs) > 0).all()
    assert (np.diff(totals(damage, found)) < 0).all()
    assert np.diff(costs).max() < 0.15 * (costs[-1] - costs[0])
    ladder = np.repeat(np.arange(8)[:, None], 16, axis=1)
    for row in ladder[1:-1]:
        affordable = found[cost(found) <= cost(row[None])[0]]
        assert totals(damage, affordable).min() < totals(damage, row[None])[0]


@settings(max_examples=30, deadline=None)
@given(problems, st.integers(0, 2**31), st.floats(0.2, 0.9), st.floats(0.2, 0.9))
def test_constrained_is_close_to_the_exact_feasible_front(
    problem: list[tuple[list[float], list[float]]], seed: int, one: float, other: float
) -> None:
    """Two bounds besides the cost: on another coupled cost, and on the sum of levels."""
    levels = [len(table) for table, _ in problem]
    damage = [sorted(table, reverse=True) for table, _ in problem]
    cost, second = chained_cost(levels, seed), chained_cost(levels, seed + 1)
    every = everything(levels)
    limits = second(every).min() + one * np.ptp(second(every)), other * (sum(levels) - len(levels))

    def violation(choices: Integers) -> Floats:
        over = np.maximum(second(choices) / limits[0] - 1.0, 0.0)
        return np.asarray(over + np.maximum(choices.sum(axis=1) - limits[1], 0.0))

    feasible = every[violation(every) <= 0.0]
    exact = front_of(totals(damage, feasible), cost(feasible))
    found = allocate(damage, cost, points=len(every), violation=violation)
    assert (violation(found) <= 0.0).all()
    reached = front_of(totals(damage, found), cost(found))
    reference = exact.max(axis=0) + 1.0
    assert hypervolume(reached, reference) >= 0.97 * hypervolume(exact, reference)


def test_constraints_in_a_large_problem() -> None:
    """What is found under a bound is as good as what is found without it where that meets it anyway."""
    damage, cost = large_problem()
    second = chained_cost([8] * 16, 7)
    limit = float(second(np.full((1, 16), 4))[0])

    def violation(choices: Integers) -> Floats:
        return np.maximum(second(choices) / limit - 1.0, 0.0)

    free, found = allocate(damage, cost, points=24), allocate(damage, cost, points=24, violation=violation)
    assert (violation(found) <= 0.0).all()
    assert len(found) == 24
    inside = free[violation(free) <= 0.0]
    assert 0 < len(inside) < 24
    reference = np.array([float(cost(free).max()), totals(damage, free).max()])
    volumes = [
        hypervolume(np.stack([cost(rows), totals(damage, rows)], axis=1), reference + 1.0) for rows in (found, inside)
    ]
    assert volumes[0] > 1.002 * volumes[1]


def test_repairs_go_by_the_least_damage() -> None:
    damage = [np.array([5.0, 1.0, 0.0]), np.array([0.5, 0.1, 0.0])]

    def violation(choices: Integers) -> Floats:
        return np.maximum(choices.sum(axis=1) - 2.0, 0.0)

    found = repaired(np.array([[2, 2], [2, 0], [0, 2]]), damage, violation)
    assert found.tolist() == [[2, 0], [2, 0], [0, 2]]
    none = repaired(np.array([[2, 2]]), damage, lambda choices: np.ones(len(choices)))
    assert none.shape == (0, 2)
    with pytest.raises(AutopruneError, match="found no choice that meets the constraints"):
        allocate(damage, lambda choices: choices.sum(axis=1).astype(np.float64), violation=lambda c: np.ones(len(c)))


def test_same_seed_same_choices() -> None:
    damage, cost = large_problem(8, 6)
    np.testing.assert_array_equal(allocate(damage, cost, 12, seed=3), allocate(damage, cost, 12, seed=3))


def test_thinning_keeps_the_ends_and_stays_near_the_front() -> None:
    rng = np.random.default_rng(0)
    damage = [np.sort(rng.random(6))[::-1] for _ in range(10)]
    cost = [np.sort(rng.random(6)) for _ in range(10)]
    exact, thin = allocate_separable(damage, cost, limit=10**6), allocate_separable(damage, cost, limit=200)
    points = [np.stack([totals(cost, rows), totals(damage, rows)], axis=1) for rows in (exact, thin)]
    np.testing.assert_allclose(points[0][[0, -1]], points[1][[0, -1]])
    reference = points[0].max(axis=0)
    assert hypervolume(points[1], reference) > 0.995 * hypervolume(points[0], reference)


def test_wider_can_be_cheaper_and_unusable_levels_are_left_out() -> None:
    found = allocate_separable([[3.0, 2.0, 0.0]], [[1.0, 5.0, 4.0]])
    assert found.tolist() == [[0], [2]]
    assert allocate_separable([[np.inf, 0.0]], [[1.0, 2.0]]).tolist() == [[1]]


def test_linearised_is_the_true_cost_of_single_moves() -> None:
    cost = chained_cost([3, 4, 2], 5)
    base = np.array([[1, 2, 0]])
    tables = linearised(cost, base, [np.zeros(3), np.zeros(4), np.zeros(2)])[0]
    moved = np.array([[1, 3, 0]])
    assert tables[1][3] == pytest.approx(float(cost(moved)[0] - cost(base)[0]))
    assert [table[level] for table, level in zip(tables, base[0], strict=True)] == [0.0, 0.0, 0.0]
    assert single_moves(base[0], [3, 4, 2]).shape == (9, 3)


@pytest.mark.parametrize(
    ("damage", "cost", "message"),
    [([], [], "at least one variable"), ([[]], [[]], "at least one level"), ([[1.0]], [[1.0, 2.0]], "as many costs")],
)
def test_refuses_tables_that_do_not_fit(damage: list[list[float]], cost: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        allocate_separable(damage, cost)


def test_refuses_no_points() -> None:
    with pytest.raises(InputError, match="at least 1 point"):
        allocate([[1.0, 0.0]], lambda choices: choices[:, 0].astype(np.float64), points=0)


def test_refuses_costs_that_are_no_numbers() -> None:
    with pytest.raises(AutopruneError, match="expected finite damages and costs"):
        allocate([[1.0, 0.0]], lambda choices: np.full(len(choices), np.nan))

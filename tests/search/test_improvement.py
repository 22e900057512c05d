"""Expected hypervolume improvement: against the hypervolume itself, where nothing is uncertain, and in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.core.errors import InputError
from autoprune.pareto.hypervolume import hypervolume
from autoprune.search.improvement import Improvement, spread_points

BOUNDS = np.array([[0.0], [1.0]])


def test_without_uncertainty_it_is_the_hypervolume_gained() -> None:
    rng = np.random.default_rng(0)
    costs, values = rng.random((12, 1)), rng.random(12)
    front = np.column_stack([values, costs])
    improvement = Improvement(costs, values, 1.0, BOUNDS)
    for cost, value in rng.random((30, 2)):
        gained = hypervolume(np.vstack([front, [value, cost]]), [1.0, 1.0]) - hypervolume(front, [1.0, 1.0])
        found = improvement.of(np.array([[cost]]), np.array([[value]]))[0]
        assert found == pytest.approx(gained, abs=1.0 / 200)


def test_several_costs_are_one_integral() -> None:
    rng = np.random.default_rng(1)
    costs, values = rng.random((8, 3)), rng.random(8)
    front = np.column_stack([values, costs])
    improvement = Improvement(costs, values, 1.0, np.array([[0.0] * 3, [1.0] * 3]))
    asked, reached = rng.random((40, 3)) * 0.6, rng.random((40, 1)) * 0.5
    gained = [
        hypervolume(np.vstack([front, [*value, *cost]]), [1.0] * 4) - hypervolume(front, [1.0] * 4)
        for cost, value in zip(asked, reached, strict=True)
    ]
    found = improvement.of(asked, reached)
    assert np.corrcoef(found, gained)[0, 1] > 0.98
    np.testing.assert_allclose(found, gained, atol=0.05)


def test_uncertainty_is_worth_something_where_the_mean_is_not() -> None:
    improvement = Improvement(np.array([[0.2]]), np.array([0.5]), 1.0, BOUNDS)
    sure, unsure = np.array([[0.6, 0.6, 0.6]]), np.array([[0.3, 0.6, 0.9]])
    cost = np.array([[0.3]])
    assert improvement.of(cost, sure)[0] == 0.0
    assert improvement.of(cost, unsure)[0] == pytest.approx(0.7 * 0.2 / 3, rel=0.02)


def test_a_batch_spreads() -> None:
    """Two crowds; the second candidate of the better crowd adds less than the first of the other."""
    improvement = Improvement(np.zeros((0, 1)), np.zeros(0), 1.0, BOUNDS)
    costs = np.array([[0.1], [0.11], [0.12], [0.6], [0.61]])
    quantiles = np.array([[0.5], [0.5], [0.5], [0.1], [0.1]])
    chosen = improvement.choose(costs, quantiles, 5)
    assert chosen[:2] == [0, 3]
    assert improvement.choose(costs, quantiles, 5) == chosen  # and forgets what it believed
    assert improvement.choose(costs, np.full((5, 1), 2.0), 5) == []
    assert improvement.choose(costs, quantiles, 2, lambda place: place != 0) == [1, 3]


def test_a_batch_is_what_asking_for_all_each_time_gives() -> None:
    rng = np.random.default_rng(3)
    improvement = Improvement(rng.random((5, 2)), rng.random(5), 1.0, np.array([[0.0] * 2, [1.0] * 2]))
    costs, quantiles = rng.random((60, 2)), np.sort(rng.random((60, 1)) + rng.normal(0.0, 0.1, (60, 5)), axis=1)
    expected: list[int] = []
    known_costs, known = np.zeros((0, 2)), np.zeros(0)
    for _ in range(6):
        before = Improvement(known_costs, known, 1.0, np.array([[0.0] * 2, [1.0] * 2]))
        before._best = np.minimum(before._best, improvement._best)
        gain = before.of(costs, quantiles)
        gain[expected] = 0.0
        expected.append(int(np.argmax(gain)))
        known_costs = np.vstack([known_costs, costs[expected[-1]]])
        known = np.append(known, quantiles[expected[-1]].mean())
    assert improvement.choose(costs, quantiles, 6) == expected


def test_points_are_even() -> None:
    np.testing.assert_allclose(spread_points(4, 1)[:, 0], [0.125, 0.375, 0.625, 0.875])
    assert spread_points(4, 0).shape == (4, 0)
    points = spread_points(1000, 3)
    assert points.shape == (1000, 3)
    assert ((points >= 0.0) & (points < 1.0)).all()
    for corner in np.random.default_rng(0).random((20, 3)):
        assert (points < corner).all(axis=1).mean() == pytest.approx(np.prod(corner), abs=0.03)


def test_no_costs_at_all() -> None:
    """One objective: what is left is the expected improvement."""
    improvement = Improvement(np.zeros((2, 0)), np.array([0.5, 0.4]), 1.0, np.zeros((2, 0)))
    assert improvement.of(np.zeros((2, 0)), np.array([[0.3, 0.5], [0.6, 0.7]])).tolist() == pytest.approx([0.05, 0.0])


def test_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"expected costs \(n, n_costs\), values \(n,\) and bounds"):
        Improvement(np.zeros((2, 1)), np.zeros(3), 1.0, BOUNDS)

"""Distances to a front: a search along it against looking at every point."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.pareto.dominance import non_dominated
from autoprune.pareto.gaps import MOST, gaps


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("levels", [4, 10**6])
def test_every_point_of_the_front_is_as_good_as_looked_at(objectives: int, levels: int) -> None:
    rng = np.random.default_rng(objectives)
    for count in (1, 2, 3, 40, 400):
        values = rng.integers(0, levels, (count, objectives)) * rng.uniform(0.1, 3.0, objectives)
        front = values[non_dominated(values)]
        scale = np.ptp(front, axis=0) + 1e-12
        assert len(front) <= MOST
        expected = ((values[:, None, :] - front[None, :, :]) / scale).max(axis=2).min(axis=1)
        np.testing.assert_array_equal(gaps(values, front, scale), expected)
        assert gaps(front, front, scale).max() == 0.0


def test_no_front() -> None:
    assert gaps(np.zeros((2, 2)), np.zeros((0, 2)), np.ones(2)).tolist() == [np.inf, np.inf]


def test_a_large_front_is_thinned() -> None:
    """What is on it is still nearer than what is off it."""
    rng = np.random.default_rng(0)
    points = np.abs(rng.normal(size=(4 * MOST, 3)))
    front = points / np.linalg.norm(points, axis=1, keepdims=True)
    front = 1.0 - front  # a convex one: nothing dominates
    assert non_dominated(front).all()
    found = gaps(np.concatenate([front, front + 0.5]), front, np.ones(3))
    assert found[: len(front)].max() < 0.2
    assert found[len(front) :].min() > 0.3

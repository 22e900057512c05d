"""Hypervolume against closed forms, counted cells, inclusion and exclusion, and one algorithm against the other."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autoprune.core.errors import InputError
from autoprune.pareto import hypervolume
from autoprune.pareto.hypervolume import _sweep, _wfg

Matrix = npt.NDArray[np.float64]


def grids(objectives: int, most: int = 8, top: int = 5) -> st.SearchStrategy[Matrix]:
    cells = hnp.arrays(np.int64, st.tuples(st.integers(0, most), st.just(objectives)), elements=st.integers(0, top))
    return cells.map(lambda array: array.astype(np.float64))


def count_cells(points: Matrix, top: int) -> int:
    """Points and reference on an integer grid: the volume is the number of unit cells that a point dominates."""
    corners = np.array(list(itertools.product(range(top), repeat=points.shape[1])))
    below = np.all(points[None] <= corners[:, None], axis=2)
    return int(np.sum(np.any(below, axis=1)))


def inclusion_exclusion(points: Matrix, reference: Matrix) -> float:
    total = 0.0
    for count in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, count):
            extent = np.maximum(reference - np.max(chosen, axis=0), 0.0)
            total += (-1.0) ** (count + 1) * float(np.prod(extent))
    return total


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_equals_counted_cells(objectives: int) -> None:
    @settings(max_examples=60, deadline=None)
    @given(grids(objectives, most=8, top=4))
    def check(points: Matrix) -> None:
        assert hypervolume(points, [4.0] * objectives) == pytest.approx(count_cells(points, 4), abs=1e-9)

    check()


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 5).flatmap(lambda m: hnp.arrays(np.float64, (6, m), elements=st.floats(0, 1))))
def test_equals_inclusion_and_exclusion(points: Matrix) -> None:
    reference = np.full(points.shape[1], 0.9)
    assert hypervolume(points, reference) == pytest.approx(inclusion_exclusion(points, reference), abs=1e-9)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(2)), elements=st.floats(0.01, 10)))
def test_sweep_equals_wfg(extents: Matrix) -> None:
    assert _sweep(extents) == pytest.approx(_wfg(extents), rel=1e-9)


@pytest.mark.parametrize("objectives", [3, 4])
def test_a_constant_objective_scales(objectives: int) -> None:
    """A further objective equal for all points multiplies the sweep's area: WFG against the sweep."""
    flat = np.random.default_rng(0).random((30, 2))
    points = np.concatenate([flat, np.zeros((30, objectives - 2))], axis=1)
    expected = hypervolume(flat, [1.0, 1.0]) * 2.0 ** (objectives - 2)
    assert hypervolume(points, [1.0, 1.0] + [2.0] * (objectives - 2)) == pytest.approx(expected)


def test_closed_forms() -> None:
    assert hypervolume([[1.0, 3.0], [2.0, 1.0]], [4.0, 4.0]) == 7.0
    assert hypervolume([[0.0, 0.0, 0.0]], [1.0, 2.0, 3.0]) == 6.0
    # the plane x + y + z = n - 1 on an integer grid dominates n (n + 1) (n + 2) / 6 corners counted from the far side
    n = 5
    plane = [[x, y, n - 1 - x - y] for x in range(n) for y in range(n - x)]
    assert hypervolume(plane, [n, n, n]) == n**3 - n * (n - 1) * (n + 1) // 6
    # n equal steps towards the line x + y = 1 leave n (n + 1) / 2 of n^2 cells dominated
    steps = [[i / n, (n - 1 - i) / n] for i in range(n)]
    assert hypervolume(steps, [1.0, 1.0]) == pytest.approx((n * (n + 1) / 2) / n**2)


@given(grids(3), grids(3, most=1))
def test_more_points_never_shrink_it_and_order_does_not_matter(points: Matrix, more: Matrix) -> None:
    reference = [5.0, 5.0, 5.0]
    both = np.concatenate([points, more])
    assert hypervolume(both, reference) >= hypervolume(points, reference) - 1e-9
    assert hypervolume(both[::-1], reference) == pytest.approx(hypervolume(both, reference))


def test_points_on_or_past_the_reference_add_nothing() -> None:
    assert hypervolume([[1.0, 0.0], [2.0, -1.0], [np.inf, 0.0]], [1.0, 1.0]) == 0.0
    assert hypervolume([], [1.0, 1.0]) == 0.0


@pytest.mark.parametrize(
    ("points", "reference", "message"),
    [
        ([[1.0, 2.0]], [1.0], "expected 2 objectives as the points have, got 1"),
        ([[1.0, 2.0]], [1.0, np.inf], "reference: expected finite numbers"),
        ([[1.0, np.nan]], [1.0, 1.0], "points: expected numbers, got NaN"),
        ([[-np.inf, 0.0]], [1.0, 1.0], "above minus infinity"),
        ([[1.0, 2.0]], "ab", "reference: expected numbers"),
    ],
)
def test_messages(points: npt.ArrayLike, reference: npt.ArrayLike, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hypervolume(points, reference)

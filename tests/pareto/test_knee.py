"""The knee against fronts on which it can be seen, and what must not change it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autoprune.core.errors import InputError
from autoprune.pareto import knee, non_dominated

Matrix = npt.NDArray[np.float64]

matrices = st.integers(1, 4).flatmap(
    lambda m: hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(m)), elements=st.floats(-1e3, 1e3))
)


def test_the_bend_of_an_l_shaped_front() -> None:
    assert knee([[0.0, 10.0], [1.0, 1.0], [10.0, 0.0]]) == 1


def test_the_middle_of_a_convex_arc() -> None:
    """On x = 1 - cos t, y = 1 - sin t the point farthest below the line between the ends is at 45 degrees."""
    t = np.linspace(0.0, np.pi / 2, 31)
    assert knee(np.stack([1.0 - np.cos(t), 1.0 - np.sin(t)], axis=1)) == 15


def test_the_distance_is_to_the_line_between_the_ends() -> None:
    front = np.array([[0.0, 1.0], [0.1, 0.7], [0.2, 0.35], [0.6, 0.2], [1.0, 0.0]])
    start, end = front[0], front[-1]
    direction = (end - start) / np.linalg.norm(end - start)
    away = [float(direction[1] * (p - start)[0] - direction[0] * (p - start)[1]) for p in front]
    assert knee(front) == int(np.argmax(away))


def test_dominated_and_infinite_points_have_no_say() -> None:
    assert knee([[5.0, 5.0], [0.0, 10.0], [1.0, 1.0], [10.0, 0.0], [np.inf, -5.0]]) == 2


def test_one_point_and_equal_points() -> None:
    assert knee([[3.0, 4.0]]) == 0
    assert knee([[3.0, 4.0], [3.0, 4.0]]) == 0
    assert knee([[2.0], [1.0], [3.0]]) == 1


def test_an_objective_that_is_the_same_everywhere_has_no_say() -> None:
    front = np.array([[0.0, 10.0], [1.0, 1.0], [10.0, 0.0]])
    assert knee(np.concatenate([front, np.full((3, 1), 7.0)], axis=1)) == 1


def test_three_objectives() -> None:
    assert knee([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.3, 0.3, 0.3], [0.5, 0.5, 0.2]]) == 3


@given(matrices)
def test_it_is_non_dominated(values: Matrix) -> None:
    assert non_dominated(values)[knee(values)]


@given(matrices, st.integers(-3, 10), st.integers(-20, 20))
def test_units_do_not_matter(values: Matrix, exponent: int, shift: int) -> None:
    whole = np.round(values)
    scale = 2.0**exponent
    assert np.array_equal(whole[knee(whole * scale)], whole[knee(whole)])
    assume(np.abs(whole).max() < 1e3)
    assert np.array_equal(whole[knee(whole + shift)], whole[knee(whole)])


def test_huge_values_do_not_overflow() -> None:
    assert knee([[-1e308, 1e308], [-0.9e308, -0.9e308], [1e308, -1e308]]) == 1


def test_no_finite_point() -> None:
    with pytest.raises(InputError, match="at least one point with finite values, got none of 1"):
        knee([[np.inf, 1.0]])
    with pytest.raises(InputError, match="got none of 0"):
        knee([])

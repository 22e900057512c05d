"""Dominance against its definition, pair by pair."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autoprune.core.errors import InputError
from autoprune.pareto import non_dominated, ranks

Matrix = npt.NDArray[np.float64]

small_numbers = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1.0, 2.0, 3.0, np.inf])
matrices = st.integers(1, 4).flatmap(
    lambda m: hnp.arrays(np.float64, st.tuples(st.integers(0, 24), st.just(m)), elements=small_numbers)
)


def dominates(first: Matrix, second: Matrix) -> bool:
    return bool((first <= second).all() and (first < second).any())


def oracle(values: Matrix) -> list[bool]:
    return [not any(dominates(other, point) for other in values) for point in values]


@given(matrices)
def test_equals_the_definition(values: Matrix) -> None:
    assert non_dominated(values).tolist() == oracle(values)


@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
def test_equals_the_definition_across_blocks(objectives: int) -> None:
    values = np.random.default_rng(objectives).integers(0, 12, (700, objectives)).astype(np.float64)
    as_good = np.all(values[None] <= values[:, None], axis=2)
    better = np.any(values[None] < values[:, None], axis=2)
    assert np.array_equal(non_dominated(values), ~np.any(as_good & better, axis=1))


@given(matrices, st.randoms(use_true_random=False))
def test_order_of_points_and_of_objectives_does_not_matter(values: Matrix, random: st.DataObject) -> None:
    rows, columns = list(range(values.shape[0])), list(range(values.shape[1]))
    random.shuffle(rows)  # type: ignore[attr-defined]
    random.shuffle(columns)  # type: ignore[attr-defined]
    assert np.array_equal(non_dominated(values[rows][:, columns]), non_dominated(values)[rows])


@given(matrices)
def test_ranks_are_one_more_than_the_best_dominator(values: Matrix) -> None:
    found = ranks(values)
    for point, rank in zip(values, found, strict=True):
        above = [found[i] for i, other in enumerate(values) if dominates(other, point)]
        assert rank == (max(above) + 1 if above else 0)


def test_equal_points_are_all_kept() -> None:
    assert non_dominated([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]]).tolist() == [True, True, False]


def test_no_points() -> None:
    assert non_dominated([]).shape == (0,)
    assert ranks(np.empty((0, 3))).shape == (0,)


def test_the_argument_is_not_changed() -> None:
    values = np.array([[2.0, 1.0], [1.0, 2.0], [3.0, 3.0]])
    before = values.copy()
    non_dominated(values)
    ranks(values)
    assert np.array_equal(values, before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"expected an array \(n_points, n_objectives >= 1\), got shape \(2,\)"),
        ([[0.0, 1.0], [np.nan, 1.0]], "got NaN at point 1, objective 0"),
        ([["a", "b"]], "expected numbers"),
        ([[1.0], [1.0, 2.0]], "expected numbers"),
    ],
)
def test_messages(values: npt.ArrayLike, message: str) -> None:
    with pytest.raises(InputError, match=message):
        non_dominated(values)

"""Rank correlations against counting pairs and against Pearson's of ranks."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.pareto.correlation import kendall_tau, mean_relative_error, paired, spearman_rho

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=8)


@given(PAIRS)
def test_kendall_tau_against_counting_pairs(pairs: list[tuple[int, int]]) -> None:
    def sign(value: int) -> int:
        return (value > 0) - (value < 0)

    products = [(sign(a[0] - b[0]), sign(a[1] - b[1])) for a, b in combinations(pairs, 2)]
    x, y = sum(a != 0 for a, _ in products), sum(b != 0 for _, b in products)
    tau = kendall_tau([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    if x and y:
        assert tau == pytest.approx(sum(a * b for a, b in products) / math.sqrt(x * y))
    else:
        assert math.isnan(tau)


@given(PAIRS)
def test_spearman_rho_is_pearsons_of_mean_ranks(pairs: list[tuple[int, int]]) -> None:
    def ranks(values: list[int]) -> list[float]:
        return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]

    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    rho = spearman_rho([float(a) for a in first], [float(b) for b in second])
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert rho == pytest.approx(np.corrcoef(ranks(first), ranks(second))[0, 1])
    else:
        assert math.isnan(rho)


def test_both_are_one_where_both_series_rank_alike() -> None:
    first, second = [1.0, 2.0, 5.0], [1.0, 10.0, 11.0]
    assert kendall_tau(first, second) == spearman_rho(first, second) == pytest.approx(1.0)
    assert kendall_tau(first, second[::-1]) == spearman_rho(first, second[::-1]) == pytest.approx(-1.0)
    assert math.isnan(kendall_tau([1.0], [1.0]))
    assert math.isnan(spearman_rho([], []))


def test_pairs_are_those_where_both_are_known() -> None:
    assert paired([1.0, math.nan, 3.0], [2.0, 2.0, math.inf]) == ([1.0], [2.0])


def test_mean_relative_error() -> None:
    assert mean_relative_error([1.0, 3.0, math.nan], [2.0, 2.0, 5.0]) == pytest.approx(0.5)
    assert math.isnan(mean_relative_error([], []))


def test_spearman_rho_in_closed_form() -> None:
    assert spearman_rho([1, 2, 3], [10, 20, 99]) == pytest.approx(1.0)
    assert spearman_rho([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert spearman_rho([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)
    assert np.isnan(spearman_rho([1, 1], [1, 2]))
    assert np.isnan(spearman_rho(*paired([np.nan, 1], [1, 2])))

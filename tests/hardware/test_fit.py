"""Fits against closed forms and known coefficients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.hardware.composition import compose, fit_composition, residuals_of
from autoprune.hardware.estimate import ALL, UNKNOWN, Roofline
from autoprune.hardware.fit import non_negative_least_squares, relative_fit
from autoprune.hardware.profile import PERCENTILES, Composition
from tests.hardware.samples import row

random = np.random.default_rng(0)


@given(st.integers(0, 1000), st.sampled_from([3, 9]))
def test_least_squares_meets_the_optimality_conditions(seed: int, columns: int) -> None:
    """x >= 0, gradient >= 0, and their product 0 (Karush, Kuhn, Tucker)."""
    draw = np.random.default_rng(seed)
    matrix, target = draw.normal(size=(12, columns)), draw.normal(size=12)
    x = non_negative_least_squares(matrix, target)
    gradient = matrix.T @ (matrix @ x - target)
    assert (x >= 0).all()
    assert (gradient >= -1e-4).all()  # a column that gains less than a billionth is left out
    np.testing.assert_allclose(x * gradient, 0, atol=1e-8)


def test_least_squares_without_a_useful_column_is_zero() -> None:
    np.testing.assert_array_equal(non_negative_least_squares(np.ones((4, 1)), -np.ones(4)), [0.0])


def test_relative_fit_recovers_coefficients_in_spite_of_outliers() -> None:
    matrix = np.stack([random.uniform(50, 500, 30), np.ones(30)], axis=1)
    times = matrix @ np.array([0.8, 12.0])
    times[3] *= 3.0
    times[17] *= 2.0
    np.testing.assert_allclose(relative_fit(matrix, times), [0.8, 12.0], rtol=0.02)


def test_composition_recovers_known_coefficients_per_percentile() -> None:
    sums, kernels = random.uniform(100, 900, 25), random.integers(5, 60, 25).astype(float)
    known = {
        p: Composition(sum_factor=0.7 + 0.1 * i, constant_us=5.0 + i, kernel_us=0.3 * (i + 1))
        for i, p in enumerate(PERCENTILES)
    }
    measured = {p: compose(known[p], sums, kernels) for p in PERCENTILES}
    for percentile, expected in known.items():
        found = fit_composition(sums, kernels, measured[percentile])
        assert found.sum_factor == pytest.approx(expected.sum_factor, rel=1e-4)
        assert found.constant_us == pytest.approx(expected.constant_us, rel=1e-2)
        assert found.kernel_us == pytest.approx(expected.kernel_us, rel=1e-2)


def test_equally_many_kernels_give_a_constant() -> None:
    sums = random.uniform(100, 900, 10)
    fitted = fit_composition(sums, np.full(10, 20.0), 0.9 * sums + 40.0)
    assert fitted.kernel_us == 0.0
    assert fitted.constant_us == pytest.approx(40.0, rel=1e-3)


def test_negative_constants_are_not_fitted() -> None:
    sums = random.uniform(100, 900, 10)
    fitted = fit_composition(sums, np.full(10, 20.0), 0.9 * sums - 40.0)
    assert fitted.constant_us == 0.0
    assert 0 < fitted.sum_factor < 0.9


@pytest.mark.parametrize(("count", "constant"), [(0, 0.0), (1, 0.0), (2, 0.0)])
def test_few_models_fit_only_what_they_can(count: int, constant: float) -> None:
    sums = np.array([100.0, 200.0])[:count]
    fitted = fit_composition(sums, np.full(count, 3.0), 2.0 * sums)
    assert fitted.sum_factor == pytest.approx(2.0 if count else 1.0)
    assert fitted.constant_us == constant


def test_residuals_keep_the_mean_size_and_the_middle_nine_tenths() -> None:
    errors = np.arange(-50, 51) / 1000.0
    kept = residuals_of(random.permutation(errors))
    assert kept.mean_absolute == pytest.approx(np.abs(errors).mean())
    outside = ((errors < kept.low).sum(), (errors > kept.high).sum())
    assert outside == (4, 4)  # of 101, and the next one would be the 102nd
    few = residuals_of(np.array([-0.1, 0.0, 0.3]))
    assert (few.low, few.high) == (-0.1, 0.3)


def test_roofline_recovers_its_coefficients_per_class() -> None:
    rows = []
    for operator, per_flop in (("conv", 1e-4), ("linear", 5e-4)):
        for _ in range(8):
            flops, bytes_ = random.uniform(1e4, 1e6), random.uniform(1e3, 1e5)
            time_us = 2.0 + per_flop * flops + 1e-4 * bytes_
            rows.append(row("f", (1,), time_us, operator=operator, flops=flops, bytes=bytes_))
    roofline = Roofline(rows)
    one = np.array([1e5]), np.array([1e4])
    np.testing.assert_allclose(roofline.estimate_us("conv", *one), 2.0 + 10.0 + 1.0, rtol=1e-3)
    np.testing.assert_allclose(roofline.estimate_us("linear", *one), 2.0 + 50.0 + 1.0, rtol=1e-3)
    pooled = roofline.estimate_us("pool", *one)
    assert 13.0 < pooled[0] < 53.0


def test_roofline_without_rows_says_something_positive() -> None:
    roofline = Roofline([])
    np.testing.assert_array_equal(roofline.coefficients[ALL], UNKNOWN)
    assert roofline.estimate_us("conv", np.zeros(1), np.zeros(1))[0] > 0

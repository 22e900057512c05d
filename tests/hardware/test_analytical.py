"""Analytical times: shapes from keys, waste in closed form, coefficients recovered, what neighbours add."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.graph.kernel import Kernel
from autoprune.hardware.analytical import AnalyticalModel, ClassModel, Residual, scaled_model, waves
from autoprune.hardware.analytical_composition import Totals, fit_whole_models
from autoprune.hardware.analytical_estimate import Estimator
from autoprune.hardware.analytical_fit import fit_analytical, fit_residual
from autoprune.hardware.analytical_shapes import Shape, Shapes, largest_divisor
from autoprune.hardware.importers.layers import Layers
from autoprune.hardware.kernel_table import KernelRow
from tests.hardware.samples import row

random = np.random.default_rng(0)


def conv(inner: int, outer: int, side: int = 14, taps: int = 3) -> Kernel:
    [kernel] = Layers((1, inner, side, side)).conv(outer, taps, (side, side)).kernels()
    return kernel


def rows_of(kernels: list[Kernel], times_us: list[float]) -> list[KernelRow]:
    shapes = [Shape.of(kernel) for kernel in kernels]
    return [
        row(k.family, k.sizes, t, operator=s.operator, flops=s.flops, bytes=s.bytes)
        for k, s, t in zip(kernels, shapes, times_us, strict=True)
    ]


# Shapes


def test_shapes_of_products() -> None:
    found = Shape.of(conv(8, 32))
    assert (found.operator, found.batch, found.rows, found.inner, found.columns) == ("conv", 1, 196, 72, 32)
    assert found.flops == 2 * found.rows * found.inner * found.columns
    [grouped] = Layers((1, 32, 14, 14)).conv(64, 3, (7, 7), 2, groups=4).kernels()
    found = Shape.of(grouped)
    assert (found.batch, found.rows, found.inner, found.columns, found.read) == (4, 49, 72, 16, 196)
    [depthwise] = Layers((1, 24, 14, 14)).conv(24, 5, (14, 14), 1, groups=24).kernels()
    found = Shape.of(depthwise)
    assert (found.batch, found.inner, found.columns, found.taps) == (24, 25, 1, 25)
    [product] = Layers((6, 5, 3)).matmul(4).kernels()
    found = Shape.of(product)
    assert (found.batch, found.rows, found.inner, found.columns) == (6, 5, 3, 4)


def test_fused_operations_and_what_they_read() -> None:
    [kernel] = Layers((1, 8, 7, 7)).conv(8, 1, (7, 7)).add().activation("relu").kernels()
    found = Shape.of(kernel)
    assert (found.steps, found.extra) == (2, 1)


@pytest.mark.parametrize(
    "build",
    [
        lambda a, b: conv(a, b),
        lambda a, b: Layers((1, a, 9, 9)).conv(b, 1, (9, 9)).activation("relu").kernels()[0],
        lambda a, b: Layers((5, a)).linear(b).kernels()[0],
        lambda a, b: Layers((1, a, 9, 9)).conv(a, 3, (9, 9), 1, groups=a).kernels()[0],
        lambda a, b: Layers((1, a, 9, 9)).activation("relu").kernels()[0],
    ],
)
def test_a_family_at_other_widths_is_the_kernels_at_those(build: object) -> None:
    assert callable(build)
    kernels = [build(a, b) for a, b in ((4, 6), (10, 3), (7, 24))]
    assert len({kernel.family for kernel in kernels}) == 1
    each = Shapes.of([Shape.of(kernel) for kernel in kernels])
    sizes = np.array([kernel.sizes for kernel in kernels])
    together = Shapes.family(Shape.of(kernels[0]), sizes, each.flops, each.bytes)
    np.testing.assert_allclose(together.features(80), each.features(80))


def test_a_width_of_zero_is_no_fault() -> None:
    kernel = conv(8, 32)
    shapes = Shapes.family(Shape.of(kernel), np.array([[8, 0], [0, 0]]), np.zeros(2), np.zeros(2))
    model = ClassModel(overhead_us=1, us_per_flop=1e-3, us_per_byte=0, tile=(64, 64), sliced=True)
    assert np.isfinite(model.roofline_us(shapes, 80)).all()
    assert np.isfinite(shapes.features(80)).all()


# What is paid for and not used


def test_waves_in_closed_form() -> None:
    shapes = Shapes.of([Shape.of(Layers((256, 64)).linear(columns).kernels()[0]) for columns in (128, 129, 1280)])
    factor, tiles = waves(shapes, (128, 128), 4)
    np.testing.assert_array_equal(tiles, [2, 4, 20])
    np.testing.assert_allclose(factor, [2.0, 4 * 128 * 128 / (256 * 129), 1.0])


def test_slices_in_closed_form() -> None:
    model = ClassModel(overhead_us=0, us_per_flop=1, us_per_byte=0, sliced=True)
    shapes = Shapes.of([Shape.of(conv(8, 32)), Shape.of(conv(6, 33))])
    np.testing.assert_allclose(model.waste(shapes, 1), [1.0, 8 / 6 * 36 / 33])


def test_largest_divisor_against_trial() -> None:
    values = np.arange(1, 400)
    expected = [max(d for d in range(1, 17) if value % d == 0) for value in values]
    np.testing.assert_array_equal(largest_divisor(values.astype(float)), expected)


# Fits


@pytest.mark.parametrize("tile", [None, (128, 128), (64, 64)])
def test_coefficients_and_tile_are_recovered(tile: tuple[int, int] | None) -> None:
    truth = ClassModel(overhead_us=4.0, us_per_flop=2e-6, us_per_byte=1e-5, tile=tile)
    sizes = random.integers(32, 2048, (120, 3))
    kernels = [Layers((int(m), int(k))).linear(int(n)).kernels()[0] for m, k, n in sizes]
    times = truth.roofline_us(Shapes.of([Shape.of(kernel) for kernel in kernels]), 40)
    fitted = fit_analytical(rows_of(kernels, list(times)), units=40, residuals=False).of("linear")
    assert fitted.tile == tile
    assert (fitted.overhead_us, fitted.us_per_flop, fitted.us_per_byte) == pytest.approx((4.0, 2e-6, 1e-5), rel=0.05)


def test_neighbours_teach_a_staircase_that_is_not_monotone() -> None:
    """Times with a jump in the work and a slow width: the roofline cannot know, its neighbours do."""

    def time_us(inner: int, outer: int) -> float:
        return (10 + 1e-4 * inner * outer * 9) * (1.6 if outer > 96 else 1.0) * (0.7 if outer % 32 == 0 else 1.0)

    pairs = [(a, b) for a in range(16, 144, 16) for b in range(16, 208, 8)]
    picked = random.permutation(len(pairs))
    training, test = picked[:110], picked[110:]
    rows = rows_of([conv(*pairs[i]) for i in training], [time_us(*pairs[i]) for i in training])
    model = fit_analytical(rows)
    shapes = Shapes.of([Shape.of(conv(*pairs[i])) for i in test])
    truth = np.array([time_us(*pairs[i]) for i in test])
    alone = np.abs(Estimator(model).estimate_us("conv", shapes) / truth - 1)
    beside = np.abs(Estimator(model, rows).estimate_us("conv", shapes) / truth - 1)
    assert np.median(beside) < 0.02
    assert np.median(beside) < 0.2 * np.median(alone)


def test_a_row_that_its_neighbours_contradict_counts_little() -> None:
    widths = list(range(16, 272, 8))
    times = [5 + 0.1 * width for width in widths]
    wrong = [time * (8.0 if width == 128 else 1.0) for time, width in zip(times, widths, strict=True)]
    kernels = [conv(32, width) for width in widths]
    rows = rows_of(kernels, wrong)
    shape = Shapes.of([Shape.of(conv(32, 132))])
    [estimate] = Estimator(fit_analytical(rows), rows).estimate_us("conv", shape)
    assert estimate == pytest.approx(5 + 13.2, rel=0.15)


def test_operators_without_rows_take_what_all_have_in_common() -> None:
    rows = rows_of([conv(32, width) for width in range(8, 80, 8)], [5.0 + width for width in range(8, 80, 8)])
    model = fit_analytical(rows)
    assert model.of("concat") == model.of("*")
    shapes = Shapes.of([Shape.of(Layers((1, 8, 7, 7)).activation("relu").kernels()[0])])
    assert Estimator(model, rows).estimate_us("elementwise", shapes)[0] > 0


def test_scales_follow_what_matters() -> None:
    features = np.column_stack([random.uniform(0, 4, 150), random.uniform(0, 4, 150), *random.normal(size=(6, 150))])
    found = fit_residual(features, np.sin(3 * features[:, 0]) + 0.01 * random.normal(size=150))
    assert found.scales[0] < 0.5 * found.scales[1]
    assert found.noise < 0.1


def test_covariance_is_symmetric_and_positive() -> None:
    residual = Residual(scales=(1.0,) * 9, signal=0.3, noise=0.1, step=0.2, step_signal=0.1)
    points = random.normal(size=(40, 9))
    covariance = residual.covariance(points, points)
    np.testing.assert_allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-10
    np.testing.assert_allclose(np.diag(covariance), 0.3**2 + 0.1**2)


def test_a_model_scaled_to_another_device() -> None:
    own = ClassModel(overhead_us=4.0, us_per_flop=2e-6, us_per_byte=1e-5)
    model = scaled_model(AnalyticalModel(units=80, classes={"*": own}), 2.0, 4.0, 0.5, 132)
    assert model.units == 132
    assert model.of("conv") == ClassModel(overhead_us=2.0, us_per_flop=1e-6, us_per_byte=2.5e-6)


# Whole models


def models(count: int, seed: int) -> tuple[Totals, np.ndarray]:
    draw = np.random.default_rng(seed)
    sums, kernels = draw.uniform(1e3, 1e5, count), draw.uniform(10, 200, count)
    totals = Totals(sums, kernels, draw.uniform(1e6, 1e8, count), draw.uniform(1e6, 1e8, count), 1e4 * sums)
    times = 1.2 * sums + 500 + 8 * kernels
    return totals, times * np.exp(0.03 * draw.normal(size=count))


def test_composition_predicts_and_its_interval_holds() -> None:
    held = []
    for seed in range(4):
        totals, times = models(400, seed)
        fitted = fit_whole_models(totals.at(np.arange(70)), times[:70])
        rest = np.arange(70, 400)
        low, high = fitted.interval_us(totals.at(rest))
        held.append(((times[rest] >= low) & (times[rest] <= high)).mean())
        assert np.abs(fitted.predict_us(totals.at(rest)) / times[rest] - 1).mean() < 0.035
        assert fitted.error == pytest.approx(0.024, abs=0.008)
    assert 0.86 <= np.mean(held) <= 0.97


def test_like_models_correct_each_other() -> None:
    totals, times = models(160, 2)
    hidden = np.exp(0.3 * np.sin(np.log(totals.weight_bytes)))  # what no sum of kernels knows
    fitted = fit_whole_models(totals.at(np.arange(100)), (times * hidden)[:100])
    rest = np.arange(100, 160)
    assert all(fit.residual is not None for fit in fitted.fits)
    assert np.abs(fitted.predict_us(totals.at(rest)) / (times * hidden)[rest] - 1).mean() < 0.06


def test_choices_answer_for_kernels_that_were_not_measured() -> None:
    totals, times = models(70, 3)
    noisy = Totals(totals.sums_us * np.exp(0.1 * random.normal(size=70)), *totals._all()[1:])
    assert fit_whole_models(totals, times, 0, noisy).error > 2 * fit_whole_models(totals, times).error

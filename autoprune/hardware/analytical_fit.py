"""Fits the coefficients of an analytical model on measured kernels; every choice by cross-validation on those alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.graph.kernel import Kernel
from autoprune.hardware.analytical import ALL, LEAST_US, AnalyticalModel, ClassModel, Residual
from autoprune.hardware.analytical_shapes import Shape, Shapes
from autoprune.hardware.fit import Floats, relative_fit
from autoprune.hardware.kernel_table import KernelRow

TILES = (None, (128, 128), (128, 64), (64, 64), (32, 32))
PRODUCTS = frozenset(("conv", "pointwise", "linear", "matmul", "grouped"))
FEWEST = 6  # rows that make a class of their own
MOST = 350  # rows that scales are chosen on
FOLDS = 5
STEPS = (1.2, 0.6, 0.3)  # of the logarithm of a scale
SWEEPS = 3
FIRST_NOISE, LEAST_NOISE, LEAST_SIGNAL = 0.03, 0.005, 0.02
FIRST_STEP = (0.1, 0.08)  # scale and signal over work items
PRIOR = 0.05  # weight of a squared logarithm of a scale, of kernels


def fit_analytical(
    rows: Sequence[KernelRow], *, units: int = 1, sliced: bool = False, residuals: bool = True, seed: int = 0
) -> AnalyticalModel:
    """The coefficients that agree best with measured kernels, in relative error and robustly.

    Args:
        rows: measured kernels, at least one.
        units: processors that share the tiles of a kernel; with one, tiles are not considered.
        sliced: whether channels run in slices of four.
        residuals: whether rows are to be interpolated between later.
        seed: of the rows that scales are chosen on.
    """
    shapes = {(row.family, row.sizes): Shape.of(Kernel(row.family, row.sizes)) for row in rows}
    by_class: dict[str, list[KernelRow]] = {}
    for row in rows:
        by_class.setdefault(row.operator, []).append(row)
    classes = {}
    for name, own in {ALL: list(rows), **{k: v for k, v in sorted(by_class.items()) if len(v) >= FEWEST}}.items():
        arrays = Shapes.of([shapes[row.family, row.sizes] for row in own])
        times = np.maximum(np.array([row.p50_us for row in own]), LEAST_US)
        tiles = TILES if units > 1 and name in PRODUCTS else (None,)
        fitted = _fit_class(arrays, times, units, tiles, sliced and name in PRODUCTS)
        if residuals and name != ALL:
            logs = np.log(times / fitted.roofline_us(arrays, units))
            residual = fit_residual(arrays.features(units), logs - float(np.median(logs)), seed)
            fitted = fitted.model_copy(update={"residual": residual})
        classes[name] = fitted
    return AnalyticalModel(units=units, classes=classes)


def _fit_class(
    shapes: Shapes, times: Floats, units: int, tiles: Sequence[tuple[int, int] | None], sliced: bool
) -> ClassModel:
    """The tile whose roofline predicts best what it has not seen."""
    best, best_error = ClassModel(overhead_us=0, us_per_flop=0, us_per_byte=0), np.inf
    for tile in tiles:
        empty = ClassModel(overhead_us=0, us_per_flop=0, us_per_byte=0, tile=tile, sliced=sliced)
        terms = empty.terms(shapes, units)
        error = _cross_validated(terms, times) if len(tiles) > 1 else 0.0
        if error < best_error:
            overhead, per_flop, per_byte = (float(value) for value in _solve(terms, times))
            update = {"overhead_us": overhead, "us_per_flop": per_flop, "us_per_byte": per_byte}
            best, best_error = empty.model_copy(update=update), error
    return best


def _solve(terms: Floats, times: Floats) -> Floats:
    scale = np.maximum(terms.max(axis=0), 1e-12)
    return relative_fit(terms / scale, times) / scale


def _cross_validated(terms: Floats, times: Floats) -> float:
    """Mean size of the logarithm of predicted / measured over folds."""
    errors = []
    for fold in range(FOLDS):
        held = np.arange(len(times)) % FOLDS == fold
        if held.all() or not held.any():
            continue
        predicted = np.maximum(terms[held] @ _solve(terms[~held], times[~held]), LEAST_US)
        errors.append(np.abs(np.log(predicted / times[held])))
    return float(np.concatenate(errors).mean())


def fit_residual(
    features: Floats, values: Floats, seed: int = 0, *, steps: bool = True, prior: float = PRIOR
) -> Residual:
    """The process that makes the values likeliest, by coordinate ascent (Rasmussen and Williams, eq. 5.8).

    Args:
        features: (n, k)
        values: of mean about 0.  # (n,)
        seed: of the rows that are looked at where there are more than `MOST`.
        steps: whether there is a process over work items.
        prior: how much scales are kept near 1: the weight of their squared logarithms.
    """
    chosen = np.arange(len(values))
    if len(values) > MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(len(values), MOST, replace=False))
    inputs, targets = features[chosen], values[chosen]
    varying = [axis for axis in range(features.shape[1]) if float(np.ptp(inputs[:, axis])) > 1e-9]
    first = (max(float(targets.std()), LEAST_SIGNAL), FIRST_NOISE, *(FIRST_STEP if steps else ()))
    point = np.concatenate([np.zeros(features.shape[1]), np.log(first)])
    axes = [*varying, *range(features.shape[1], len(point))]
    current = _likelihood(inputs, targets, point, prior)
    for step in STEPS:
        moved = True
        for _ in range(SWEEPS):
            if not moved:
                break
            point, current, moved = _sweep(inputs, targets, point, current, step, axes, prior)
    return _residual(point, features.shape[1])


def _residual(point: Floats, count: int) -> Residual:
    """From logarithms of scales, signal, noise, and step and its signal where there are any."""
    signal, noise, *steps = (float(value) for value in np.exp(point[count:]))
    scales = tuple(float(value) for value in np.exp(point[:count]))
    if not steps:
        return Residual(scales=scales, signal=signal, noise=noise)
    return Residual(scales=scales, signal=signal, noise=noise, step=steps[0], step_signal=steps[1])


def _sweep(
    inputs: Floats, targets: Floats, point: Floats, current: float, step: float, axes: Sequence[int], prior: float
) -> tuple[Floats, float, bool]:
    """One step along every axis, kept where it helps."""
    moved = False
    for axis in axes:
        for direction in (step, -step):
            tried = point.copy()
            tried[axis] += direction
            value = _likelihood(inputs, targets, tried, prior)
            if value > current + 1e-3:
                point, current, moved = tried, value, True
                break
    return point, current, moved


def _likelihood(inputs: Floats, targets: Floats, point: Floats, prior: float) -> float:
    """Logarithm of the marginal likelihood, with a prior that keeps scales near 1."""
    count = inputs.shape[1]
    residual = _residual(point, count)
    if residual.noise < LEAST_NOISE:
        return -np.inf
    covariance = residual.covariance(inputs, inputs)
    covariance[np.diag_indices_from(covariance)] += residual.noise**2
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return -np.inf
    whitened = np.linalg.solve(root, targets)
    penalty = prior * float((point[:count] ** 2).sum())
    return float(-0.5 * whitened @ whitened - np.log(np.diag(root)).sum()) - penalty

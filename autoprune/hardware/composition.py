"""From kernel times to a model's time: fitted on whole models, each percentile on its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autoprune.hardware.fit import Floats, rank_correlation, relative_fit
from autoprune.hardware.profile import PERCENTILES, Composition, Residuals, Validation

PLAIN = Composition(sum_factor=1.0, constant_us=0.0, kernel_us=0.0)


def fit_compositions(
    sums_us: Floats, kernels: Floats, measured_us: Mapping[str, Floats]
) -> tuple[dict[str, Composition], dict[str, Residuals]]:
    """`sum_factor * sum + constant_us + kernel_us * kernels` per percentile, with leave-one-out residuals.

    Where all models have equally many kernels, the constant and the cost a kernel cannot be told apart, and the
    constant is taken: it makes no promise about other models.

    Args:
        sums_us: sum of the kernels' medians of each model.  # (n,)
        kernels: number of kernels of each model.  # (n,)
        measured_us: percentile -> measured times.  # (n,)
    """
    compositions, residuals = {}, {}
    for percentile in PERCENTILES:
        times = measured_us[percentile]
        compositions[percentile] = fit_composition(sums_us, kernels, times)
        if len(times) >= 4:
            residuals[percentile] = _leave_one_out(sums_us, kernels, times)
    return compositions, residuals


def fit_composition(sums_us: Floats, kernels: Floats, times_us: Floats) -> Composition:
    """The composition of one percentile."""
    if len(times_us) == 0:
        return PLAIN
    columns = [sums_us]
    several = len(times_us) >= 3
    vary = several and float(np.ptp(kernels)) > 0
    if several:
        columns.append(np.ones_like(sums_us))
    if vary:
        columns.append(kernels)
    solution = relative_fit(np.stack(columns, axis=1), times_us)
    return Composition(
        sum_factor=float(solution[0]),
        constant_us=float(solution[1]) if several else 0.0,
        kernel_us=float(solution[2]) if vary else 0.0,
    )


def compose(composition: Composition, sums_us: Floats, kernels: Floats) -> Floats:
    """Predicted times of models.  # (n,)"""
    return composition.sum_factor * sums_us + composition.constant_us + composition.kernel_us * kernels


def _leave_one_out(sums_us: Floats, kernels: Floats, times_us: Floats) -> Residuals:
    errors = []
    for index in range(len(times_us)):
        rest = np.arange(len(times_us)) != index
        fitted = fit_composition(sums_us[rest], kernels[rest], times_us[rest])
        predicted = compose(fitted, sums_us[index : index + 1], kernels[index : index + 1])[0]
        errors.append(times_us[index] / max(predicted, 1e-9) - 1.0)
    values = np.array(errors)
    low, high = (float(edge) for edge in np.quantile(values, [0.05, 0.95]))
    return Residuals(mean_absolute=float(np.abs(values).mean()), low=low, high=high)


def validation(
    residuals: dict[str, Residuals], sums_us: Floats, times_us: Floats, drift: float, notes: tuple[str, ...] = ()
) -> Validation:
    """What is kept of how well the composition predicts."""
    return Validation(
        models=len(times_us),
        residuals=residuals,
        sentinel_drift=drift,
        rank_correlation=rank_correlation(sums_us, times_us) if len(times_us) >= 4 else None,
        notes=notes,
    )

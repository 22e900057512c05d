"""From kernel times to a model's time: fitted on whole models, each percentile on its own."""

from __future__ import annotations

import numpy as np

from autoprune.hardware.fit import Floats, relative_fit
from autoprune.hardware.profile import Composition, Residuals

PLAIN = Composition(sum_factor=1.0, constant_us=0.0, kernel_us=0.0)


def fit_composition(sums_us: Floats, kernels: Floats, times_us: Floats) -> Composition:
    """`sum_factor * sum + constant_us + kernel_us * kernels`, the coefficients at least 0, robust in relative error.

    Where all models have equally many kernels, the constant and the cost a kernel cannot be told apart, and the
    constant is taken: it makes no promise about other models.

    Args:
        sums_us: sum of the kernels' medians of each model.  # (n,)
        kernels: number of kernels of each model.  # (n,)
        times_us: a measured percentile of each.  # (n,)
    """
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


def residuals_of(errors: Floats) -> Residuals:
    """What is kept of the errors of models left out: `measured / predicted - 1`.

    The interval is that of split conformal prediction (Vovk et al. 2005): the next model falls below its lower end, and
    above its upper one, in at most a twentieth of the cases each, as far as so few models can tell.

    Args:
        errors: (n,)
    """
    rank = max(int(0.05 * (len(errors) + 1)) - 1, 0)
    ordered = np.sort(errors)
    return Residuals(
        mean_absolute=float(np.abs(errors).mean()), low=float(ordered[rank]), high=float(ordered[-1 - rank])
    )

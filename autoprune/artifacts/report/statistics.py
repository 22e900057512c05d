"""Small statistics that the report quotes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[list[float], list[float]]:
    """The two series where both have a value (neither is NaN)."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if math.isfinite(a) and math.isfinite(b)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b: 1 where both series rank alike, -1 where in reverse; NaN where one does not rank at all.

    M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945.
    """
    x, y = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if x.size < 2:
        return math.nan
    upper = np.triu_indices(x.size, 1)
    dx, dy = np.sign(x[:, None] - x[None, :])[upper], np.sign(y[:, None] - y[None, :])[upper]
    scale = math.sqrt(float(np.count_nonzero(dx)) * float(np.count_nonzero(dy)))
    return float((dx * dy).sum() / scale) if scale else math.nan


def mean_relative_error(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """The mean of |predicted - measured| / measured; NaN where there are no pairs."""
    pairs = [(p, m) for p, m in zip(*paired(predicted, measured), strict=True) if m > 0]
    return float(np.mean([abs(p - m) / m for p, m in pairs])) if pairs else math.nan

"""Rank correlations: whether what is cheap to know orders models as what is dear to know does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[list[float], list[float]]:
    """The two series where both have a value (neither is NaN or infinite)."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if math.isfinite(a) and math.isfinite(b)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b: 1 where both series rank alike, -1 where in reverse; NaN where one does not rank at all.

    M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945.

    Example:
        >>> kendall_tau([1.0, 2.0, 3.0], [10.0, 30.0, 20.0])
        0.3333333333333333
    """
    x, y = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if x.size < 2:
        return math.nan
    upper = np.triu_indices(x.size, 1)
    dx, dy = np.sign(x[:, None] - x[None, :])[upper], np.sign(y[:, None] - y[None, :])[upper]
    scale = math.sqrt(float(np.count_nonzero(dx)) * float(np.count_nonzero(dy)))
    return float((dx * dy).sum() / scale) if scale else math.nan


def spearman_rho(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rho: the correlation of ranks, ties at their mean rank; NaN where one series does not rank at all.

    C. Spearman, "The proof and measurement of association between two things", American Journal of Psychology 15, 1904.
    """
    x, y = _mean_ranks(first), _mean_ranks(second)
    if x.size < 2:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return float((x * y).sum() / scale) if scale else math.nan


def mean_relative_error(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """The mean of |predicted - measured| / measured; NaN where there are no pairs."""
    pairs = [(p, m) for p, m in zip(*paired(predicted, measured), strict=True) if m > 0]
    return float(np.mean([abs(p - m) / m for p, m in pairs])) if pairs else math.nan


def _mean_ranks(series: Sequence[float]) -> npt.NDArray[np.float64]:
    values = np.asarray(series, dtype=float)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse], dtype=np.float64)

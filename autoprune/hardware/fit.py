"""Small fits: exact non-negative least squares, and a robust one in relative error. numpy only."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def non_negative_least_squares(matrix: Floats, target: Floats) -> Floats:
    """The x >= 0 that minimises |matrix x - target|, by trying every set of free columns; for few columns.

    Args:
        matrix: (n, k), k small (2^k sets are tried).
        target: (n,)

    Returns:
        x.  # (k,)
    """
    columns = matrix.shape[1]
    best, best_error = np.zeros(columns), float(target @ target)
    for count in range(1, columns + 1):
        for free in itertools.combinations(range(columns), count):
            solution, *_ = np.linalg.lstsq(matrix[:, free], target, rcond=None)
            if (solution < 0).any():
                continue
            residual = matrix[:, free] @ solution - target
            error = float(residual @ residual)
            if error < best_error * (1.0 - 1e-9):
                best, best_error = np.zeros(columns), error
                best[list(free)] = solution
    return best


def relative_fit(matrix: Floats, times: Floats, rounds: int = 20, tuning: float = 1.5) -> Floats:
    """Non-negative coefficients that minimise Huber's loss of the relative error, by reweighted least squares.

    Huber (1964): residuals beyond `tuning` robust standard deviations count linearly.

    Args:
        matrix: (n, k)
        times: (n,), positive.

    Returns:
        Coefficients.  # (k,)
    """
    scaled = matrix / times[:, None]
    target = np.ones_like(times)
    weights = np.ones_like(times)
    solution = np.zeros(matrix.shape[1])
    for _ in range(rounds):
        root = np.sqrt(weights)
        updated = non_negative_least_squares(scaled * root[:, None], target * root)
        residual = np.abs(scaled @ updated - target)
        spread = max(1.4826 * float(np.median(residual)), 1e-9)
        weights = np.minimum(1.0, tuning * spread / np.maximum(residual, 1e-12))
        if np.allclose(updated, solution, rtol=1e-9, atol=0):
            break
        solution = updated
    return updated


def rank_correlation(first: Floats, second: Floats) -> float:
    """Spearman's correlation, ties broken by place; 0 where it is not defined."""
    if len(first) < 2:
        return 0.0
    ranks = [
        np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64) for values in (first, second)
    ]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

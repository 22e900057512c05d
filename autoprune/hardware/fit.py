"""Small fits: non-negative least squares, and a robust one in relative error. numpy only."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MAX_TRIED = 5  # columns of which every subset is tried


def non_negative_least_squares(matrix: Floats, target: Floats) -> Floats:
    """The x >= 0 that minimises |matrix x - target|.

    Few columns: by trying every set of free ones. Many: by the active-set method of Lawson and Hanson (1974), ch. 23.

    Args:
        matrix: (n, k)
        target: (n,)

    Returns:
        x.  # (k,)
    """
    columns = matrix.shape[1]
    if columns > MAX_TRIED:
        return _active_set(matrix, target)
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


def _active_set(matrix: Floats, target: Floats) -> Floats:
    """Algorithm NNLS of Lawson and Hanson on columns scaled to length 1."""
    lengths = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    scaled = matrix / lengths
    solution = np.zeros(matrix.shape[1])
    free = np.zeros(matrix.shape[1], dtype=bool)
    tolerance = 1e-10 * max(1.0, float(np.linalg.norm(target)))
    for _ in range(3 * matrix.shape[1]):
        gradient = scaled.T @ (target - scaled @ solution)
        gradient[free] = -np.inf
        entering = int(np.argmax(gradient))
        if gradient[entering] <= tolerance:
            break
        free[entering] = True
        while True:
            wanted = np.zeros_like(solution)
            wanted[free] = np.linalg.lstsq(scaled[:, free], target, rcond=None)[0]
            blocking = free & (wanted <= 0)
            if not blocking.any():
                break
            steps = solution[blocking] / np.maximum(solution[blocking] - wanted[blocking], 1e-300)
            solution = solution + float(steps.min()) * (wanted - solution)
            free &= solution > 1e-14
            solution[~free] = 0.0
        solution = wanted
    return solution / lengths


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

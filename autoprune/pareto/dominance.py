"""Pareto dominance: a point dominates another that is nowhere better and somewhere worse. All values are minimised."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_BLOCK = 256  # points compared with the front at once: bounds memory to block x front x objectives


def as_values(values: npt.ArrayLike, what: str = "values") -> Values:
    """The values as a float64 matrix.  # (n_points, n_objectives)

    Raises:
        InputError: not a matrix of at least one objective, or NaN in it.
    """
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: expected numbers (n_points, n_objectives), got {type(values).__name__}.") from error
    if matrix.ndim == 1 and matrix.size == 0:
        matrix = matrix.reshape(0, 1)
    if matrix.ndim != 2 or matrix.shape[1] < 1:
        raise InputError(f"{what}: expected an array (n_points, n_objectives >= 1), got shape {matrix.shape}.")
    missing = np.isnan(matrix)
    if missing.any():
        row, objective = (int(index) for index in np.argwhere(missing)[0])
        raise InputError(
            f"{what}: expected numbers, got NaN at point {row}, objective {objective}. Leave such points out."
        )
    return matrix


def non_dominated(values: npt.ArrayLike) -> Mask:
    """Which points no other point dominates; equal points do not dominate each other.

    Args:
        values: minimised.  # (n_points, n_objectives)

    Returns:
        True where non-dominated.  # (n_points,)

    Two objectives take O(n log n) (Kung et al. 1975); more are compared block by block with the front found so far.

    Raises:
        InputError: not a matrix, or NaN in it.
    """
    matrix = as_values(values)
    if matrix.shape[0] == 0:
        return np.zeros(0, dtype=np.bool_)
    if matrix.shape[1] == 1:
        return np.asarray(matrix[:, 0] == matrix[:, 0].min())
    return _non_dominated_2d(matrix) if matrix.shape[1] == 2 else _non_dominated_blocks(matrix)


def ranks(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The front each point is on: 0 for the non-dominated, 1 for the non-dominated of the rest, and so on.

    Non-dominated sorting as in Deb et al. 2002 (NSGA-II), by peeling.

    Args:
        values: minimised.  # (n_points, n_objectives)

    Returns:
        Ranks from 0.  # (n_points,)

    Raises:
        InputError: not a matrix, or NaN in it.
    """
    matrix = as_values(values)
    result = np.zeros(matrix.shape[0], dtype=np.int64)
    left = np.arange(matrix.shape[0])
    rank = 0
    while left.size:
        front = non_dominated(matrix[left])
        result[left[front]] = rank
        left = left[~front]
        rank += 1
    return result


def _non_dominated_2d(matrix: Values) -> Mask:
    """Sweep over the first objective: dominated if anything strictly to the left is as low, or lower at the same x."""
    order = np.lexsort((matrix[:, 1], matrix[:, 0]))
    x, y = matrix[order, 0], matrix[order, 1]
    start = np.searchsorted(x, x, side="left")  # first point of the same x; it has the lowest y of them
    lowest = np.minimum.accumulate(y)
    dominated = (start > 0) & (lowest[start - 1] <= y) | (y > y[start])
    result = np.empty(len(order), dtype=np.bool_)
    result[order] = ~dominated
    return result


def _non_dominated_blocks(matrix: Values) -> Mask:
    """A dominating point comes first in lexicographic order, so each block meets the front before it and itself."""
    order = np.lexsort(matrix.T[::-1])
    points = matrix[order]
    kept = np.zeros(len(order), dtype=np.bool_)
    front = np.empty((0, matrix.shape[1]))
    for begin in range(0, len(order), _BLOCK):
        block = points[begin : begin + _BLOCK]
        good = ~_dominated_by(block, front)
        good[good] = ~_dominated_by(block[good], block[good])
        kept[begin : begin + _BLOCK] = good
        front = np.concatenate([front, block[good]])
    result = np.empty(len(order), dtype=np.bool_)
    result[order] = kept
    return result


def _dominated_by(points: Values, others: Values) -> Mask:
    """Which points one of the others dominates.  # (n_points,)"""
    as_good = np.ones((len(points), len(others)), dtype=np.bool_)
    better = np.zeros_like(as_good)
    for objective in range(points.shape[1]):
        mine, theirs = points[:, objective, None], others[None, :, objective]
        as_good &= theirs <= mine
        better |= theirs < mine
    return np.asarray((as_good & better).any(axis=1))

"""The knee of a front: where gaining a little in one objective begins to cost much in another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError
from autoprune.pareto.dominance import as_values, non_dominated


def knee(values: npt.ArrayLike) -> int:
    """The index of the non-dominated point farthest below the hyperplane through the extremes of the front.

    Each objective is scaled to 0 (best on the front) .. 1 (worst on the front); for two objectives the plane is the
    line between the two end points (I. Das, "On characterizing the knee of the Pareto curve based on normal-boundary
    intersection", Structural Optimization 18, 1999; J. Branke et al., "Finding knees in multi-objective
    optimization", PPSN 2004), for more it is the plane through the worst value of each. Objectives that are equal all
    along the front have no say. Ties go to the more balanced point, then to the first.

    Args:
        values: minimised; rows with infinities are passed over.  # (n_points, n_objectives)

    Raises:
        InputError: not a matrix, NaN in it, or no finite row.
    """
    matrix = as_values(values)
    rows = np.flatnonzero(np.isfinite(matrix).all(axis=1))
    if rows.size == 0:
        raise InputError(f"knee: expected at least one point with finite values, got none of {matrix.shape[0]}.")
    rows = rows[non_dominated(matrix[rows])]
    front = matrix[rows]
    best, worst = front.min(axis=0), front.max(axis=0)
    scale = np.maximum(np.abs(best), np.abs(worst))  # so that no span overflows
    scale[scale == 0.0] = 1.0
    span = worst / scale - best / scale
    spread = span > 0.0
    scaled = (front / scale - best / scale)[:, spread] / span[spread]
    below = (1.0 - scaled.sum(axis=1)) / np.sqrt(max(1, int(spread.sum())))  # signed distance to the plane
    balance = scaled.max(axis=1, initial=0.0)
    return int(rows[np.lexsort((balance, -np.round(below, 12)))[0]])

"""How far points are from a front."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MOST = 512  # points of a front of three objectives and more that others are compared with


def gaps(values: Floats, front: Floats, scale: Floats) -> Floats:
    """By how much all objectives of a point would have to be better, at least, to reach some point of the front.

    Args:
        values: minimised.  # (n, n_objectives)
        front: points none of which dominates another; of three objectives and more evenly thinned where there are more
            than `MOST`.  # (n_front, n_objectives)
        scale: units of the objectives.  # (n_objectives,)

    Returns:
        Infinite where the front is empty.  # (n,)

    Two objectives take O((n + n_front) log n_front).
    """
    if not len(front):
        return np.full(len(values), np.inf)
    if values.shape[1] == 2:
        return _of_two(values, front, scale)
    kept = front[np.unique(np.round(np.linspace(0, len(front) - 1, min(len(front), MOST))).astype(np.int64))]
    found = np.full(len(values), np.inf)
    columns = np.ascontiguousarray(values.T)
    for point in kept:
        apart = (columns[0] - point[0]) / scale[0]
        for column, value, unit in zip(columns[1:], point[1:], scale[1:], strict=True):
            np.maximum(apart, (column - value) / unit, out=apart)
        np.minimum(found, apart, out=found)
    return found


def _of_two(values: Floats, front: Floats, scale: Floats) -> Floats:
    """Along the front one objective's gap falls as the other's rises: the larger is least where they cross."""
    points = front[np.lexsort((-front[:, 1], front[:, 0]))]
    crossing = points[:, 0] / scale[0] - points[:, 1] / scale[1]  # rising
    place = np.searchsorted(crossing, values[:, 0] / scale[0] - values[:, 1] / scale[1])
    found = np.full(len(values), np.inf)
    for step in (-2, -1, 0, 1):  # one to either side would do, but for rounding
        near = points[np.clip(place + step, 0, len(points) - 1)]
        np.minimum(found, ((values - near) / scale).max(axis=1), out=found)
    return found

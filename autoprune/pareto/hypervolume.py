"""The hypervolume indicator: the volume that a set dominates, bounded by a reference point. All values are minimised.

Two objectives are swept; more use WFG: L. While, L. Bradstreet, L. Barone, "A Fast Way of Calculating Exact
Hypervolumes", IEEE Transactions on Evolutionary Computation 16(1), 2012.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError
from autoprune.pareto.dominance import Values, as_values, non_dominated


def hypervolume(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """The exact hypervolume of `points` up to `reference`; points not better than it in every objective add nothing.

    Args:
        points: minimised.  # (n_points, n_objectives)
        reference: the worst corner.  # (n_objectives,)

    Example:
        >>> hypervolume([[1.0, 3.0], [2.0, 1.0]], [4.0, 4.0])
        7.0

    Raises:
        InputError: shapes that do not fit, NaN, a point at minus infinity, or a reference that is not finite.
    """
    matrix = as_values(points, "points")
    corner = as_values(np.atleast_2d(np.asarray(reference)), "reference")[0]
    if not np.isfinite(corner).all():
        raise InputError(f"reference: expected finite numbers, got {corner.tolist()}.")
    if matrix.shape[0] == 0:
        return 0.0
    if matrix.shape[1] != corner.size:
        raise InputError(f"reference: expected {matrix.shape[1]} objectives as the points have, got {corner.size}.")
    inside = matrix[(matrix < corner).all(axis=1)]
    if np.isneginf(inside).any():
        raise InputError("points: expected numbers above minus infinity; their hypervolume has no bound.")
    return float(_volume(corner - inside))


def _volume(extents: Values) -> float:
    """Volume of the union of boxes from the origin to each extent (all > 0): maximised from here on."""
    if extents.shape[0] == 0:
        return 0.0
    if extents.shape[1] == 1:
        return float(extents.max())
    if extents.shape[1] == 2:
        return _sweep(extents)
    return _wfg(extents)


def _sweep(extents: Values) -> float:
    """Two objectives: from the widest box on, each adds the strip by which it is taller than all before."""
    ordered = extents[np.argsort(-extents[:, 0], kind="stable")]
    height = np.maximum.accumulate(ordered[:, 1])
    added = np.diff(height, prepend=0.0)
    return float(np.sum(ordered[:, 0] * added))


def _wfg(extents: Values) -> float:
    """Sum of exclusive hypervolumes (While et al. 2012, Alg. 1), sliced by the last objective.

    Sorted by the last objective, smallest extent first, what later points share with a point has exactly its extent
    there, so the exclusive part is that extent times a hypervolume of one objective less.
    """
    front = np.unique(extents[non_dominated(-extents)], axis=0)
    front = front[np.argsort(front[:, -1], kind="stable")]
    total = 0.0
    for index, point in enumerate(front):
        base = point[:-1]
        limited = np.minimum(front[index + 1 :, :-1], base)  # the limit set, in one objective less
        total += float(point[-1]) * max(0.0, float(np.prod(base)) - _volume(limited))
    return total

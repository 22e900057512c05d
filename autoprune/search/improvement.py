"""By how much a candidate of known costs and uncertain quality is expected to raise the hypervolume.

The hypervolume is an integral over the space of costs: at each point, how far the best quality that can be had for
these costs lies below the reference. So the expected hypervolume improvement (Emmerich et al. 2011) of a candidate
whose costs are exact is the integral of the expected improvement of one objective, over the costs that afford it. The
integral is a mean over fixed points, so any number of cost objectives is cheap.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError

Floats: TypeAlias = npt.NDArray[np.float64]

POINTS = 256  # at which the integral is looked at


class Improvement:
    """What a front leaves to be gained, over the space of costs.

    Args:
        costs: of what was evaluated.  # (n, n_costs)
        values: its quality, minimised.  # (n,)
        worst: quality from which on nothing is gained.
        bounds: lowest and highest cost that count.  # (2, n_costs)

    Raises:
        InputError: shapes that do not fit.
    """

    def __init__(self, costs: Floats, values: Floats, worst: float, bounds: Floats) -> None:
        if costs.ndim != 2 or values.shape != costs.shape[:1] or bounds.shape != (2, costs.shape[1]):
            raise InputError(
                f"improvement: expected costs (n, n_costs), values (n,) and bounds (2, n_costs), got {costs.shape}, "
                f"{values.shape} and {bounds.shape}."
            )
        self._points = bounds[0] + (bounds[1] - bounds[0]) * spread_points(POINTS, costs.shape[1])
        affordable = _affords(costs, self._points)
        self._best = np.where(affordable, values[:, None], worst).min(axis=0, initial=worst)  # (n_points,)

    def of(self, costs: Floats, quantiles: Floats) -> Floats:
        """Expected improvement of each candidate, as a share of the space of costs times the unit of quality.

        Args:
            costs: exact.  # (n, n_costs)
            quantiles: equally likely values of the quality.  # (n, n_quantiles)

        Returns:
            At least 0.  # (n,)
        """
        return _expected(self._best, _affords(costs, self._points), quantiles)

    def choose(
        self, costs: Floats, quantiles: Floats, count: int, usable: Callable[[int], bool] = lambda place: True
    ) -> list[int]:
        """Places of up to `count` candidates, one after the other, each as if those before had come out as expected.

        So a batch spreads over what is to be gained instead of crowding where most is (the "kriging believer" of
        Ginsbourger et al. 2010). What a candidate adds can only fall as others are chosen, so it is worked out again
        for those alone that come to the top (Minoux 1978).

        Args:
            costs: exact.  # (n, n_costs)
            quantiles: equally likely values of the quality.  # (n, n_quantiles)
            count: wanted; fewer come back where nothing more is to be gained.
            usable: whether a candidate may be chosen; asked before it is.
        """
        affordable = _affords(costs, self._points)
        gain = _expected(self._best, affordable, quantiles)
        heap = [(-float(added), place, 0) for place, added in enumerate(gain) if added > 0.0]
        heapq.heapify(heap)
        best = self._best
        chosen: list[int] = []
        while heap and len(chosen) < count:
            _, place, known = heapq.heappop(heap)  # known: how many were chosen when its gain was worked out
            if known == len(chosen):
                if usable(place):
                    chosen.append(place)
                    best = np.where(affordable[place], np.minimum(best, quantiles[place].mean()), best)
                continue
            added = _expected_of_one(best, affordable[place], quantiles[place])
            if added > 0.0:
                heapq.heappush(heap, (-added, place, len(chosen)))
        return chosen


def spread_points(count: int, dimensions: int) -> Floats:
    """Points of the unit cube, evenly spread: multiples of powers of a generalised golden ratio (Roberts 2018).

    In one dimension they are a plain grid.  # (count, dimensions)
    """
    steps = np.arange(count)[:, None] + 0.5
    if dimensions <= 1:
        return np.asarray(np.broadcast_to(steps / count, (count, dimensions)))
    ratio = 2.0
    for _ in range(40):  # towards the root of x^(dimensions + 1) = x + 1
        ratio = (1.0 + ratio) ** (1.0 / (dimensions + 1))
    return np.asarray((0.5 + steps * ratio ** -np.arange(1.0, dimensions + 1)) % 1.0)


def _expected(best: Floats, affordable: npt.NDArray[np.bool_], quantiles: Floats) -> Floats:
    """Mean improvement over the points and the quantiles.  # (n,)"""
    gain = np.zeros(affordable.shape)
    for column in quantiles.T:
        gain += np.maximum(best[None, :] - column[:, None], 0.0)
    return np.asarray((gain * affordable).mean(axis=1) / quantiles.shape[1])


def _expected_of_one(best: Floats, affordable: npt.NDArray[np.bool_], quantiles: Floats) -> float:
    """The same of one candidate; it is asked for often enough that calls of NumPy count."""
    gain = np.maximum(best - quantiles[:, None], 0.0).sum(axis=0)  # (n_points,)
    return float((gain * affordable).mean() / len(quantiles))


def _affords(costs: Floats, points: Floats) -> npt.NDArray[np.bool_]:
    """Which points have room for which costs.  # (n, n_points)"""
    affordable = np.ones((len(costs), len(points)), dtype=np.bool_)
    for column in range(costs.shape[1]):
        affordable &= costs[:, column, None] <= points[None, :, column]
    return affordable

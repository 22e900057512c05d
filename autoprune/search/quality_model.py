"""A policy's quality before it is evaluated: the sum of its damage curves, corrected by what trials measured.

Damage adds up only roughly: cuts make each other worse, the metric saturates, and curves are measured coarsely. The
model is a Gaussian process (Rasmussen & Williams 2006, ch. 2) on logarithmic scales, quality T and summed damage L:

    T = a + b L + g(L) + sum_v w_v psi_v + r(z) + noise

`a + b L + g(L)` links the loss to the metric (its scales, and cliffs: `search/quality_link.py`); `psi_v`, the
share of variable v in the damage, is what L changes by when the curve of v is scaled by exp(w_v); `r` are interactions,
similar where the same variables are cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.search.linear import cholesky, product, solved
from autoprune.search.quality_link import QualityLink, find_ruined, fitted, typical

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

MOST_TRIALS = 256  # that a fit looks at: a Cholesky factor of them takes a few milliseconds
LEAST_TRIALS = 4  # below these the damage alone is the prediction
_SELECTION = 128  # trials that the prior scales are chosen by
_FLOOR = 0.02  # of the mean damage: no cut is free of it, as curves are measured on few samples
_VAGUE = 4.0  # prior variance of a and b
_STEEP = 0.25  # prior variance of b around 1 where trials are ruined: quality is lost as damage is done, up to a factor
_BEND, _BEND_REACH = 0.25, 1.0  # prior variance of g, and how far along L it is similar
_LARGEST_WEIGHT = 2.0  # |w_v| beyond this is not believed


@dataclass(frozen=True)
class Scales:
    """Prior standard deviations, in units of T.

    Attributes:
        weights: of w_v.
        interactions: of r.
        reach: distance in z over which r is similar, in root mean squares of the distances between trials.
        noise: of one trial.
    """

    weights: float
    interactions: float
    reach: float
    noise: float


DEFAULT_SCALES = Scales(0.5, 0.2, 1.0, 0.1)
_GRID = tuple(
    itertools.starmap(Scales, itertools.product((0.2, 0.6, 1.5), (0.03, 0.15, 0.5), (0.6, 1.5), (0.02, 0.08, 0.25)))
)


class Damage:
    """Damage of each variable at each level, made positive and comparable.

    Args:
        levels: of each variable.
        tables: rise of the loss, n_variables x (n_levels,), 0 at the dense one. Where None, damage is taken to grow
            with the square of the share that is cut, alike for all variables.
    """

    def __init__(self, levels: Sequence[int], tables: Sequence[npt.ArrayLike] | None = None) -> None:
        self.levels = tuple(levels)
        cuts = [1.0 - np.arange(count) / max(count - 1, 1) if count > 1 else np.zeros(1) for count in levels]
        rises = [cut**2 for cut in cuts] if tables is None else [np.asarray(table, np.float64) for table in tables]
        worst = np.array([rise.max(initial=0.0) for rise in rises])
        mean = float(worst[worst > 0].mean()) if (worst > 0).any() else 1.0
        self.tables = tuple(
            np.maximum(rise, 0.0) / mean + _FLOOR * cut for rise, cut in zip(rises, cuts, strict=True)
        )  # n_variables x (n_levels,)
        self._offsets = np.cumsum([0, *self.levels[:-1]])
        self._flat = np.concatenate(self.tables) if self.tables else np.zeros(0)

    def of(self, choices: npt.ArrayLike) -> Floats:
        """Damage by variable.  # (n, n_variables) -> (n, n_variables)"""
        places = np.asarray(choices, dtype=np.int64).reshape(-1, len(self.levels))
        return np.asarray(self._flat[places + self._offsets])


@dataclass(frozen=True, eq=False)
class _Coordinates:
    """Where choices are, as the kernel sees them."""

    link: Floats  # L  # (n,)
    shares: Floats  # psi  # (n, n_variables)
    cut: Floats  # z  # (n, n_variables)

    def take(self, places: Integers) -> _Coordinates:
        return _Coordinates(self.link[places], self.shares[places], self.cut[places])


class QualityModel:
    """Fitted on trials. All that it says depends on the arguments alone.

    Attributes:
        informed: whether there are trials enough to correct the damage by.

    Args:
        damage: by variable.
        choices: of the trials.  # (n, n_variables)
        values: what was measured, minimised and finite.  # (n,)
        scales: prior standard deviations, as `select_scales` finds them.
    """

    def __init__(
        self, damage: Damage, choices: npt.ArrayLike, values: npt.ArrayLike, scales: Scales = DEFAULT_SCALES
    ) -> None:
        self._damage = damage
        self._scales = scales
        measured = np.asarray(values, dtype=np.float64)
        rises = damage.of(choices)
        self.informed = len(measured) >= LEAST_TRIALS and float(np.ptp(measured)) > 0.0
        totals = rises.sum(axis=1)
        self._unit = typical(totals)
        if not self.informed:
            return
        self._link = link = QualityLink.of(measured, totals, find_ruined(measured, totals))
        self._unit = link.unit
        self._seen = self._coordinates(rises)
        self._spacing = _spacing(self._seen.cut)
        kernel = self._kernel(self._seen, self._seen)
        self._whitening, self._weights = fitted(
            kernel, link.target - self._expected(self._seen), link.ruined, scales.noise
        )

    def predict(self, choices: npt.ArrayLike) -> Floats:
        """The median of what a trial would measure; the summed damage, without a unit, where there are few trials.

        Args:
            choices: levels.  # (n, n_variables)
        """
        return np.asarray(self.quantiles(choices, np.zeros(1))[:, 0])

    def quantiles(self, choices: npt.ArrayLike, deviations: Floats) -> Floats:
        """Values that lie so many standard deviations of the prediction above its median.

        Args:
            choices: levels.  # (n, n_variables)
            deviations: such as -1, 0, 1.  # (m,)

        Returns:
            Values.  # (n, m)
        """
        rises = self._damage.of(choices)
        if not self.informed:
            return np.repeat(rises.sum(axis=1)[:, None], len(deviations), axis=1)
        asked = self._coordinates(rises)
        kernel = self._kernel(asked, self._seen)
        mean = self._expected(asked) + product(kernel, self._weights)
        spread = np.zeros_like(mean)
        if np.any(deviations):
            explained = product(kernel, self._whitening.T)  # (n, n_trials)
            spread = np.sqrt(np.maximum(self._prior_variance(asked) - (explained**2).sum(axis=1), 1e-12))
        return self._link.values(mean[:, None] + spread[:, None] * deviations)

    def tables(self) -> tuple[Floats, ...]:
        """Damage by variable and level, each scaled by what trials say of it.  # n_variables x (n_levels,)"""
        if not self.informed:
            return self._damage.tables
        weights = self._scales.weights**2 * product(self._seen.shares.T, self._weights)
        factors = np.exp(np.clip(weights, -_LARGEST_WEIGHT, _LARGEST_WEIGHT))
        return tuple(factor * table for factor, table in zip(factors, self._damage.tables, strict=True))

    def _coordinates(self, rises: Floats) -> _Coordinates:
        return _coordinates(rises, self._unit)

    @property
    def _slope(self) -> float:
        return _VAGUE if self._link.reach is None else _STEEP

    def _expected(self, at: _Coordinates) -> Floats:
        """Prior mean of the quality.  # (n,)"""
        return np.zeros_like(at.link) if self._link.reach is None else at.link

    def _kernel(self, one: _Coordinates, other: _Coordinates) -> Floats:
        """Prior covariance of the quality at two sets of choices.  # (n_one, n_other)"""
        fixed, shares, distance = _kernels(one, other, self._slope)
        return _combined(fixed, shares, distance / self._spacing, self._scales)

    def _prior_variance(self, at: _Coordinates) -> Floats:
        scales = self._scales
        return np.asarray(
            _VAGUE
            + self._slope * at.link**2
            + _BEND
            + scales.weights**2 * (at.shares**2).sum(axis=1)
            + scales.interactions**2
        )


def select_scales(damage: Damage, choices: npt.ArrayLike, values: npt.ArrayLike) -> Scales:
    """The prior scales of a grid under which the trials are most likely (R&W 2006, eq. 2.30).

    Args:
        damage: by variable.
        choices: of the trials; evenly thinned where there are many.  # (n, n_variables)
        values: minimised and finite.  # (n,)
    """
    measured = np.asarray(values, dtype=np.float64)
    if len(measured) < 2 * LEAST_TRIALS or float(np.ptp(measured)) == 0.0:
        return DEFAULT_SCALES
    rises = damage.of(choices)
    ruined = find_ruined(measured, rises.sum(axis=1))
    telling = np.flatnonzero(~ruined)
    if len(telling) < 2 * LEAST_TRIALS:
        return DEFAULT_SCALES
    kept = telling[np.unique(np.linspace(0, len(telling) - 1, min(len(telling), _SELECTION)).astype(np.int64))]
    rows = np.sort(np.concatenate([kept, np.flatnonzero(ruined)]))  # the ruined tell where quality ends, no more
    link = QualityLink.of(measured[rows], rises[rows].sum(axis=1), ruined[rows])
    at = _coordinates(rises[kept], link.unit)
    saturates = link.reach is not None
    fixed, shares, distance = _kernels(at, at, _STEEP if saturates else _VAGUE)
    distance /= _spacing(at.cut)
    target = link.target[~link.ruined] - (at.link if saturates else 0.0)
    return max(_GRID, key=lambda scales: _likelihood(_combined(fixed, shares, distance, scales), target, scales.noise))


def _likelihood(kernel: Floats, target: Floats, noise: float) -> float:
    """Logarithm of the marginal likelihood, up to a constant."""
    kernel[np.diag_indices_from(kernel)] += noise**2
    factor = cholesky(kernel)
    half = solved(factor, target[:, None])
    return float(-0.5 * (half**2).sum() - np.log(np.diag(factor)).sum())


def _coordinates(rises: Floats, unit: float) -> _Coordinates:
    total = rises.sum(axis=1)
    scaled = np.log1p(rises * (rises.shape[1] / unit)) / np.sqrt(max(rises.shape[1], 1))
    return _Coordinates(np.log1p(total / unit), rises / (unit + total)[:, None], scaled)


def _kernels(one: _Coordinates, other: _Coordinates, slope: float) -> tuple[Floats, Floats, Floats]:
    """Covariance of the link, inner products of the shares, squared distances of the cuts.  # (n_one, n_other) each"""
    apart = one.link[:, None] - other.link[None, :]
    fixed = _VAGUE + slope * (one.link[:, None] * other.link[None, :])
    fixed = fixed + _BEND * np.exp(-0.5 * (apart / _BEND_REACH) ** 2)
    return fixed, product(one.shares, other.shares.T), _distances(one.cut, other.cut)


def _combined(fixed: Floats, shares: Floats, distance: Floats, scales: Scales) -> Floats:
    """The kernel; `distance` squared, in units of the trials' own."""
    similar = np.exp(-0.5 * distance / scales.reach**2)
    return np.asarray(fixed + scales.weights**2 * shares + scales.interactions**2 * similar)


def _distances(one: Floats, other: Floats) -> Floats:
    """Squared Euclidean distances.  # (n_one, n_other)"""
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None, :] - 2.0 * product(one, other.T)
    return np.asarray(np.maximum(squares, 0.0))


def _spacing(cut: Floats) -> float:
    """Mean squared distance between trials."""
    return max(2.0 * float(cut.var(axis=0).sum()), 1e-12)


def foretold(damage: Damage, choices: npt.ArrayLike, values: npt.ArrayLike, batch: int = 16) -> Floats:
    """What the model would have said of each trial before it was told of it, from the trials before its batch.

    Args:
        damage: by variable.
        choices: of the trials, in order.  # (n, n_variables)
        values: minimised and finite.  # (n,)
        batch: trials a batch; larger where there would be more than forty.

    Returns:
        Predicted values; NaN for the first, of which there was nothing to learn from.  # (n,)
    """
    rows, measured = np.asarray(choices, dtype=np.int64), np.asarray(values, dtype=np.float64)
    found = np.full(len(measured), np.nan)
    size = max(batch, -(-len(measured) // 40))
    for begin in range(size, len(measured), size):
        before = slice(max(0, begin - MOST_TRIALS), begin)
        scales = select_scales(damage, rows[before], measured[before])
        model = QualityModel(damage, rows[before], measured[before], scales)
        if model.informed:
            found[begin : begin + size] = model.predict(rows[begin : begin + size])
    return found

"""The scale on which quality is modelled, and how far trials tell where on it they are.

Past some damage a model only guesses: its quality says that it is ruined, not how far past that it is. Where several
trials are, quality is taken to approach its worst exponentially, as a saturating metric does, and of the ruined ones
only that they are no better than a limit (a censored regression: Tobin 1958).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from autoprune.search.linear import cholesky, product, solved

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]

RUINED = 0.9  # of the way from the best quality to the worst: from there on models are taken to guess
LEAST_RUINED = 3  # trials that make a plateau; fewer are only bad
_APART = 2.0  # times more damage that makes no difference any more, on a plateau
_MARGIN = 1.1  # what quality approaches, as a share of the way to the worst that was seen
_SHARPNESS = 0.1  # how sharp the limit of ruined trials is at least, as a standard deviation of noise
_LARGEST = 50.0  # on the model's scale


@dataclass(frozen=True, eq=False)
class QualityLink:
    """Between quality as it is measured and the model's scale, and the unit of damage that goes with it.

    Attributes:
        best, worst: quality seen.
        step: loss of quality below which the scale is nearly linear, above it logarithmic.
        unit: the same of summed damage.
        reach: how far quality falls in the end, where trials are ruined; None where none are.
        target: of each trial; where it is ruined, the least it may be.  # (n,)
        ruined: trials past the limit; none where `reach` is None.  # (n,)
    """

    best: float
    worst: float
    step: float
    unit: float
    reach: float | None
    target: Floats
    ruined: Mask

    @classmethod
    def of(cls, measured: Floats, totals: Floats, ruined: Mask) -> QualityLink:
        """The link of some trials.

        Args:
            measured: quality, minimised.  # (n,)
            totals: summed damage.  # (n,)
            ruined: as `find_ruined` tells.  # (n,)
        """
        best, worst = float(measured.min()), float(measured.max())
        if not ruined.any():
            step = typical(measured - best)
            return cls(best, worst, step, typical(totals), None, np.log1p((measured - best) / step), ruined)
        reach = _MARGIN * (worst - best)
        limit = -math.log1p(-RUINED / _MARGIN)
        lost = np.where(ruined, limit, -np.log1p(-(measured - best) / reach))
        telling = ~ruined & (lost > 0.0) & (totals > 0.0)
        if telling.any():
            step, unit = typical(lost[telling]), typical(totals[telling])
        else:  # the cliff is as likely before the least damaged of the ruined as it is anywhere
            step, unit = 0.25 * limit, max(0.25 * float(totals[ruined].min()), 1e-12)
        return cls(best, worst, step, unit, reach, np.log1p(lost / step), ruined)

    def values(self, scaled: Floats) -> Floats:
        """Quality, as it is measured, at places on the model's scale."""
        if self.reach is None:
            return np.asarray(self.best + self.step * np.expm1(np.minimum(scaled, _LARGEST)))
        lost = self.step * np.expm1(np.clip(scaled, 0.0, _LARGEST))
        return np.asarray(np.minimum(self.best - self.reach * np.expm1(-lost), self.worst))


def find_ruined(measured: Floats, totals: Floats) -> Mask:
    """Which trials only guess: those nearly as bad as the worst, where there are several, however much damage was done.

    Args:
        measured: quality, minimised.  # (n,)
        totals: summed damage.  # (n,)
    """
    none = np.zeros(len(measured), dtype=np.bool_)
    if not len(measured) or float(np.ptp(measured)) == 0.0:
        return none
    bad = measured >= measured.min() + RUINED * np.ptp(measured)
    if bad.sum() < LEAST_RUINED or float(totals[bad].max()) < _APART * float(totals[bad].min()):
        return none
    return np.asarray(bad)


def typical(values: Floats) -> float:
    """A quarter of the median: below it the logarithmic scale is nearly linear."""
    positive = values[values > 0.0]
    return max(0.25 * float(np.median(positive)), 1e-12) if len(positive) else 1.0


def fitted(kernel: Floats, target: Floats, ruined: Mask, noise: float) -> tuple[Floats, Floats]:
    """The posterior of a Gaussian process, of ruined trials told only that they are at least at their target.

    Args:
        kernel: prior covariance of the trials.  # (n, n)
        target: less the prior mean.  # (n,)
        ruined: which of them are limits.  # (n,)
        noise: standard deviation of a trial.

    Returns:
        A matrix: covariances with the trials times its transpose, squared and summed, are what the trials explain of a
        variance.  # (n, n)
        Weights of such covariances, which give the mean.  # (n,)
    """
    if ruined.any():
        return _fitted_to_limits(kernel, target, ruined, noise)
    noisy = kernel + noise**2 * np.eye(len(kernel))
    whitening = solved(cholesky(noisy), np.eye(len(kernel)))
    return whitening, product(whitening.T, product(whitening, target))


def _fitted_to_limits(kernel: Floats, target: Floats, ruined: Mask, noise: float) -> tuple[Floats, Floats]:
    """Laplace's approximation by Newton's method (Rasmussen & Williams 2006, alg. 3.1); the likelihood is concave."""
    spread = np.where(ruined, max(noise, _SHARPNESS), noise)
    found = np.array(target)
    for _ in range(30):
        apart = (found - target) / spread
        below = torch.special.log_ndtr(torch.from_numpy(apart)).numpy()
        ratio = np.exp(-0.5 * apart**2 - 0.5 * math.log(2.0 * math.pi) - below)  # of density to probability
        slope = np.where(ruined, ratio, -apart) / spread
        bend = np.where(ruined, np.maximum(ratio * (apart + ratio), 1e-10), 1.0) / spread**2
        root = np.sqrt(bend)
        factor = cholesky(np.eye(len(kernel)) + root[:, None] * kernel * root[None, :])
        whitening = solved(factor, np.diag(root))
        wanted = bend * found + slope
        weights = wanted - product(whitening.T, product(whitening, product(kernel, wanted)))
        before, found = found, product(kernel, weights)
        if float(np.abs(found - before).max()) < 1e-6:
            break
    return whitening, weights

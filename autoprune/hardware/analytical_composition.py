"""From kernels to whole models, richer than `composition`: activations count too, and like models correct each other.

    time = (a * sum + b [+ c * kernels [+ d * activation bytes]]) * exp(residual)

A few dozen models cannot tell which terms there are, so the fits of all three choices are averaged (Hoeting et al.
1999). Whether there is a residual is chosen by cross-validation on the models that it is fitted on; so is the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.hardware.analytical import Residual
from autoprune.hardware.analytical_fit import fit_residual
from autoprune.hardware.fit import Floats, relative_fit

FOLDS, REPEATS = 5, 3
COVERAGE = 0.9
# Of the residual's scales: so few models cannot tell five of them apart. Ten times that of kernels, of which there are
# hundreds; 1, 3 and 5 differ little in cross-validation inside the training networks of three phones.
PRIOR = 3.0
TERMS: tuple[tuple[int, ...], ...] = ((), (0,), (0, 1))  # of kernels, activation bytes; beside sum and constant
PLAIN = (None,) * len(TERMS)


@dataclass(frozen=True, eq=False)
class Totals:
    """What is known of models before they run.

    Attributes:
        sums_us: of their kernels' predicted times.  # (n,)
        kernels: how many.  # (n,)
        activation_bytes: read and written by them.  # (n,)
        weight_bytes: read by them.  # (n,)
        flops: (n,)
    """

    sums_us: Floats
    kernels: Floats
    activation_bytes: Floats
    weight_bytes: Floats
    flops: Floats

    def at(self, chosen: np.ndarray) -> Totals:
        """Some of the models."""
        return Totals(*(values[chosen] for values in self._all()))

    def columns(self, terms: Sequence[int]) -> Floats:
        """Sum, constant and the terms.  # (n, 2 + terms)"""
        further = (self.kernels, self.activation_bytes)
        return np.column_stack([self.sums_us, np.ones_like(self.sums_us), *(further[term] for term in terms)])

    def features(self) -> Floats:
        """What the residual is smooth in.  # (n, 5)"""
        return np.log(np.maximum(np.column_stack(self._all()), 1.0))

    def _all(self) -> tuple[Floats, ...]:
        return self.sums_us, self.kernels, self.activation_bytes, self.weight_bytes, self.flops


@dataclass(frozen=True, eq=False)
class Fit:
    """One fit of the formula.

    Attributes:
        terms: beside the sum and a constant (see `TERMS`).
        weights: of the columns.
        residual: how it varies, None where there is none.
        inputs: features of the models it was fitted on.  # (n, 5)
        pulls: what each of these adds.  # (n,)
    """

    terms: tuple[int, ...]
    weights: Floats
    residual: Residual | None
    inputs: Floats
    pulls: Floats

    def predict_us(self, totals: Totals) -> Floats:
        """Predicted times.  # (m,)"""
        times: Floats = totals.columns(self.terms) @ self.weights
        if self.residual is None:
            return times
        corrected: Floats = times * np.exp(self.residual.covariance(totals.features(), self.inputs) @ self.pulls)
        return corrected


@dataclass(frozen=True, eq=False)
class WholeModels:
    """A fitted composition.

    Attributes:
        fits: of every choice of terms; the prediction is their geometric mean.
        low, high: nine tenths of `log(measured / predicted)` of models that were left out lie between.
        error: mean size of relative errors of those.
    """

    fits: tuple[Fit, ...]
    low: float
    high: float
    error: float

    def predict_us(self, totals: Totals) -> Floats:
        """Predicted times.  # (m,)"""
        return _averaged(self.fits, totals)

    def interval_us(self, totals: Totals) -> tuple[Floats, Floats]:
        """Times between which nine tenths of models are to be expected.  # (m,), (m,)"""
        times = self.predict_us(totals)
        return times * np.exp(self.low), times * np.exp(self.high)


def fit_whole_models(totals: Totals, times_us: Floats, seed: int = 0, blind: Totals | None = None) -> WholeModels:
    """The composition that predicts best what it has not seen.

    Args:
        totals: of models at hand, ten or more.
        times_us: measured.  # (n,)
        seed: of the folds.
        blind: of the same models, from kernels predicted without them; choices and interval then answer for the
            kernels' errors too.
    """
    smooth = tuple(
        fit_residual(totals.features(), np.log(times_us / fit.predict_us(totals)), seed, steps=False, prior=PRIOR)
        for fit in _fits(totals, times_us, PLAIN)
    )
    found: list[WholeModels] = []
    for residuals in (PLAIN, smooth):
        errors = _left_out(totals, times_us, residuals, seed, blind or totals)
        low, high = _between(errors)
        size = float(np.abs(np.expm1(-errors)).mean())
        found.append(WholeModels(_fits(totals, times_us, residuals), low, high, size))
    return min(found, key=lambda one: one.error)


def _fits(totals: Totals, times_us: Floats, residuals: Sequence[Residual | None]) -> tuple[Fit, ...]:
    """One fit for every choice of terms, each with its residual."""
    return tuple(_fit(totals, times_us, *choice) for choice in zip(TERMS, residuals, strict=True))


def _fit(totals: Totals, times_us: Floats, terms: tuple[int, ...], residual: Residual | None) -> Fit:
    columns = totals.columns(terms)
    scale = columns.max(axis=0)
    weights = relative_fit(columns / scale, times_us) / scale
    inputs, pulls = np.zeros((0, 5)), np.zeros(0)
    if residual is not None:
        inputs = totals.features()
        covariance = residual.covariance(inputs, inputs) + residual.noise**2 * np.eye(len(times_us))
        pulls = np.linalg.solve(covariance, np.log(times_us / (columns @ weights)))
    return Fit(terms, weights, residual, inputs, pulls)


def _averaged(fits: Sequence[Fit], totals: Totals) -> Floats:
    """The geometric mean of what the fits predict.  # (m,)"""
    mean: Floats = np.exp(np.mean([np.log(fit.predict_us(totals)) for fit in fits], axis=0))
    return mean


def _left_out(
    totals: Totals, times_us: Floats, residuals: Sequence[Residual | None], seed: int, blind: Totals
) -> Floats:
    """`log(measured / predicted)` of models left out in turn, over several ways to cut folds.  # (repeats * n,)"""
    found = []
    random = np.random.default_rng(seed)
    for _ in range(REPEATS):
        fold = random.permutation(len(times_us)) % FOLDS
        errors = np.zeros(len(times_us))
        for held in range(FOLDS):
            inside, outside = fold != held, fold == held
            fits = _fits(totals.at(inside), times_us[inside], residuals)
            errors[outside] = np.log(times_us[outside] / _averaged(fits, blind.at(outside)))
        found.append(errors)
    return np.concatenate(found)


def _between(errors: Floats) -> tuple[float, float]:
    """The middle nine tenths, a little wider for few models (Vovk's (n + 1) correction)."""
    count = len(errors) // REPEATS
    tail = max(0.0, (1.0 - COVERAGE) / 2 - 1.0 / (count + 1))
    low, high = np.quantile(errors, [tail, 1.0 - tail])
    return float(low), float(high)

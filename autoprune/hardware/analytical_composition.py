"""From kernels to whole models, richer than `composition`: activations count too, and like models correct each other.

    time = (a * sum + b + c * kernels [+ d * activation bytes]) * exp(residual)

The terms and whether there is a residual are chosen by cross-validation on the models that it is fitted on; so is the
interval.
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
TERMS: tuple[tuple[int, ...], ...] = ((), (0,), (0, 1))  # of kernels, activation bytes; beside sum and constant


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
class WholeModels:
    """A fitted composition.

    Attributes:
        terms: beside the sum and a constant (see `TERMS`).
        weights: of the columns.
        residual: how it varies, None where it did not help.
        low, high: nine tenths of `log(measured / predicted)` of models that were left out lie between.
        error: mean size of relative errors of those.
    """

    terms: tuple[int, ...]
    weights: Floats
    residual: Residual | None
    inputs: Floats  # features of the models it was fitted on  # (n, 5)
    pulls: Floats  # (n,)
    low: float
    high: float
    error: float

    def predict_us(self, totals: Totals) -> Floats:
        """Predicted times.  # (m,)"""
        times: Floats = totals.columns(self.terms) @ self.weights
        if self.residual is None:
            return times
        corrected: Floats = times * np.exp(self.residual.covariance(totals.features(), self.inputs) @ self.pulls)
        return corrected

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
    best: tuple[float, tuple[int, ...], Residual | None, Floats] | None = None
    for terms in TERMS:
        plain = _fit(totals, times_us, terms, None)
        logs = np.log(times_us / plain.predict_us(totals))
        for residual in (None, fit_residual(totals.features(), logs, seed, steps=False)):
            errors = _left_out(totals, times_us, terms, residual, seed, blind or totals)
            size = float(np.abs(np.expm1(-errors)).mean())
            if best is None or size < best[0]:
                best = (size, terms, residual, errors)
    assert best is not None
    size, terms, residual, errors = best
    low, high = _between(errors)
    fitted = _fit(totals, times_us, terms, residual)
    return WholeModels(terms, fitted.weights, residual, fitted.inputs, fitted.pulls, low, high, size)


def _fit(totals: Totals, times_us: Floats, terms: tuple[int, ...], residual: Residual | None) -> WholeModels:
    columns = totals.columns(terms)
    scale = columns.max(axis=0)
    weights = relative_fit(columns / scale, times_us) / scale
    inputs, pulls = np.zeros((0, 5)), np.zeros(0)
    if residual is not None:
        inputs = totals.features()
        covariance = residual.covariance(inputs, inputs) + residual.noise**2 * np.eye(len(times_us))
        pulls = np.linalg.solve(covariance, np.log(times_us / (columns @ weights)))
    return WholeModels(terms, weights, residual, inputs, pulls, 0.0, 0.0, 0.0)


def _left_out(
    totals: Totals, times_us: Floats, terms: tuple[int, ...], residual: Residual | None, seed: int, blind: Totals
) -> Floats:
    """`log(measured / predicted)` of models left out in turn, over several ways to cut folds.  # (repeats * n,)"""
    found = []
    random = np.random.default_rng(seed)
    for _ in range(REPEATS):
        fold = random.permutation(len(times_us)) % FOLDS
        errors = np.zeros(len(times_us))
        for held in range(FOLDS):
            inside, outside = fold != held, fold == held
            fitted = _fit(totals.at(inside), times_us[inside], terms, residual)
            errors[outside] = np.log(times_us[outside] / fitted.predict_us(blind.at(outside)))
        found.append(errors)
    return np.concatenate(found)


def _between(errors: Floats) -> tuple[float, float]:
    """The middle nine tenths, a little wider for few models (Vovk's (n + 1) correction)."""
    count = len(errors) // REPEATS
    tail = max(0.0, (1.0 - COVERAGE) / 2 - 1.0 / (count + 1))
    low, high = np.quantile(errors, [tail, 1.0 - tail])
    return float(low), float(high)

"""Analytical times of kernels: a roofline an operator class, and what measured neighbours say beside it.

    time = overhead + us_per_flop * flops * waste + us_per_byte * bytes

(the smooth sum in place of the roofline's maximum; Williams et al. 2009). `waste` is what is paid for and not used:
channels in slices, or tiles in waves. Nothing makes it monotone in the widths. Where rows are at hand, the logarithm
of measured / roofline is interpolated between them by kriging (Rasmussen and Williams 2006, eq. 2.25).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from autoprune.graph.kernel import Kernel
from autoprune.hardware.analytical_shapes import SLICE, WORK, Shape, Shapes, waves
from autoprune.hardware.fit import Floats
from autoprune.hardware.kernel_table import KernelRow

ALL = "*"
LEAST_US = 0.01
ROBUST_ROUNDS, OUTLYING = 3, 2.0


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Residual(_Model):
    """How the logarithm of measured / roofline varies: a smooth process over all features, plus one over one of them.

    The one is the number of work items (`WORK`): runtimes change their block sizes at thresholds of it, which shows in
    all kernels of a class alike.
    """

    scales: tuple[float, ...]  # each feature is divided by its own
    signal: float = Field(gt=0)
    noise: float = Field(gt=0)
    step: float = Field(default=1.0, gt=0)  # scale of the process over work items
    step_signal: float = Field(default=0.0, ge=0)

    def covariance(self, first: Floats, second: Floats) -> Floats:
        """Between features (m, k) and (n, k), without noise.  # (m, n)"""
        scales = np.array(self.scales)
        smooth = self.signal**2 * matern(first / scales, second / scales)
        if self.step_signal == 0:
            return smooth
        staircase = matern(first[:, WORK : WORK + 1] / self.step, second[:, WORK : WORK + 1] / self.step)
        return smooth + self.step_signal**2 * staircase


class ClassModel(_Model):
    """Coefficients of one operator class."""

    overhead_us: float = Field(ge=0)
    us_per_flop: float = Field(ge=0)
    us_per_byte: float = Field(ge=0)
    tile: tuple[int, int] | None = None  # (rows, columns) that one unit computes at once
    sliced: bool = False  # channels run in slices of four
    residual: Residual | None = None

    def terms(self, shapes: Shapes, units: int) -> Floats:
        """1, flops that are paid for, bytes.  # (m, 3)"""
        return np.column_stack([np.ones_like(shapes.flops), shapes.flops * self.waste(shapes, units), shapes.bytes])

    def waste(self, shapes: Shapes, units: int) -> Floats:
        """How many times more than its flops a kernel pays for.  # (m,)"""
        factor = np.ones_like(shapes.flops)
        if self.tile is not None:
            factor = factor * waves(shapes, self.tile, units)[0]
        if self.sliced:
            outer, channels = shapes.columns * shapes.batch, shapes.inner / shapes.taps
            factor = factor * np.ceil(outer / SLICE) * SLICE / outer
            factor = factor * np.where(channels > 1, np.ceil(channels / SLICE) * SLICE / channels, 1.0)
        return factor

    def roofline_us(self, shapes: Shapes, units: int) -> Floats:
        """Times without neighbours.  # (m,)"""
        weights = np.array([self.overhead_us, self.us_per_flop, self.us_per_byte])
        return np.maximum(self.terms(shapes, units) @ weights, LEAST_US)


class AnalyticalModel(_Model):
    """Coefficients of a device; class `*` serves the operators that have none of their own."""

    units: int = Field(default=1, ge=1)  # processors that share the tiles of a kernel
    classes: dict[str, ClassModel]

    def of(self, operator: str) -> ClassModel:
        """The coefficients of an operator class."""
        return self.classes.get(operator, self.classes[ALL])


class Estimator:
    """Times of kernels that were not measured.

    Args:
        model: the device's coefficients.
        rows: measured kernels; without any, the model alone speaks.
    """

    def __init__(self, model: AnalyticalModel, rows: Sequence[KernelRow] = ()) -> None:
        self._model = model
        self._rows: dict[str, list[KernelRow]] = {}
        for row in rows:
            self._rows.setdefault(row.operator, []).append(row)
        self._fields: dict[str, _Field | None] = {}

    def estimate_us(self, operator: str, shapes: Shapes) -> Floats:
        """Estimated times of kernels of one class.  # (m,)"""
        own = self._model.of(operator)
        times = own.roofline_us(shapes, self._model.units)
        field = self._field(operator, own)
        if field is None:
            return times
        corrected: Floats = times * np.exp(field.mean(shapes.features(self._model.units)))
        return corrected

    def _field(self, operator: str, own: ClassModel) -> _Field | None:
        if operator not in self._fields:
            rows = self._rows.get(operator, [])
            usable = own.residual is not None and len(rows) > 0
            self._fields[operator] = _conditioned(own, rows, self._model.units) if usable else None
        return self._fields[operator]


class _Field:
    """A Gaussian process, conditioned on residuals at some features.

    Rows that their neighbours contradict count less: their noise is raised to their leave-one-out error.
    """

    def __init__(self, residual: Residual, features: Floats, values: Floats) -> None:
        self._residual, self._features = residual, features
        self._level = float(np.median(values))
        covariance = residual.covariance(features, features)
        targets = values - self._level
        noise = np.full(len(values), residual.noise**2)
        for _ in range(ROBUST_ROUNDS):
            inverse = np.linalg.inv(covariance + np.diag(noise))
            variance = 1.0 / np.diag(inverse)
            error = variance * (inverse @ targets)  # left out in turn (Rasmussen and Williams, eq. 5.12)
            expected = np.maximum(variance - noise, 0.0) + residual.noise**2
            noise = np.where(error**2 > OUTLYING**2 * expected, error**2, residual.noise**2)
        self._weights = np.linalg.solve(covariance + np.diag(noise), targets)

    def mean(self, features: Floats) -> Floats:
        mean: Floats = self._level + self._residual.covariance(features, self._features) @ self._weights
        return mean


def _conditioned(own: ClassModel, rows: Sequence[KernelRow], units: int) -> _Field:
    assert own.residual is not None
    shapes = Shapes.of([Shape.of(Kernel(row.family, row.sizes)) for row in rows])
    times = np.maximum(np.array([row.p50_us for row in rows]), LEAST_US)
    return _Field(own.residual, shapes.features(units), np.log(times / own.roofline_us(shapes, units)))


def matern(first: Floats, second: Floats) -> Floats:
    """Matern 3/2 covariance of unit variance and scale.

    Args:
        first: (m, k)
        second: (n, k)

    Returns:
        (m, n)
    """
    squared = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None] - 2.0 * first @ second.T
    distance = np.sqrt(3.0 * np.maximum(squared, 0.0))
    covariance: Floats = (1.0 + distance) * np.exp(-distance)
    return covariance


def scaled_model(
    model: AnalyticalModel, flops: float, bandwidth: float, overhead: float, units: int
) -> AnalyticalModel:
    """The model of a device whose peaks are so many times those of this one.

    Args:
        model: of a measured device of the same kind.
        flops, bandwidth: the other device's peak over this one's.
        overhead: the other device's time to start a kernel over this one's.
        units: its processors.
    """
    classes: Mapping[str, ClassModel] = {
        name: own.model_copy(
            update={
                "overhead_us": own.overhead_us * overhead,
                "us_per_flop": own.us_per_flop / flops,
                "us_per_byte": own.us_per_byte / bandwidth,
                "residual": None,
            }
        )
        for name, own in model.classes.items()
    }
    return AnalyticalModel(units=units, classes=dict(classes))

"""Analytical models of devices: a roofline an operator class, as a profile's header carries it. No graph, no torch.

    time = overhead + us_per_flop * flops * waste + us_per_byte * bytes

(the smooth sum in place of the roofline's maximum; Williams et al. 2009). `waste` is what is paid for and not used:
channels in slices, or tiles in waves. Nothing makes it monotone in the widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from autoprune.core.settings import at_most
from autoprune.hardware.fit import Floats

if TYPE_CHECKING:
    from autoprune.hardware.analytical_shapes import Shapes

ALL = "*"
LEAST_US = 0.01
SLICE = 4  # mobile GPUs keep channels in vectors of four
FEATURES = 64  # of `Shapes`, at most
LARGEST = 1e12  # coefficients of no device are beyond it
WORK = 7  # which of `Shapes.features` is the number of work items


Scale = Annotated[float, Field(gt=1e-12, le=LARGEST)]
Coefficient = Annotated[float, Field(ge=0, le=LARGEST)]
Side = Annotated[int, Field(ge=1, le=100_000)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Residual(_Model):
    """How the logarithm of measured / roofline varies: a smooth process over all features, plus one over one of them.

    The one is the number of work items (`WORK`): runtimes change their block sizes at thresholds of it, which shows in
    all kernels of a class alike.
    """

    scales: Annotated[tuple[Scale, ...], at_most(FEATURES)]  # each feature is divided by its own
    signal: Scale
    noise: Scale
    step: Scale = 1.0  # scale of the process over work items
    step_signal: float = Field(default=0.0, ge=0, le=1e6)

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

    overhead_us: Coefficient
    us_per_flop: Coefficient
    us_per_byte: Coefficient
    tile: tuple[Side, Side] | None = None  # (rows, columns) that one unit computes at once
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
        return np.asarray(np.maximum(self.terms(shapes, units) @ weights, LEAST_US))


class AnalyticalModel(_Model):
    """Coefficients of a device; class `*` serves the operators that have none of their own."""

    units: int = Field(default=1, ge=1, le=1_000_000)  # processors that share the tiles of a kernel
    classes: Annotated[dict[str, ClassModel], at_most(1000)]

    @model_validator(mode="after")
    def _serves_all(self) -> AnalyticalModel:
        if ALL not in self.classes:
            raise ValueError(f"expected a class '{ALL}' for operators that have none of their own")
        return self

    def of(self, operator: str) -> ClassModel:
        """The coefficients of an operator class."""
        return self.classes.get(operator, self.classes[ALL])


def waves(shapes: Shapes, tile: tuple[int, int], units: int) -> tuple[Floats, Floats]:
    """How many times more work whole tiles in whole waves are than the product itself, and how many tiles there are.

    A product is cut into tiles of (rows, columns); `units` tiles run at once, and the last wave is paid for in full.
    """
    tiles = shapes.batch * np.ceil(shapes.rows / tile[0]) * np.ceil(shapes.columns / tile[1])
    paid = np.ceil(tiles / units) * units * tile[0] * tile[1]
    return paid / (shapes.batch * shapes.rows * shapes.columns), tiles


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

"""Times of kernels that were not measured, from an analytical model and what measured neighbours say beside it.

Where rows are at hand, the logarithm of measured / roofline is interpolated between them by kriging (Rasmussen and
Williams 2006, eq. 2.25).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError, shortened
from autoprune.graph.dimension import Batch
from autoprune.graph.fusion import KernelSlot
from autoprune.graph.kernel import Kernel
from autoprune.hardware.analytical import LEAST_US, AnalyticalModel, ClassModel, Residual
from autoprune.hardware.analytical_shapes import Shape, Shapes
from autoprune.hardware.fit import Floats
from autoprune.hardware.kernel_table import KernelRow

ROBUST_ROUNDS, OUTLYING = 3, 2.0
MOST_KERNELS = 2000  # that a process is conditioned on; its time grows with their cube


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
        self._fields: dict[str, Field | None] = {}
        self._shapes: dict[tuple[str, int], Shape] = {}

    def estimate_us(self, operator: str, shapes: Shapes) -> Floats:
        """Estimated times of kernels of one class.  # (m,)"""
        own = self._model.of(operator)
        times = own.roofline_us(shapes, self._model.units)
        field = self._field(operator, own)
        if field is None:
            return times
        corrected: Floats = times * np.exp(field.mean(shapes.features(self._model.units)))
        return corrected

    def slot_us(
        self, slot: KernelSlot, batch: int, sizes: npt.NDArray[np.int64], flops: Floats, bytes_: Floats
    ) -> Floats:
        """Estimated times of one kernel of a traced model at several widths.  # (m,)

        Args:
            slot: the kernel.
            batch: batch size.
            sizes: of the slot's dimensions, above zero.  # (m, d)
            flops, bytes_: at those sizes.  # (m,)
        """
        key = (slot.signature, batch)
        if key not in self._shapes:
            self._shapes[key] = Shape.of(slot.kernel({Batch.KEY: batch}))
        return self.estimate_us(slot.operator, Shapes.family(self._shapes[key], sizes, flops, bytes_))

    def _field(self, operator: str, own: ClassModel) -> Field | None:
        if operator not in self._fields:
            rows = self._rows.get(operator, [])
            usable = own.residual is not None and len(rows) > 0
            self._fields[operator] = _conditioned(own, rows, self._model.units) if usable else None
        return self._fields[operator]


class Field:
    """A Gaussian process, conditioned on residuals at some features.

    Rows that their neighbours contradict count less: their noise is raised to their leave-one-out error. Of more than
    `MOST_KERNELS`, every second or third is taken.
    """

    def __init__(self, residual: Residual, features: Floats, values: Floats) -> None:
        step = max(1, -(-len(values) // MOST_KERNELS))
        features, values = features[::step], values[::step]
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


def _conditioned(own: ClassModel, rows: Sequence[KernelRow], units: int) -> Field:
    assert own.residual is not None
    taken = rows[:: max(1, -(-len(rows) // MOST_KERNELS))]
    shapes = Shapes.of([_shape(row) for row in taken])
    times = np.maximum(np.array([row.p50_us for row in taken]), LEAST_US)
    return Field(own.residual, shapes.features(units), np.log(times / own.roofline_us(shapes, units)))


def _shape(row: KernelRow) -> Shape:
    """The shape of a row of a file; the text of its family may be anybody's."""
    try:
        return Shape.of(Kernel(row.family, row.sizes))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, RuntimeError) as error:
        raise InputError(
            f"profile: expected kernels as autoprune writes them, got '{shortened(row.family)}' of sizes "
            f"{row.sizes[:8]} ({type(error).__name__}). Correct kernels.csv, or profile the device anew."
        ) from error

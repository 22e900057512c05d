"""The time of one family's kernels as a function of their widths, from times taken inside whole models.

Whole models meet kernels at scattered widths, each a few times and with the noise of a model's run. A roofline of the
family's own says how time grows; the logarithm of measured / roofline is smooth but for the staircase, which its
features carry, and is interpolated by kriging.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoprune.hardware.analytical import LEAST_US, Residual
from autoprune.hardware.analytical_estimate import Field
from autoprune.hardware.fit import Floats, relative_fit
from autoprune.hardware.interpolation import ESTIMATED, INTERPOLATED, MEASURED, Integers
from autoprune.hardware.kernel_table import KernelRow

FEWEST = 6  # kernels that make a surface
PADDING, ALIGNED = 3.0, 0.5  # weight beside the logarithm of a width: of its padding, of being a multiple
SCALE, SIGNAL, NOISE = 2.0, 0.3, 0.05  # of the logarithm of measured / roofline
STAIRCASE = frozenset(("conv", "pointwise", "depthwise", "grouped", "linear", "matmul"))


class Surface:
    """Times of one family between and beside measured widths.

    Args:
        sizes: (n, d) widths, rows unique.
        times_us: (n,)
        work: flops (n,) and bytes (n,).
        quantum: the width multiple that is paid for; 1 where none shows.
        noise: standard deviation of the logarithm of a time.
    """

    def __init__(
        self, sizes: Integers, times_us: Floats, work: tuple[Floats, Floats], quantum: int, noise: float = NOISE
    ) -> None:
        self._quantum = quantum
        self._known = {tuple(row) for row in sizes.tolist()}
        self._low, self._high = sizes.min(axis=0), sizes.max(axis=0)
        terms = self._terms(sizes, *work)
        scale = np.maximum(terms.max(axis=0), 1e-12)
        times = np.maximum(times_us, LEAST_US)
        self._weights = relative_fit(terms / scale, times) / scale
        logs = np.log(times / self._roofline(terms))
        features = self._features(sizes)
        residual = Residual(scales=(SCALE,) * features.shape[1], signal=SIGNAL, noise=noise)
        self._field = Field(residual, features, logs)

    @classmethod
    def of(cls, rows: Sequence[KernelRow], quantum: int) -> Surface | None:
        """The surface of the rows of one family; None for too few."""
        staircase = quantum if rows and rows[0].operator in STAIRCASE else 1
        if len(rows) < FEWEST or not rows[0].sizes:
            return None
        sizes = np.array([row.sizes for row in rows], dtype=np.int64)
        flops, bytes_ = (np.array([getattr(row, name) for row in rows], dtype=float) for name in ("flops", "bytes"))
        return cls(sizes, np.array([row.p50_us for row in rows]), (flops, bytes_), staircase)

    def predict(self, sizes: Integers, flops: Floats, bytes_: Floats) -> tuple[Floats, npt.NDArray[np.int8]]:
        """Times and how they are known: at measured widths, between them, beyond them.

        Args:
            sizes: (m, d)
            flops, bytes_: at those sizes.  # (m,)
        """
        times = self._roofline(self._terms(sizes, flops, bytes_)) * np.exp(self._field.mean(self._features(sizes)))
        inside = ((sizes >= self._low) & (sizes <= self._high)).all(axis=1)
        kinds = np.where(inside, INTERPOLATED, ESTIMATED).astype(np.int8)
        kinds[[tuple(row) in self._known for row in sizes.tolist()]] = MEASURED
        return times, kinds

    def _roofline(self, terms: Floats) -> Floats:
        return np.maximum(terms @ self._weights, LEAST_US)

    def _terms(self, sizes: Integers, flops: Floats, bytes_: Floats) -> Floats:
        """1, flops that are paid for, bytes.  # (n, 3)"""
        waste = np.prod(self._padding(sizes), axis=1)
        return np.column_stack([np.ones(len(sizes)), flops * waste + 1.0, bytes_])

    def _padding(self, sizes: Integers) -> Floats:
        """How many times wider each width is once rounded up to the quantum.  # (n, d)"""
        padded: Floats = -(-sizes // self._quantum) * self._quantum / np.maximum(sizes, 1)
        return padded

    def _features(self, sizes: Integers) -> Floats:
        """What times are smooth in.  # (n, 3 d), or (n, d) without a staircase"""
        logs = np.log(np.maximum(sizes, 1))
        if self._quantum == 1:
            return logs
        aligned = ALIGNED * (sizes % self._quantum == 0)
        return np.concatenate([logs, PADDING * np.log(self._padding(np.maximum(sizes, 1))), aligned], axis=1)

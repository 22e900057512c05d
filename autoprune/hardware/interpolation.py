"""Times between measured widths: piecewise linear inside the cell of measured neighbours, never beyond them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoprune.hardware.kernel_table import KernelRow

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
MEASURED, INTERPOLATED, ESTIMATED = 0, 1, 2
MOST_CELLS, MOST_PASSES = 1_000_000, 16  # of a grid, and over it until what can be filled in is; two or three do
AT_ONCE = 10_000_000  # differences of widths


class FamilyTable:
    """The measured kernels of one family.

    Args:
        sizes: (n, d) measured widths, rows unique.
        times_us: (n,)
        work: flops (n,) and bytes (n,), where known.
    """

    def __init__(self, sizes: Integers, times_us: Floats, work: tuple[Floats, Floats] | None = None) -> None:
        self.sizes = sizes
        self.work = work
        self.times_us = times_us
        self._axes = [np.unique(sizes[:, axis]) for axis in range(sizes.shape[1])]
        shape = tuple(len(axis) for axis in self._axes)
        self._dense = float(np.prod(shape, dtype=np.float64)) <= MOST_CELLS
        self._grid = np.full(shape if self._dense else (0,), np.nan)
        self._measured = np.isfinite(self._grid)
        if self._dense and self._axes:
            places = tuple(np.searchsorted(axis, sizes[:, i]) for i, axis in enumerate(self._axes))
            self._grid[places] = times_us
            self._measured = np.isfinite(self._grid)
            self._grid = _filled(self._grid, self._axes)

    @classmethod
    def of(cls, rows: Sequence[KernelRow]) -> FamilyTable:
        """The table of the rows of one family."""
        sizes = np.array([row.sizes for row in rows], dtype=np.int64).reshape(len(rows), -1)
        flops, bytes_ = (
            np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in ("flops", "bytes")
        )
        return cls(sizes, np.array([row.p50_us for row in rows], dtype=np.float64), (flops, bytes_))

    def predict(self, sizes: Integers) -> tuple[Floats, npt.NDArray[np.int8]]:
        """Times and how they are known (`MEASURED`, `INTERPOLATED`; `ESTIMATED` with NaN where they are not).

        Multilinear over the cell of the nearest sampled widths around each query. A corner that was not measured is
        itself interpolated along the axes on which it has measured neighbours on both sides.

        Args:
            sizes: (m, d)
        """
        count, dimensions = sizes.shape
        times = np.full(count, np.nan)
        kinds = np.full(count, ESTIMATED, dtype=np.int8)
        if dimensions == 0:
            return np.full(count, self.times_us[0]), np.full(count, MEASURED, dtype=np.int8)
        if not self._dense or dimensions > 6:
            return self._exact_only(sizes, times, kinds)
        low, high, weight = self._cells(sizes)
        inside = np.all(high >= 0, axis=1)
        total = np.zeros(count)
        for corner in itertools.product((0, 1), repeat=dimensions):
            share = np.ones(count)
            places = []
            for axis, side in enumerate(corner):
                share *= weight[:, axis] if side else 1.0 - weight[:, axis]
                places.append(np.clip(high[:, axis] if side else low[:, axis], 0, None))
            value = self._grid[tuple(places)]
            total += np.where(share > 0, share * value, 0.0)  # a corner of no weight need not be measured
        known = inside & np.isfinite(total)
        times[known] = total[known]
        nodes = np.where(weight == 1, np.clip(high, 0, None), low)
        exact = known & np.all((weight == 0) | (weight == 1), axis=1) & self._measured[tuple(nodes.T)]
        kinds[known] = INTERPOLATED
        kinds[exact] = MEASURED
        return times, kinds

    def _cells(self, sizes: Integers) -> tuple[Integers, Integers, Floats]:
        """Per query and axis: index below, index above (-1 outside the samples) and the weight of the one above."""
        low = np.zeros(sizes.shape, dtype=np.int64)
        high = np.zeros(sizes.shape, dtype=np.int64)
        weight = np.zeros(sizes.shape)
        for i, axis in enumerate(self._axes):
            above = np.searchsorted(axis, sizes[:, i], side="left")
            outside = (sizes[:, i] < axis[0]) | (sizes[:, i] > axis[-1])
            above = np.clip(above, 0, len(axis) - 1)
            below = np.where(axis[above] == sizes[:, i], above, np.maximum(above - 1, 0))
            step = np.maximum(axis[above] - axis[below], 1)
            low[:, i] = below
            high[:, i] = np.where(outside, -1, above)
            weight[:, i] = np.clip((sizes[:, i] - axis[below]) / step, 0.0, 1.0)
        return low, high, weight

    def within_step(self, sizes: Integers, quantum: int) -> Integers:
        """Widths rounded up to the multiple of the quantum that is paid for, as far as the samples reach.

        Below one quantum they stay: what is paid for there is not a whole block on every runtime.
        """
        highest = np.array([axis[-1] for axis in self._axes], dtype=np.int64)
        rounded = np.minimum(-(-sizes // quantum) * quantum, highest)
        return np.where((sizes > quantum) & (sizes <= highest), rounded, sizes)

    def _exact_only(
        self, sizes: Integers, times: Floats, kinds: npt.NDArray[np.int8]
    ) -> tuple[Floats, npt.NDArray[np.int8]]:
        known = {tuple(row): time for row, time in zip(self.sizes.tolist(), self.times_us, strict=True)}
        for index, row in enumerate(sizes.tolist()):
            if tuple(row) in known:
                times[index], kinds[index] = known[tuple(row)], MEASURED
        return times, kinds

    def nearest(self, sizes: Integers) -> Integers:
        """Index of the measured kernel nearest in the logarithm of the widths.  # (m,)"""
        if sizes.shape[1] == 0:
            return np.zeros(len(sizes), dtype=np.int64)
        own, wanted = np.log(np.maximum(self.sizes, 1)), np.log(np.maximum(sizes, 1))
        step = max(1, AT_ONCE // own.size)
        found = [
            np.argmin(((part[:, None, :] - own[None, :, :]) ** 2).sum(axis=2), axis=1)
            for part in (wanted[first : first + step] for first in range(0, len(wanted), step))
        ]
        return np.concatenate([np.zeros(0, dtype=np.int64), *found]).astype(np.int64)


def _filled(grid: Floats, axes: Sequence[Integers]) -> Floats:
    """Nodes without a measurement, interpolated between their neighbours along each axis (mean over axes).

    Only inside measured neighbours: what has none on both sides along any axis stays NaN.
    """
    filled = grid.copy()
    for _ in range(MOST_PASSES):
        if not np.isnan(filled).any():
            break
        found = [_filled_along(filled, axis, positions) for axis, positions in enumerate(axes)]
        stack = np.stack(found)
        counts = np.isfinite(stack).sum(axis=0)
        means = np.nansum(stack, axis=0) / np.maximum(counts, 1)
        new = np.isnan(filled) & (counts > 0)
        if not new.any():
            break
        filled[new] = means[new]
    return filled


def _filled_along(grid: Floats, axis: int, positions: Integers) -> Floats:
    """Linear interpolation of the NaN entries along one axis; NaN where a side has no value."""
    lines = np.moveaxis(grid, axis, -1)
    result = np.full_like(lines, np.nan)
    for place in np.ndindex(lines.shape[:-1]):
        line = lines[place]
        known = np.isfinite(line)
        if known.sum() >= 2:
            result[place] = np.interp(positions, positions[known], line[known], left=np.nan, right=np.nan)
    return np.moveaxis(result, -1, axis)

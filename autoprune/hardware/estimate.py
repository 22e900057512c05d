"""Times of kernels that were not measured: a roofline whose efficiency is fitted on the profile's own rows.

For each operator class `time = overhead + flops / rate + bytes / bandwidth` (the smooth sum in place of the roofline's
maximum; Williams et al. 2009), non-negative and robust in relative error. Near a measured kernel of the same family
the estimate is scaled to agree with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.hardware.fit import Floats, relative_fit
from autoprune.hardware.kernel_table import KernelRow

ALL = "*"
# Where nothing at all was measured: 10 GFLOP/s, 5 GB/s and 2 us a kernel.
UNKNOWN = np.array([2.0, 1e-4, 2e-4])
MINIMUM_ROWS = 4


class Roofline:
    """Fitted coefficients by operator class.

    Args:
        rows: measured kernels; classes with fewer than `MINIMUM_ROWS` rows use the fit over all.
    """

    def __init__(self, rows: Sequence[KernelRow]) -> None:
        self.coefficients: dict[str, Floats] = {ALL: _fit(rows) if rows else UNKNOWN}
        for operator in sorted({row.operator for row in rows}):
            own = [row for row in rows if row.operator == operator]
            if len(own) >= MINIMUM_ROWS:
                self.coefficients[operator] = _fit(own)

    def estimate_us(self, operator: str, flops: Floats, bytes_: Floats) -> Floats:
        """Estimated times, at least a hundredth of a microsecond.  # (m,)"""
        overhead, per_flop, per_byte = self.coefficients.get(operator, self.coefficients[ALL])
        return np.maximum(overhead + per_flop * flops + per_byte * bytes_, 0.01)


def _fit(rows: Sequence[KernelRow]) -> Floats:
    matrix = np.array([[1.0, row.flops, row.bytes] for row in rows])
    times = np.maximum(np.array([row.p50_us for row in rows]), 0.01)
    scale = np.maximum(matrix.max(axis=0), 1e-12)
    return relative_fit(matrix / scale, times) / scale

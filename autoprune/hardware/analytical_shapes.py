"""Sizes of kernels as arrays: what an analytical model knows of them, from their keys alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.graph.dimension import dense_size
from autoprune.graph.fusion import CONVOLUTIONS, kernel_slots
from autoprune.graph.kernel import Kernel
from autoprune.graph.program import Operation, Program, Ref
from autoprune.hardware.analytical import SLICE, waves
from autoprune.hardware.fit import Floats

WIDTHS = frozenset(("conv", "pointwise", "linear"))  # classes whose sizes are (inner channels, columns)
LARGEST_DIVISOR = 16


@dataclass(frozen=True)
class Shape:
    """One kernel seen as `batch` products of (rows x inner) and (inner x columns).

    Attributes:
        operator: its class.
        flops, bytes: floating-point operations; bytes read and written.
        batch, rows, inner, columns: of the product; for other kernels, positions and channels of the result.
        read: positions of the first input.
        taps: positions of a convolution's window, part of `inner`.
        steps: operations fused behind the first.
        extra: activations that these read.
    """

    operator: str
    flops: float
    bytes: float
    batch: float
    rows: float
    inner: float
    columns: float
    read: float
    taps: float
    steps: int
    extra: int

    @classmethod
    def of(cls, kernel: Kernel) -> Shape:
        """The shape of a kernel.

        Raises:
            InputError: its family does not parse.
        """
        program = kernel.program()
        [slot] = kernel_slots(program)
        anchor = program.operations[0]
        result = _sizes(program, anchor.results[0])
        first = _sizes(program, next((name for name in anchor.refs() if name in program.inputs), anchor.results[0]))
        batch, rows, inner, columns, taps = _product(program, anchor, result)
        return cls(
            operator=slot.operator,
            flops=float(slot.flops({})),
            bytes=float(slot.bytes({})),
            batch=batch,
            rows=rows,
            inner=inner,
            columns=columns,
            read=math.prod(first) / max(_channels(first), 1),
            taps=taps,
            steps=len(program.operations) - 1,
            extra=len(program.inputs) - sum(name in program.inputs for name in set(anchor.refs())),
        )


def _product(program: Program, anchor: Operation, result: Sequence[int]) -> tuple[float, float, float, float, float]:
    """Batch, rows, inner, columns and taps."""
    if anchor.target in CONVOLUTIONS:
        weight = _sizes(program, anchor.argument(1, "weight").name)
        groups = max(1, _sizes(program, program.inputs[0])[1] // max(weight[1], 1))
        taps = math.prod(weight[2:])
        rows = result[0] * math.prod(result[2:])
        return float(groups), float(rows), float(weight[1] * taps), weight[0] / groups, float(taps)
    if anchor.target in ("aten.matmul.default", "aten.bmm.default", "aten.mm.default"):
        left = _sizes(program, anchor.argument(0, "self").name)
        return float(math.prod(result[:-2])), float(result[-2]), float(left[-1]), float(result[-1]), 1.0
    if anchor.target == "aten.linear.default":
        weight = _sizes(program, anchor.argument(1, "weight").name)
        return 1.0, math.prod(result) / result[-1], float(weight[1]), float(weight[0]), 1.0
    channels = max(_channels(result), 1)
    return 1.0, math.prod(result) / channels, 1.0, float(channels), 1.0


def _channels(sizes: Sequence[int]) -> int:
    if not sizes:
        return 1
    return sizes[1] if len(sizes) >= 4 else sizes[-1]


def _sizes(program: Program, name: str | Ref) -> tuple[int, ...]:
    value = program.values[name if isinstance(name, str) else name.name]
    return tuple(dense_size(dimension) for dimension in value.dimensions)


@dataclass(frozen=True, eq=False)
class Shapes:
    """Many kernels of one class; the fields of `Shape` as arrays.  # (m,) each"""

    flops: Floats
    bytes: Floats
    batch: Floats
    rows: Floats
    inner: Floats
    columns: Floats
    read: Floats
    taps: Floats
    steps: Floats
    extra: Floats

    @classmethod
    def of(cls, shapes: Sequence[Shape]) -> Shapes:
        """Arrays of some shapes."""
        names = ("flops", "bytes", "batch", "rows", "inner", "columns", "read", "taps", "steps", "extra")
        return cls(*(np.array([getattr(shape, name) for shape in shapes], dtype=np.float64) for name in names))

    @classmethod
    def family(cls, shape: Shape, sizes: npt.NDArray[np.int64], flops: Floats, bytes_: Floats) -> Shapes:
        """The kernels of one family at other widths.

        Args:
            shape: one kernel of the family.
            sizes: (m, d)
            flops, bytes_: at those sizes.  # (m,)
        """
        same = np.ones(len(sizes))
        batch, inner, columns = shape.batch * same, shape.inner * same, shape.columns * same
        if shape.operator in WIDTHS:
            inner, columns = shape.taps * sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
        elif shape.operator == "depthwise" and sizes.shape[1] == 1:
            batch = sizes[:, 0].astype(np.float64)
        elif shape.flops > 0:  # what else grows does so with its channels
            columns = shape.columns * flops / shape.flops
        # Where a width is 0 nothing runs and nobody reads the time; sizes of 1 keep the arithmetic finite.
        batch, inner, columns, bytes_ = (np.maximum(values, 1.0) for values in (batch, inner, columns, bytes_))
        rest = (shape.rows, shape.read, shape.taps, shape.steps, shape.extra)
        rows, read, taps, steps, extra = (value * same for value in rest)
        return cls(flops, bytes_, batch, rows, inner, columns, read, taps, steps, extra)

    def features(self, units: int) -> Floats:
        """Logarithms that times are smooth in: sizes, and how badly they fit slices, tiles and waves.  # (m, 17)

        Args:
            units: processors that share the tiles of a kernel.
        """
        outer = self.columns * self.batch
        slices = np.ceil(outer / SLICE)
        logs = [self.rows, self.read, self.inner / self.taps, outer, self.taps, self.batch, self.flops + 1.0]
        logs += [self.rows * slices, (self.flops + 1.0) / self.bytes]
        logs += [_padded(outer, SLICE), _padded(slices, 2), _padded(slices, 4), _padded(self.inner / self.taps, SLICE)]
        logs += [largest_divisor(slices), waves(self, (128, 128), units)[0], waves(self, (64, 64), units)[0]]
        fused = 0.3 * self.steps + 0.5 * self.extra
        return np.column_stack([*(np.log(np.maximum(value, 1e-9)) for value in logs), fused])


def _padded(values: Floats, step: int) -> Floats:
    """How many times larger a size is once rounded up to a multiple of `step`."""
    padded: Floats = np.ceil(values / step) * step / np.maximum(values, 1.0)
    return padded


def largest_divisor(values: Floats) -> Floats:
    """The largest divisor of each whole number up to `LARGEST_DIVISOR`: work groups have to divide their grid."""
    found = np.ones_like(values)
    for divisor in range(2, LARGEST_DIVISOR + 1):
        found = np.where(values % divisor == 0, float(divisor), found)
    return found

"""How a convolution's window moves: which input pixels each kernel position (tap) meets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.graph.program import Operation


@dataclass(frozen=True)
class Window:
    """A convolution's geometry, one entry a spatial axis.

    Attributes:
        kernel, stride, dilation: as torch names them.
        before, after: zero padding on both sides; of a transposed convolution what is cropped.
        extra: output padding of a transposed convolution.
        transposed: whether pixels are spread, not gathered.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]
    extra: tuple[int, ...]
    transposed: bool = False

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return math.prod(self.kernel)

    def outputs(self, axis: int, length: int) -> int:
        """Output positions along an axis of `length` pixels."""
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        around = self.before[axis] + self.after[axis]
        if self.transposed:
            return (length - 1) * self.stride[axis] + reach - around + self.extra[axis]
        return (length + around - reach) // self.stride[axis] + 1

    def seen(self, spatial: Sequence[int]) -> tuple[list[list[slice]], int]:
        """The input pixels each tap meets, axis by axis, and the number of output positions.

        Zero padding is met by nobody; what a transposed convolution crops does not count.
        """
        counts = [self.outputs(axis, length) for axis, length in enumerate(spatial)]
        across = self._spread if self.transposed else self._gathered
        return [across(axis, length, counts[axis]) for axis, length in enumerate(spatial)], math.prod(counts)

    def _gathered(self, axis: int, length: int, count: int) -> list[slice]:
        """Output o meets pixel `o * stride + offset` through a tap."""
        stride, cuts = self.stride[axis], []
        for tap in range(self.kernel[axis]):
            offset = tap * self.dilation[axis] - self.before[axis]
            first = max(0, math.ceil(-offset / stride))
            last = min(count - 1, (length - 1 - offset) // stride)
            start = offset + first * stride
            cuts.append(slice(start, offset + last * stride + 1, stride) if last >= first else slice(0, 0))
        return cuts

    def _spread(self, axis: int, length: int, count: int) -> list[slice]:
        """Pixel i meets output `i * stride + offset` through a tap."""
        stride, cuts = self.stride[axis], []
        for tap in range(self.kernel[axis]):
            offset = tap * self.dilation[axis] - self.before[axis]
            first = max(0, math.ceil(-offset / stride))
            last = min(length - 1, (count - 1 - offset) // stride)
            cuts.append(slice(first, last + 1) if last >= first else slice(0, 0))
        return cuts

    def patches(self, spatial: Sequence[int]) -> list[list[slice]]:
        """Per axis and tap, the pixels it meets in the zero-padded input, one an output position; not transposed."""
        cuts = []
        for axis, length in enumerate(spatial):
            count, stride = self.outputs(axis, length), self.stride[axis]
            starts = [tap * self.dilation[axis] for tap in range(self.kernel[axis])]
            cuts.append([slice(start, start + (count - 1) * stride + 1, stride) for start in starts])
        return cuts


def window_of(operation: Operation, kernel: tuple[int, ...]) -> Window | None:
    """The window of a convolution; None where its arguments follow a policy."""
    transposed = "transpose" in operation.target
    stride, padding = operation.argument(3, "stride", 1), operation.argument(4, "padding", 0)
    dilation = operation.argument(7 if transposed else 5, "dilation", 1)
    extra = operation.argument(5, "output_padding", 0) if transposed else 0
    rank = len(kernel)
    try:
        stride, dilation, extra = (_each(value, rank) for value in (stride, dilation, extra))
        if padding == "valid":
            before = after = (0,) * rank
        elif padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            before = tuple(t // 2 for t in total)
            after = tuple(t - t // 2 for t in total)
        else:
            before = after = _each(padding, rank)
    except TypeError:
        return None
    return Window(kernel, stride, before, after, dilation, extra, transposed)


def _each(value: Any, rank: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    if not all(isinstance(item, int) for item in values):
        raise TypeError(f"expected integers, got {values!r}")
    return values * rank if len(values) == 1 else values

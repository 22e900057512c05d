"""What a convolution pays at its edges when it runs alone, and does not pay inside a model.

Runtimes keep activations in a blocked layout between convolutions; a convolution alone changes the layout of what
comes in and of what goes out. Two in a row save one change of each: `2 T(one) - T(two)` is that saving, fitted as
`constant + per_byte * bytes` over a few sizes, and half of it is taken off for every activation of a kernel.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np

from autoprune.core.errors import Failure
from autoprune.graph.kernel import Kernel
from autoprune.hardware.fit import non_negative_least_squares
from autoprune.hardware.measure import Protocol, Sentinel, time_guarded
from autoprune.hardware.runtimes import Runner, RunSettings, Runtime
from autoprune.hardware.runtimes.model import Model

ONE = "x0:({n},c0,{s},{s});y0:({n},c0,{s},{s})=conv2d.default(x0,w(c0,c0,1,1),w(c0,),(1,1),(0,0),(1,1),1)"
TWO = ONE + ";y1:({n},c0,{s},{s})=conv2d.default(y0,w(c0,c0,1,1),w(c0,),(1,1),(0,0),(1,1),1)"
WIDTHS, SIDES = (16, 32, 64), (7, 14, 28)
BLOCKED = frozenset(("conv", "pointwise", "depthwise", "grouped"))
LEAST = 0.2  # of a kernel's time that is its own, whatever the fit says


@dataclass(frozen=True)
class Edges:
    """Cost of one activation that enters or leaves: `constant_us + us_per_byte * bytes`."""

    constant_us: float = 0.0
    us_per_byte: float = 0.0

    def paid_us(self, activation_bytes: tuple[int, ...]) -> float:
        """What all activations of a kernel pay."""
        return sum(self.constant_us + self.us_per_byte * bytes_ for bytes_ in activation_bytes)

    def inside_us(self, operator: str, time_us: float, activation_bytes: tuple[int, ...]) -> float:
        """The time of a kernel inside a model, from its time alone."""
        if operator not in BLOCKED:
            return time_us
        return max(time_us - self.paid_us(activation_bytes), LEAST * time_us)

    def alone_us(self, operator: str, time_us: float, activation_bytes: tuple[int, ...]) -> float:
        """The time of a kernel alone, from its time inside a model: the inverse of `inside_us`."""
        if operator not in BLOCKED:
            return time_us
        return min(time_us + self.paid_us(activation_bytes), time_us / LEAST)


def probe_edges(
    runtime: Runtime,
    settings: RunSettings,
    empty_us: float,
    protocol: Protocol,
    sentinel: Sentinel | None,
    deadline: float | None = None,
) -> Edges:
    """Measure the edges; nothing is taken off where the runtime refuses a probe, or fails in one.

    Args:
        runtime: what runs the probes.
        settings: how.
        empty_us: what running anything at all takes.
        protocol: how often.
        sentinel: what they are timed beside.
        deadline: reading of `time.perf_counter`; where compiling takes longer, edges are not looked for.
    """
    sizes = list(itertools.product(WIDTHS, SIDES))
    runners: list[Runner] = []
    for width, side in sizes:
        for family in (ONE, TWO):
            kernel = Kernel(family.format(n=settings.batch, s=side), (width,))
            if deadline is not None and time.perf_counter() > deadline:
                return Edges()
            runner = runtime.compile(Model.of_kernel(kernel), settings)
            if isinstance(runner, Failure):
                return Edges()
            runners.append(runner)
    found = time_guarded(runners, protocol, sentinel=sentinel)
    measured = [own.p50_us for own in found if not isinstance(own, Failure)]
    if len(measured) < len(found):
        return Edges()
    times = np.array(measured).reshape(-1, 2)
    saved = 2.0 * times[:, 0] - times[:, 1] - empty_us
    bytes_ = np.array([4.0 * settings.batch * width * side * side for width, side in sizes])
    return fit_edges(bytes_, saved)


def fit_edges(bytes_: np.ndarray, saved_us: np.ndarray) -> Edges:
    """The cost of one activation, from what two convolutions in a row save (an activation out and in).

    Args:
        bytes_: of the activation between them.  # (n,)
        saved_us: (n,)
    """
    scale = float(bytes_.max())
    constant, slope = non_negative_least_squares(np.stack([np.ones_like(bytes_), bytes_ / scale], axis=1), saved_us)
    return Edges(float(constant) / 2.0, float(slope) / scale / 2.0)

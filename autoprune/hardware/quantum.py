"""The alignment quantum: the width multiple in which a runtime's convolutions pay, found by a dense probe."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import Failure
from autoprune.graph.kernel import Kernel
from autoprune.hardware.measure import Protocol, Sentinel, time_runners
from autoprune.hardware.runtimes import RUNTIMES, RunSettings, Runtime
from autoprune.hardware.runtimes.model import Model

CANDIDATES = (32, 16, 8, 4, 2)
PROBED = range(33, 97)  # three blocks of 32 on either side of every boundary
SHARPNESS = 0.5
KEPT = 0.85
FAMILY = "x0:({n},c0,7,7);y0:({n},c1,7,7)=conv2d.default(x0,w(c1,c0,3,3),w(c1,),(1,1),(1,1),(1,1),1)"
PROTOCOL = Protocol(sessions=5, minimum_runs=15, maximum_runs=40, target_us=1_000.0, warmup_runs=3, warmup_us=0.0)


def alignment_quantum(runtime: str = "onnxruntime", settings: RunSettings | None = None) -> int:
    """The width multiple that convolutions pay for on this machine; 1 where none shows. Takes about a second.

    Raises:
        InputError: an unknown runtime.
    """
    return probe_quantum(RUNTIMES.get(runtime)(), settings or RunSettings())


def probe_quantum(runtime: Runtime, settings: RunSettings, deadline: float | None = None) -> int:
    """As `alignment_quantum`, for a runtime at hand; 1 where it refuses a probe, or fails in one.

    Args:
        runtime: what runs the probes.
        settings: how.
        deadline: reading of `time.perf_counter`; where compiling takes longer, no quantum is looked for.
    """
    runners = []
    for width in PROBED:
        if deadline is not None and time.perf_counter() > deadline:
            return 1
        kernel = Kernel(FAMILY.format(n=settings.batch), (32, width))
        runner = runtime.compile(Model.of_kernel(kernel), settings)
        if isinstance(runner, Failure):
            return 1
        runners.append(runner)
    try:
        measured = time_runners(runners, PROTOCOL, sentinel=Sentinel(runners[0]))
    except Exception:  # one fails while it runs: runtimes raise classes of their own
        return 1
    return quantum_of(list(PROBED), [found.p50_us for found in measured])


def quantum_of(widths: Sequence[int], times_us: Sequence[float]) -> int:
    """The largest step of a staircase that times follow, 1 where they follow none.

    Times are grouped into steps of the candidate, once with edges at its multiples and once half a step off. A
    staircase of that step is flat within the first groups and broken within the second; a straight line, or a
    staircase of another step, is alike in both.

    Args:
        widths: consecutive widths.  # (n,)
        times_us: (n,)
    """
    size, times = np.array(widths, dtype=np.int64), np.array(times_us, dtype=np.float64)
    relative = times / np.polyval(np.polyfit(size, times, 1), size)
    for candidate in CANDIDATES:
        aligned = _spread(size, times, candidate, 0)
        shifted = _spread(size, times, candidate, candidate // 2)
        # Steps too small to see beside the noise of the probe are none.
        if aligned < SHARPNESS * shifted and float(np.std(relative)) > 0.01:
            return candidate
    return 1


def _spread(size: npt.NDArray[np.int64], times: npt.NDArray[np.float64], step: int, offset: int) -> float:
    """Mean relative squared deviation from the median of each whole group of `step` widths, outliers left out."""
    groups = (size - 1 + offset) // step
    deviations: list[float] = []
    for group in np.unique(groups):
        inside = times[groups == group]
        if len(inside) == step:
            deviations.extend(np.abs(inside / np.median(inside) - 1.0))
    kept = np.sort(deviations)[: max(1, int(KEPT * len(deviations)))]  # a busy machine makes outliers
    return float(np.mean(kept**2)) if deviations else np.inf

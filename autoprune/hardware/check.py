"""Whether a profile still holds on this machine: a sample of its kernels, timed again."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoprune.core.errors import AutopruneError, InputError
from autoprune.graph.kernel import Kernel
from autoprune.hardware.devices.local import LocalDevice
from autoprune.hardware.edges import Edges
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.measure import Measurement, Progress, Protocol, run_settings, time_guarded
from autoprune.hardware.pinning import pinned
from autoprune.hardware.profile import HardwareProfile, ProfileHeader, RuntimeInfo
from autoprune.hardware.profiling.bench import take_block
from autoprune.hardware.profiling.kernels import LIMITS
from autoprune.hardware.profiling.rows import activation_bytes, kernel_work
from autoprune.hardware.profiling.settings import KERNEL_PROTOCOL
from autoprune.hardware.runtimes import RUNTIMES, Runtime
from autoprune.hardware.runtimes.model import Model

KERNELS = 40
TOLERANCE = 0.1
ENOUGH = 0.5  # of the kernels must be as near as that
MIDDLE = (0.1, 0.9)
BUSY = 0.5  # load of a core that is worth a word
ENVIRONMENT = ("governor", "turbo", "smt", "cgroup_cpu_max")


@dataclass(frozen=True)
class Check:
    """What came of timing a sample of a profile's kernels again.

    Attributes:
        profile: its name.
        kernels: how many were timed.
        failures: why others could not be.
        median_ratio: of time now over time in the profile.
        low, high: between them lie the middle four fifths of the ratios.
        within: share of the kernels within `TOLERANCE` of the profile.
        differences: what is different here -> what the profile says, what is here.
    """

    profile: str
    kernels: int
    failures: tuple[str, ...]
    median_ratio: float
    low: float
    high: float
    within: float
    differences: Mapping[str, tuple[str, str]]

    @property
    def holds(self) -> bool:
        """Whether the median, and at least half of the kernels, are within a tenth of the profile."""
        return abs(self.median_ratio - 1.0) <= TOLERANCE and self.within >= ENOUGH

    def to_data(self) -> dict[str, Any]:
        """As JSON data."""
        data = {**vars(self), "holds": self.holds, "tolerance": TOLERANCE}
        data["differences"] = {what: {"profile": old, "here": new} for what, (old, new) in self.differences.items()}
        return data


def check_profile(
    profile: HardwareProfile,
    kernels: int = KERNELS,
    *,
    seed: int = 0,
    protocol: Protocol = KERNEL_PROTOCOL,
    progress: Progress | None = None,
) -> Check:
    """Time a sample of a profile's kernels again, under its runtime and settings.

    Args:
        profile: a profile that was measured.
        kernels: how many at most, from the shortest to the longest.
        seed: of the sample and of the order.
        protocol: how often.
        progress: called with ("kernels", done, total).

    Raises:
        InputError: the profile was not measured, not on a machine of this kind, under a runtime that is not there, or
            holds no kernel timed alone.
        AutopruneError: the runtime refuses every kernel.
    """
    header = profile.header
    runtime, info = _runtime(header)
    here = LocalDevice()
    differences = compare(header, info, here.describe().model_dump(), here.environment())
    rows = sample([row for row in profile.kernels if row.within == "alone" and not row.failure], kernels, seed)
    if not rows:
        raise InputError(f"profile check: expected a profile with kernels timed alone, got none in '{profile.name}'.")
    with pinned(header.threads):
        times, failures = _timed(rows, runtime, header, replace(protocol, seed=seed), progress)
    if not times:
        raise AutopruneError(f"profile check: the runtime refused every kernel, the first with: {failures[0]}.")
    ratios = np.array([time_us / alone_us(row, header) for row, time_us in times])
    low, high = np.quantile(ratios, MIDDLE)
    return Check(
        profile=profile.name,
        kernels=len(times),
        failures=tuple(sorted(set(failures))),
        median_ratio=float(np.median(ratios)),
        low=float(low),
        high=float(high),
        within=float(np.mean(np.abs(ratios - 1.0) <= TOLERANCE)),
        differences=differences,
    )


def _runtime(header: ProfileHeader) -> tuple[Runtime, RuntimeInfo]:
    """The profile's runtime, if it runs here."""
    if header.provenance != "measured":
        raise InputError(
            f"profile check: expected a profile that was measured, got '{header.name}', which is {header.provenance}: "
            "there is nothing to time again."
        )
    settings = run_settings(header)
    if header.device.kind != "cpu" and settings.device == "cpu":
        what = f"'{header.name}' of a {header.device.kind} ({header.device.name})"
        raise InputError(
            f"profile check: expected a profile of a machine like this one, got {what}. Check it on that device."
        )
    runtime = RUNTIMES.get(header.runtime.name)()
    try:
        return runtime, runtime.describe(settings)
    except AutopruneError as error:
        raise InputError(f"profile check: '{header.name}' was measured under {header.runtime.name}: {error}") from error


def compare(
    header: ProfileHeader, runtime: RuntimeInfo, device: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """What is different between where a profile was measured and here: name -> (there, here)."""
    there = header.device.model_dump()
    pairs = {"runtime version": (header.runtime.version, runtime.version)}
    pairs |= {what: (str(there[what]), str(device[what])) for what in ("processor", "cores")}
    pairs["features"] = (" ".join(there["features"]), " ".join(device["features"]))
    pairs |= {what: (header.environment.get(what, ""), environment.get(what, "")) for what in ENVIRONMENT}
    flags = {*header.runtime.flags, *runtime.flags} if header.runtime.flags else set()
    pairs |= {f"runtime {k}": (header.runtime.flags.get(k, ""), runtime.flags.get(k, "")) for k in sorted(flags)}
    found = {what: (old, new) for what, (old, new) in pairs.items() if old and new and old != new}
    load = float(environment.get("load_1min", 0.0))
    if load > BUSY * device["cores"]:
        found["load"] = (header.environment.get("load_1min", "unknown"), f"{load:.2f} on {device['cores']} cores")
    return found


def sample(rows: Sequence[KernelRow], count: int, seed: int) -> list[KernelRow]:
    """Kernels from the shortest to the longest: one of each of `count` parts of the same size."""
    ordered = sorted(rows, key=lambda row: (row.p50_us, row.family, row.sizes))
    if len(ordered) <= count:
        return ordered
    random = np.random.default_rng(seed)
    edges = np.linspace(0, len(ordered), count + 1).astype(int)
    return [ordered[random.integers(low, high)] for low, high in itertools.pairwise(edges)]


def alone_us(row: KernelRow, header: ProfileHeader) -> float:
    """What a kernel of the table took alone: with what was taken off."""
    protocol = header.protocol
    edges = Edges(protocol.edge_us, protocol.edge_us_per_byte)
    own = edges.alone_us(row.operator, row.p50_us, activation_bytes(Kernel(row.family, row.sizes)))
    return max(own + protocol.empty_run_us, 0.001)


def _timed(
    rows: Sequence[KernelRow], runtime: Runtime, header: ProfileHeader, protocol: Protocol, progress: Progress | None
) -> tuple[list[tuple[KernelRow, float]], list[str]]:
    """Median times of the kernels that compile, and why others do not."""
    settings = run_settings(header)
    queue = deque(rows)
    times: list[tuple[KernelRow, float]] = []
    failures: list[str] = []
    while queue:
        block = take_block(
            queue,
            lambda row: runtime.compile(Model.of_kernel(Kernel(row.family, row.sizes)), settings),
            lambda row: kernel_work(Kernel(row.family, row.sizes))[1],
            LIMITS,
        )
        failures += [str(failure) for _, failure in block.refused]
        found = time_guarded([runner for _, runner in block.compiled], protocol)
        for (row, _), own in zip(block.compiled, found, strict=True):
            if isinstance(own, Measurement):
                times.append((row, own.p50_us))
            else:
                failures.append(str(own))
        if progress is not None:
            progress("kernels", len(rows) - len(queue), len(rows))
    return times, failures

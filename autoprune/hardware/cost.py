"""What one policy costs on one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from autoprune.graph.dimension import Batch
from autoprune.graph.fusion import value_bytes
from autoprune.graph.program import Program
from autoprune.hardware.memory import peak_memory_bytes
from autoprune.hardware.profile import HardwareProfile, load_profile

if TYPE_CHECKING:
    from autoprune.hardware.latency import LatencyTable


class Graph(Protocol):
    """What tables and costs need of a `DependencyGraph`."""

    @property
    def program(self) -> Program:
        """The traced program."""

    @property
    def groups(self) -> Mapping[str, Any]:
        """Group id -> group (with `size`), in program order."""

    def check(self, policy: Mapping[str, int]) -> Mapping[str, int]:
        """The policy, validated."""

    def widths(self, policy: Mapping[str, int]) -> dict[str, int]:
        """The policy with every group named."""

    def macs(self, widths: Mapping[str, Any]) -> Any:
        """Multiply-accumulates."""

    def parameter_count(self, widths: Mapping[str, Any]) -> Any:
        """Parameters."""


@dataclass(frozen=True)
class Cost:
    """Cost of one policy on one profile.

    Attributes:
        latency_us: "p50", "p90", "p95", "p99" -> predicted latency.
        interval_us: the same -> lowest and highest to expect.
        macs: multiply-accumulates at the profile's batch.
        params: number of parameters.
        weight_bytes: bytes of parameters and buffers.
        peak_memory_bytes: most bytes of activations alive at once, at the profile's batch.
        energy_uj: energy of one run, where the profile has it.
        throughput_per_s: samples a second, one run at the profile's batch behind the other.
        shares: "measured", "interpolated", "estimated" -> share of the kernels' time.
    """

    latency_us: Mapping[str, float]
    interval_us: Mapping[str, tuple[float, float]]
    macs: int
    params: int
    weight_bytes: int
    peak_memory_bytes: int
    energy_uj: float | None
    throughput_per_s: float
    shares: Mapping[str, float]


def weight_bytes(program: Program, widths: Mapping[str, Any]) -> Any:
    """Bytes of parameters and of buffers that operators read: an int, or an int64 array.

    Args:
        program: the dense program.
        widths: closed, as `DependencyGraph.check` leaves them.
    """
    read = {name for operation in program.operations for name in operation.refs()}
    names = [*program.parameters, *(name for name in program.buffers if name in read)]
    return sum(present * value_bytes(value, widths) for value, present in program.depth.state(names, widths))


def table_cost(table: LatencyTable, policy: Mapping[str, int]) -> Cost:
    """The cost of a policy from a table (see `LatencyTable.cost`)."""
    graph = table.graph
    widths = graph.widths(graph.check(policy))
    row = np.array([[widths[group] for group in table.groups]], dtype=np.int64)
    at_batch = {**widths, Batch.KEY: table.profile.batch}
    intervals = table.interval_us(row).items()
    latency_us = {percentile: float(times[0]) for percentile, times in table.latency_us(row).items()}
    return Cost(
        latency_us=latency_us,
        interval_us={percentile: (float(low[0]), float(high[0])) for percentile, (low, high) in intervals},
        macs=int(graph.macs(at_batch)),
        params=int(graph.parameter_count(widths)),
        weight_bytes=int(weight_bytes(graph.program, widths)),
        peak_memory_bytes=int(peak_memory_bytes(graph.program.at(widths), at_batch)),
        energy_uj=float(table.energy_uj(row)[0]) if table.has_energy else None,
        throughput_per_s=table.profile.batch * 1e6 / max(latency_us["p50"], 1e-9),
        shares={kind: float(share[0]) for kind, share in table.shares(row).items()},
    )


def predict_cost(graph: Graph, policy: Mapping[str, int], profile: str | HardwareProfile) -> Cost:
    """What a policy costs on a profile.

    Args:
        graph: the traced model.
        policy: kept units by group; groups not named are dense.
        profile: a profile, or its name or path.

    Raises:
        InputError: an unknown profile, an unknown group or a width outside it.
    """
    from autoprune.hardware.latency import LatencyTable  # it takes `Cost` from here

    loaded = profile if isinstance(profile, HardwareProfile) else load_profile(profile)
    return LatencyTable(loaded, graph).cost(policy)

"""Graphs and profiles that hardware tests share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch

from autoprune.graph import DependencyGraph, trace
from autoprune.graph.fusion import kernel_slots
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.plan import plan_kernels
from autoprune.hardware.profile import (
    Composition,
    DeviceInfo,
    HardwareProfile,
    ProfileHeader,
    ProtocolInfo,
    RuntimeInfo,
    Validation,
)
from autoprune.hardware.profiling import kernel_work
from tests.graph.models import MODELS, SHAPE, trained

TimeOf = Callable[[str, tuple[int, ...]], float]


@functools.cache
def graph_of(name: str) -> DependencyGraph:
    """A traced test model."""
    assert name in MODELS
    return trace(trained(name), torch.randn(2, *SHAPE))


def dense_of(name: str) -> dict[str, int]:
    """Group -> size of a test model."""
    return {group.id: group.size for group in graph_of(name).groups.values()}


def header(**fields: object) -> ProfileHeader:
    """A header with everything a test does not care about filled in."""
    given = {
        "name": "test",
        "device": DeviceInfo(name="bench", kind="cpu"),
        "runtime": RuntimeInfo(name="onnxruntime", version="1"),
        "protocol": ProtocolInfo(sessions=1, minimum_runs=1, warmup_runs=0, warmup_us=0),
        "provenance": "measured",
        **fields,
    }
    return ProfileHeader.model_validate(given)


def row(family: str, sizes: tuple[int, ...], p50_us: float, **fields: object) -> KernelRow:
    """A kernel's row whose other times follow from its median."""
    given = {"operator": "conv", "n": 50, "flops": 1.0, "bytes": 1.0, **fields}
    times = {"mean_us": p50_us, "p90_us": 1.1 * p50_us, "p95_us": 1.2 * p50_us, "p99_us": 1.5 * p50_us, "std_us": 0.1}
    return KernelRow(family=family, sizes=sizes, p50_us=p50_us, **{**times, **given})  # type: ignore[arg-type]


def bilinear_us(family: str, sizes: tuple[int, ...]) -> float:
    """A time that multilinear interpolation gives back exactly; the family decides the slope."""
    product = 1
    for size in sizes:
        product *= size
    return 1.0 + 0.01 * (len(family) % 7) + 0.1 * product + 0.2 * sum(sizes)


def synthetic_profile(
    graph: DependencyGraph,
    widths: dict[str, Sequence[int]],
    time_of: TimeOf = bilinear_us,
    composition: dict[str, Composition] | None = None,
    validation: Validation | None = None,
    batch: int = 1,
) -> HardwareProfile:
    """A profile over the grid of these widths, times from a formula."""
    dense = {group.id: group.size for group in graph.groups.values()}
    rows = []
    for planned in plan_kernels(kernel_slots(graph.program), widths, dense, batch):
        flops, bytes_ = kernel_work(planned.kernel)
        kernel = planned.kernel
        time_us = time_of(kernel.family, kernel.sizes)
        rows.append(row(kernel.family, kernel.sizes, time_us, operator=planned.operator, flops=flops, bytes=bytes_))
    made = header(composition=composition or {}, validation=validation or Validation(), batch=batch)
    return HardwareProfile(made, tuple(rows))

"""Timing kernels alone, block by block, coarse to fine, beside a sentinel."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.core.errors import AutopruneError, Failure, InputError, shortened
from autoprune.graph.dimension import Constant
from autoprune.graph.program import Operation, Program, Ref, Value
from autoprune.hardware.edges import Edges, probe_edges
from autoprune.hardware.measure import Measurement, Protocol, Sentinel, time_guarded, time_runners
from autoprune.hardware.plan import PlannedKernel
from autoprune.hardware.profiling.bench import (
    Bench,
    Limits,
    Pace,
    measurement_data,
    readings,
    take_block,
)
from autoprune.hardware.profiling.records import BaseLine, KernelsLine, lines
from autoprune.hardware.profiling.rows import kernel_work
from autoprune.hardware.runtimes.model import Model

LIMITS = Limits(count=32, bytes=256e6, seconds=5.0)  # of kernels that are compiled at once
EMPTY_PROTOCOL = Protocol(minimum_runs=200, maximum_runs=200)
SENTINELS = 8  # kernels that are tried as one
EDGES_SHARE = 0.15  # of the budget is spent when edges are no longer probed


@dataclass(frozen=True)
class Base:
    """What every kernel's time is freed of, at the sentinel's reference.

    Attributes:
        empty_us: what running anything at all takes.
        edges: what activations pay at the edges of a convolution.
    """

    empty_us: float
    edges: Edges


@dataclass(frozen=True)
class KernelTimes:
    """What came of the planned kernels.

    Attributes:
        timed: at the sentinel's reference.
        failed: with the reason.
    """

    timed: list[tuple[PlannedKernel, Measurement]]
    failed: list[tuple[PlannedKernel, str]]


def check_runs(bench: Bench) -> None:
    """See that the runtime runs anything at all under these settings.

    Raises:
        InputError: it has not what the settings ask for.
        AutopruneError: it refuses for another reason.
    """
    runner = bench.compile(empty_model())
    if isinstance(runner, Failure):
        if runner.kind == "unsupported":
            raise InputError(f"profile: {runner.message}. Choose one that it has, or another runtime.")
        raise AutopruneError(f"profile: the runtime refuses even an empty model: {runner}.")


def prepare(bench: Bench, planned: Sequence[PlannedKernel]) -> Base:
    """Choose the sentinel and time what kernels pay alone, or take both from the journal."""
    kept = next(lines(bench.journal, BaseLine), None)
    before = readings(bench.journal)
    bench.watch(_sentinel(bench, planned, kept.sentinel_us if kept else None, before), len(before))
    if kept:
        return Base(kept.empty_us, Edges(*kept.edges))
    runner = bench.compile(empty_model())
    if isinstance(runner, Failure):
        raise AutopruneError(f"profile: the runtime refuses even an empty model: {runner}.")
    [empty] = time_runners([runner], EMPTY_PROTOCOL, sentinel=bench.sentinel)
    edges = probe_edges(
        bench.runtime,
        bench.settings.run,
        empty.p50_us,
        bench.settings.kernel_protocol,
        bench.sentinel,
        bench.clock.deadline(EDGES_SHARE),
    )
    reference = None if bench.sentinel is None else bench.sentinel.reference_us
    bench.keep("base", sentinel_us=reference, empty_us=empty.p50_us, edges=[edges.constant_us, edges.us_per_byte])
    return Base(empty.p50_us, edges)


def _sentinel(
    bench: Bench, planned: Sequence[PlannedKernel], reference_us: float | None, before: Sequence[float]
) -> Sentinel | None:
    """A kernel of middling work that the runtime takes: the same one for the same plan."""
    work = sorted(planned, key=lambda item: (np.prod(item.kernel.sizes), item.kernel.key))
    for item in work[len(work) // 2 :][:SENTINELS]:
        runner = bench.compile(Model.of_kernel(item.kernel))
        if not isinstance(runner, Failure):
            with contextlib.suppress(AutopruneError):  # one that compiles and does not run
                return Sentinel(runner, reference_us, before)
    return None


def time_kernels(bench: Bench, planned: Sequence[PlannedKernel], deadline: float | None) -> KernelTimes:
    """Times of the planned kernels, until all are done or the deadline has passed; one block is timed whatever it says.

    Raises:
        AutopruneError: the runtime refused every kernel.
    """
    found = restored(bench, planned)
    done = {item.kernel for item, _ in (*found.timed, *found.failed)}
    queue = deque(item for item in _shuffled(planned, bench.settings.seed) if item.kernel not in done)
    total, pace = len(done) + len(queue), Pace(deadline, len(done))
    while queue:
        admitted = pace.count(len(queue))
        if not admitted:
            break
        bench.report("kernels", len(found.timed) + len(found.failed), total - len(queue) + admitted)
        pace.add(_block(bench, queue, found, min(admitted, LIMITS.count)))
    count = len(found.timed) + len(found.failed)
    bench.report("kernels", count, count)  # what the budget leaves out is not to come
    if not found.timed:
        raise AutopruneError(f"profile: the runtime refused every kernel, the first with: {found.failed[0][1]}.")
    return found


def _block(bench: Bench, queue: deque[PlannedKernel], found: KernelTimes, most: int) -> int:
    """Time the next block and put it into the journal; how many kernels it had."""
    block = take_block(
        queue,
        lambda item: bench.compile(Model.of_kernel(item.kernel)),
        lambda item: kernel_work(item.kernel)[1],
        replace(LIMITS, count=most),
    )
    number = len(bench.journal.of_kind("kernels")) + 1
    protocol = replace(bench.settings.kernel_protocol, seed=bench.settings.seed + number)
    times = time_guarded([runner for _, runner in block.compiled], protocol, sentinel=bench.sentinel)
    found_times = [(item, own) for (item, _), own in zip(block.compiled, times, strict=True)]
    timed = [(item, own) for item, own in found_times if isinstance(own, Measurement)]
    lost = [(item, own) for item, own in found_times if isinstance(own, Failure)]
    failed = [(item, str(failure)) for item, failure in (*block.refused, *lost)]
    bench.keep(
        "kernels",
        timed=[{"key": item.kernel.key, "measured": measurement_data(own)} for item, own in timed],
        failed=[{"key": item.kernel.key, "why": why} for item, why in failed],
    )
    found.timed.extend(timed)
    found.failed.extend(failed)
    return len(block)


def restored(bench: Bench, planned: Sequence[PlannedKernel]) -> KernelTimes:
    """What the journal has of the plan.

    Raises:
        InputError: a line that does not fit it.
    """
    left = {item.kernel.key: item for item in planned}
    found = KernelTimes([], [])

    def taken(key: str) -> PlannedKernel:
        if key not in left:
            raise InputError(
                f"{bench.journal.place}: expected kernels of this plan, each once, got '{shortened(key)}'. Remove the "
                "file to begin anew."
            )
        return left.pop(key)

    for line in lines(bench.journal, KernelsLine):
        found.timed.extend((taken(entry.key), entry.measured.measurement()) for entry in line.timed)
        found.failed.extend((taken(entry.key), entry.why) for entry in line.failed)
    return found


def _shuffled(planned: Sequence[PlannedKernel], seed: int) -> list[PlannedKernel]:
    """Shuffled within each level of detail."""
    random = np.random.default_rng(seed)
    keys = random.permutation(len(planned))
    return [item for _, _, item in sorted((p.detail, int(k), p) for p, k in zip(planned, keys, strict=True))]


def empty_model() -> Model:
    """A model of one operation on one number: what running anything at all takes."""
    value = {name: Value(name, (Constant(1), Constant(1)), "float32") for name in ("x", "y")}
    operation = Operation("y", "aten.relu.default", (Ref("x"),), (), None, ("y",))
    program = Program(("x",), ("y",), (operation,), value, (), (), "", "")
    return Model.of_program(program, {})

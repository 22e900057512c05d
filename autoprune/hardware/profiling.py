"""`profile_graph`: time models' kernels over their widths, and whole pruned models for the composition."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.graph.dimension import Constant
from autoprune.graph.fusion import kernel_slots, value_bytes
from autoprune.graph.kernel import Kernel
from autoprune.graph.program import Operation, Program, Ref, Value
from autoprune.hardware.binding import slots_left
from autoprune.hardware.calibration import calibrated
from autoprune.hardware.cost import Graph
from autoprune.hardware.devices import DEVICES
from autoprune.hardware.edges import Edges, probe_edges
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.measure import (
    MODEL_PROTOCOL,
    Measurement,
    Progress,
    Protocol,
    Sentinel,
    measure_models,
    time_runners,
)
from autoprune.hardware.observation import Observation
from autoprune.hardware.plan import PlannedKernel, aligned_widths, plan_kernels, sample_policies
from autoprune.hardware.profile import HardwareProfile, ProfileHeader, ProtocolInfo
from autoprune.hardware.quantum import probe_quantum
from autoprune.hardware.runtimes import RUNTIMES, Runner, RunSettings, Runtime
from autoprune.hardware.runtimes.model import Model

KERNEL_SHARE = 0.7  # of the time budget; the rest is for whole models
BLOCK = 32  # kernels compiled at once and timed against each other
KERNEL_PROTOCOL = Protocol(target_us=3_000.0, warmup_us=800.0, maximum_runs=150)


@dataclass(frozen=True)
class ProfileSettings:
    """How a profile is measured.

    Attributes:
        runtime: a registered runtime.
        threads, batch: how models are run.
        budget_s: stop timing kernels so that the whole takes about this long; multiples of the alignment quantum and
            coarse grids come first, so what is left out is interpolated. None times everything.
        whole_models: how many pruned models to time for the composition.
        name, description: of the profile.
        seed: of the order and of the whole models' policies.
    """

    runtime: str = "onnxruntime"
    threads: int = 1
    batch: int = 1
    budget_s: float | None = None
    whole_models: int = 24
    name: str | None = None
    description: str = ""
    seed: int = 0


def profile_graph(
    graph: Graph,
    *,
    runtime: str = "onnxruntime",
    widths: Mapping[str, Sequence[int]] | None = None,
    threads: int = 1,
    batch: int = 1,
    budget_s: float | None = None,
    whole_models: int = 24,
    name: str | None = None,
    description: str = "",
    progress: Progress | None = None,
    seed: int = 0,
) -> HardwareProfile:
    """Measure a profile for a model on this machine.

    Args:
        graph: the traced model.
        widths: the widths each group may take; without it, eight even steps a group. Multiples of the alignment
            quantum in their range are timed as well.
        runtime, threads, batch, budget_s, whole_models, name, description, seed: see `ProfileSettings`.
        progress: called with ("kernels" | "models", done, total).

    Raises:
        InputError: an unknown runtime, widths that do not fit the groups, or nothing to time.
        AutopruneError: the runtime refused every kernel.
    """
    settings = ProfileSettings(runtime, threads, batch, budget_s, whole_models, name, description, seed)
    return profile_graphs([(graph, widths)], settings, progress)


def profile_graphs(
    targets: Sequence[tuple[Graph, Mapping[str, Sequence[int]] | None]],
    settings: ProfileSettings,
    progress: Progress | None = None,
) -> HardwareProfile:
    """As `profile_graph`, for several models together: one kernel table, one composition.

    Args:
        targets: models, each with the widths of its groups.
        settings: how.
        progress: called with ("kernels" | "models", done, total).
    """
    start = time.perf_counter()
    models = [_Target.of(graph, widths) for graph, widths in targets]
    runtime = RUNTIMES.get(settings.runtime)()
    session = _Session(runtime, RunSettings(settings.threads, settings.batch), settings.seed, progress)
    quantum = probe_quantum(session.runtime, session.settings)
    planned = {p.kernel: p for model in models for p in model.planned(settings.batch, quantum)}
    if not planned:
        raise InputError("profile: expected a model with at least one operation, got none to time.")
    deadline = None if settings.budget_s is None else start + KERNEL_SHARE * settings.budget_s
    rows = session.time_kernels(list(planned.values()), deadline)
    header = _header(settings, session, quantum)
    bare = HardwareProfile(header, tuple(sorted(rows, key=lambda row: (row.family, row.sizes))))
    end = None if settings.budget_s is None else start + settings.budget_s
    observed = session.observe(bare, models, settings.whole_models, end)
    notes = tuple(sorted({str(failure) for failure in session.failures}))[:8]
    drift = 0.0 if session.sentinel is None else session.sentinel.drift
    profile = calibrated(bare, [model.graph for model in models], observed, drift, notes)
    protocol = header.protocol.model_copy(update={"seconds": round(time.perf_counter() - start, 1)})
    return replace(profile, header=profile.header.model_copy(update={"protocol": protocol}))


def _header(settings: ProfileSettings, session: _Session, quantum: int) -> ProfileHeader:
    device = DEVICES.get("local")()
    described = device.describe()
    return ProfileHeader(
        name=settings.name or f"{described.name}-{settings.runtime}-{settings.threads}t",
        description=settings.description,
        device=described,
        runtime=session.runtime.describe(session.settings),
        batch=settings.batch,
        threads=settings.threads,
        environment=device.environment(),
        protocol=session.protocol_info(),
        provenance="measured",
        alignment_quantum=quantum,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    )


@dataclass(frozen=True, eq=False)
class _Target:
    """A model to profile for, with its widths checked."""

    graph: Graph
    dense: dict[str, int]
    widths: dict[str, Sequence[int]]

    @classmethod
    def of(cls, graph: Graph, widths: Mapping[str, Sequence[int]] | None) -> _Target:
        dense = {group: int(item.size) for group, item in graph.groups.items()}
        return cls(graph, dense, _checked_widths(widths, dense))

    def planned(self, batch: int, quantum: int) -> list[PlannedKernel]:
        program = self.graph.program
        slots = kernel_slots(program)
        removed = [group for group, widths in self.widths.items() if 0 in widths and group in program.depth.removable]
        slots = (*slots, *slots_left(program, removed, slots))
        return plan_kernels(slots, self.widths, self.dense, batch, quantum)

    def policies(self, count: int, quantum: int, seed: int) -> np.ndarray:
        """Whole models at the widths that searches use: multiples of the quantum.  # (count, n_groups)"""
        aligned = {group: aligned_widths(values, self.dense[group], quantum) for group, values in self.widths.items()}
        return sample_policies(aligned, self.dense, count, seed)


def _checked_widths(widths: Mapping[str, Sequence[int]] | None, dense: Mapping[str, int]) -> dict[str, Sequence[int]]:
    if widths is None:
        return {
            group: sorted({max(1, round(units * step / 8)) for step in range(1, 9)}) for group, units in dense.items()
        }
    for group, values in widths.items():
        if group not in dense or any(not 0 <= value <= dense[group] for value in values):
            raise InputError(
                f"profile: expected widths of the model's groups from 0 to their size, got {list(values)} "
                f"for '{group}' (size {dense.get(group, 'unknown')})."
            )
    return dict(widths)


@dataclass
class _Session:
    """One profiling session: what is fixed, and what went wrong."""

    runtime: Runtime
    settings: RunSettings
    seed: int
    progress: Progress | None
    empty_us: float = 0.0
    edges: Edges = field(default_factory=Edges)
    sentinel: Sentinel | None = None
    correction: float = 1.0  # from the sentinel's reference to its typical time
    blocks: int = 0
    failures: list[Failure] = field(default_factory=list)

    def protocol_info(self) -> ProtocolInfo:
        return ProtocolInfo(
            sessions=KERNEL_PROTOCOL.sessions,
            minimum_runs=KERNEL_PROTOCOL.minimum_runs,
            warmup_runs=KERNEL_PROTOCOL.warmup_runs,
            warmup_us=KERNEL_PROTOCOL.warmup_us,
            empty_run_us=round(self.correction * self.empty_us, 3),
            edge_us=round(self.correction * self.edges.constant_us, 3),
            edge_us_per_byte=round(self.correction * self.edges.us_per_byte, 9),
            seed=self.seed,
        )

    def time_kernels(self, planned: Sequence[PlannedKernel], deadline: float | None) -> list[KernelRow]:
        """Times of the planned kernels, block by block, until all are done or the deadline has passed."""
        self.sentinel = self._make_sentinel(planned)
        self.empty_us = self._empty_run_us()
        self.edges = probe_edges(self.runtime, self.settings, self.empty_us, KERNEL_PROTOCOL, self.sentinel)
        order = _shuffled_within_detail(planned, self.seed)
        found: list[tuple[PlannedKernel, Measurement]] = []
        start = time.perf_counter()
        for first in range(0, len(order), BLOCK):
            now = time.perf_counter()
            if first and deadline is not None and now + BLOCK * (now - start) / first > deadline:
                break
            found += self._block(order[first : first + BLOCK])
            if self.progress is not None:
                self.progress("kernels", min(first + BLOCK, len(order)), len(order))
        if self.progress is not None:  # what the budget leaves out is not to come
            self.progress("kernels", len(found), len(found))
        if not found:
            raise AutopruneError(f"profile: the runtime refused every kernel, the first with: {self.failures[0]}.")
        self.correction = 1.0 if self.sentinel is None else self.sentinel.correction
        return [self._row(item, measured) for item, measured in found]

    def _empty_run_us(self) -> float:
        runner = self.runtime.compile(_empty_model(), self.settings)
        if isinstance(runner, Failure):
            raise AutopruneError(f"profile: the runtime refuses even an empty model: {runner}.")
        protocol = Protocol(minimum_runs=200, maximum_runs=200)
        return time_runners([runner], protocol, sentinel=self.sentinel)[0].p50_us

    def _make_sentinel(self, planned: Sequence[PlannedKernel]) -> Sentinel | None:
        """A kernel of middling work."""
        work = sorted(planned, key=lambda item: (np.prod(item.kernel.sizes), item.kernel.key))
        runner = self._compile(work[len(work) // 2].kernel)
        return None if isinstance(runner, Failure) else Sentinel(runner)

    def _compile(self, kernel: Kernel) -> Runner | Failure:
        return self.runtime.compile(Model.of_kernel(kernel), self.settings)

    def _block(self, block: Sequence[PlannedKernel]) -> list[tuple[PlannedKernel, Measurement]]:
        """Times of the kernels of a block that compile, scaled to the sentinel's reference."""
        runners, kept = [], []
        for item in block:
            runner = self._compile(item.kernel)
            if isinstance(runner, Failure):
                self.failures.append(runner)
            else:
                runners.append(runner)
                kept.append(item)
        self.blocks += 1
        protocol = replace(KERNEL_PROTOCOL, seed=self.seed + self.blocks)
        return list(zip(kept, time_runners(runners, protocol, sentinel=self.sentinel), strict=True))

    def _row(self, item: PlannedKernel, found: Measurement) -> KernelRow:
        """A row of the table: what the kernel takes inside a model, at the machine's typical speed."""
        program = item.kernel.program()
        [slot] = kernel_slots(program)
        activations = tuple(int(value_bytes(program.values[name], {})) for name in (*slot.inputs, *slot.outputs))
        least = max(0.02 * found.p50_us, 0.001)
        inside = self.edges.inside_us(item.operator, max(found.p50_us - self.empty_us, least), activations)
        taken_off = found.p50_us - inside

        def own(time_us: float) -> float:
            return round(self.correction * max(time_us - taken_off, least), 3)

        return KernelRow(
            family=item.kernel.family,
            sizes=item.kernel.sizes,
            operator=item.operator,
            n=found.n,
            mean_us=own(found.mean_us),
            p50_us=own(found.p50_us),
            p90_us=own(found.p90_us),
            p95_us=own(found.p95_us),
            p99_us=own(found.p99_us),
            std_us=round(self.correction * found.std_us, 3),
            flops=float(slot.flops({})),
            bytes=float(slot.bytes({})),
        )

    def observe(
        self, bare: HardwareProfile, targets: Sequence[_Target], count: int, deadline: float | None
    ) -> list[Observation]:
        """`count` whole models of the targets, as the clock says: predictions are to agree with what users measure.

        Those that the runtime refuses are left out.
        """
        share = count // len(targets)
        policies = [t.policies(share, bare.alignment_quantum, self.seed) for t in targets]
        wanted = [(i, row) for i, rows in enumerate(policies) for row in rows]
        results = measure_models(
            [_model(targets[i].graph, row) for i, row in wanted],
            runtime=bare.header.runtime.name,
            settings=self.settings,
            protocol=replace(MODEL_PROTOCOL, seed=self.seed),
            progress=self.progress,
            deadline=deadline,
        )
        self.failures += [result for result in results if isinstance(result, Failure)]
        return [
            Observation(i, tuple(row.tolist()), result)
            for (i, row), result in zip(wanted, results, strict=True)
            if isinstance(result, Measurement)
        ]


def kernel_work(kernel: Kernel) -> tuple[float, float]:
    """Floating-point operations and bytes of a kernel, from its key alone."""
    slots = kernel_slots(kernel.program())
    return float(sum(slot.flops({}) for slot in slots)), float(sum(slot.bytes({}) for slot in slots))


def _shuffled_within_detail(planned: Sequence[PlannedKernel], seed: int) -> list[PlannedKernel]:
    random = np.random.default_rng(seed)
    keys = random.permutation(len(planned))
    return [item for _, _, item in sorted((p.detail, int(k), p) for p, k in zip(planned, keys, strict=True))]


def _model(graph: Graph, row: np.ndarray) -> Model:
    return Model.of_program(graph.program, {g: int(width) for g, width in zip(graph.groups, row, strict=True)})


def _empty_model() -> Model:
    """A model of one operation on one number: what running anything at all takes."""
    value = {name: Value(name, (Constant(1), Constant(1)), "float32") for name in ("x", "y")}
    operation = Operation("y", "aten.relu.default", (Ref("x"),), (), None, ("y",))
    program = Program(("x",), ("y",), (operation,), value, (), (), "", "")
    return Model.of_program(program, {})

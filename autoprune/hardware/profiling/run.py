"""`profile_graphs`: kernels, then whole models, then what the one learns from the other."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autoprune.core.errors import InputError
from autoprune.core.files import canonical_json, digest
from autoprune.graph.kernel import Kernel
from autoprune.hardware.calibration import calibrated
from autoprune.hardware.cost import Graph
from autoprune.hardware.devices.local import LocalDevice
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.measure import LAYOUTS, Progress
from autoprune.hardware.pinning import pinned
from autoprune.hardware.plan import PlannedKernel
from autoprune.hardware.profile import DeviceInfo, HardwareProfile, ProfileHeader, ProtocolInfo
from autoprune.hardware.profiling.bench import Bench, Clock
from autoprune.hardware.profiling.journal import Journal
from autoprune.hardware.profiling.kernels import Base, KernelTimes, check_runs, prepare, time_kernels
from autoprune.hardware.profiling.models import ModelTimes, Policy, planned_policies, time_models
from autoprune.hardware.profiling.power import energies
from autoprune.hardware.profiling.rows import failed_row, timed_row
from autoprune.hardware.profiling.settings import ProfileSettings
from autoprune.hardware.profiling.target import Target
from autoprune.hardware.quantum import probe_quantum
from autoprune.hardware.runtimes import RUNTIMES

QUANTUM_SHARE = 0.1  # of the budget is spent when the quantum is no longer probed
KERNEL_SHARE = 0.3  # of the budget; the rest is for whole models
MOST_NOTES = 8

Targets = Sequence[tuple[Graph, Mapping[str, Sequence[int]] | None]]


def profile_graph(
    graph: Graph,
    settings: ProfileSettings | None = None,
    *,
    widths: Mapping[str, Sequence[int]] | None = None,
    progress: Progress | None = None,
    journal: Path | None = None,
) -> HardwareProfile:
    """Measure a profile for one model (see `profile_graphs`).

    Args:
        graph: the traced model.
        settings: how.
        widths: the widths each group may take; without it, eight even steps a group. Multiples of the alignment
            quantum in their range are timed as well.
        progress, journal: as for `profile_graphs`.
    """
    return profile_graphs([(graph, widths)], settings or ProfileSettings(), progress, journal)


def profile_graphs(
    targets: Targets, settings: ProfileSettings, progress: Progress | None = None, journal: Path | None = None
) -> HardwareProfile:
    """Measure a profile of this machine for several models together: one kernel table, one composition.

    Args:
        targets: models, each with the widths of its groups.
        settings: how.
        progress: called with ("kernels" | "models", done, total); the total is what there is time for.
        journal: a file that keeps what is done, for a later call with the same arguments to go on with. It is left
            there: remove it once the profile is saved.

    Raises:
        InputError: an unknown runtime, settings that the runtime has not, widths that do not fit the groups,
            nothing to time, or a journal of another measurement.
        AutopruneError: the runtime refused every kernel.
    """
    models = [Target.of(graph, widths) for graph, widths in targets]
    runtime = RUNTIMES.get(settings.runtime)()
    device = LocalDevice()
    described, before = device.describe(), device.environment()
    with Journal(journal) as kept, pinned(settings.threads) as cpus:
        bench = Bench(runtime, settings, kept, Clock(settings.budget_s, kept.seconds), progress)
        check_runs(bench)
        quantum, planned, policies = _plan(bench, models, described)
        base = prepare(bench, planned)
        kernels = time_kernels(bench, planned, bench.clock.deadline(KERNEL_SHARE))
        energy, counter = energies(bench, kernels.timed)
        whole = time_models(bench, models, policies, bench.clock.deadline())
    environment = before | {"cpus": " ".join(map(str, cpus)), "energy": counter} | _after(device.environment())
    header = _header(bench, described, environment, base, quantum)
    rows = _rows(bench, base, kernels, energy)
    return _profile(bench, header, rows, kernels, whole, [model.graph for model in models])


def default_name(settings: ProfileSettings) -> str:
    """The name of a profile that is given none: device, runtime, and what is not as usual."""
    usual = ProfileSettings()
    unusual = [str(getattr(settings, name)) for name in ("processor", "precision", "layout")
               if getattr(settings, name) != getattr(usual, name)]  # fmt: skip
    batch = [f"b{settings.batch}"] if settings.batch != usual.batch else []
    device = LocalDevice().describe().name
    return "-".join([device, settings.runtime, *unusual, *batch, f"{settings.threads}t"])


def _plan(bench: Bench, models: Sequence[Target], device: DeviceInfo) -> tuple[int, list[PlannedKernel], list[Policy]]:
    """The quantum and what is to be timed; the journal is begun with it, or must have been begun with the same."""
    settings = bench.settings
    session = bench.journal.session
    quantum = session.get("quantum", 1) if session else _quantum(bench)
    planned = list({p.kernel: p for model in models for p in model.planned(settings.batch, quantum)}.values())
    if not planned:
        raise InputError("profile: expected a model with at least one operation, got none to time.")
    policies = planned_policies(models, settings.whole_models, settings.seed)
    wanted = [sorted(item.kernel.key for item in planned), [[p.target, *p.widths] for p in policies]]
    bench.journal.begin(
        {
            "settings": settings.session_data(),
            "runtime": bench.runtime.describe(settings.run).model_dump(mode="json"),
            "device": {"name": device.name, "processor": device.processor},
            "quantum": quantum,
            "model and space": digest(canonical_json(wanted)),
        }
    )
    return quantum, planned, policies


def _quantum(bench: Bench) -> int:
    return probe_quantum(bench.runtime, bench.settings.run, bench.clock.deadline(QUANTUM_SHARE))


def _after(environment: Mapping[str, str]) -> dict[str, str]:
    return {"load_1min_after": environment["load_1min"]} if "load_1min" in environment else {}


def _header(bench: Bench, device: DeviceInfo, environment: dict[str, str], base: Base, quantum: int) -> ProfileHeader:
    settings = bench.settings
    correction = _correction(bench)
    rules, whole = settings.kernel_protocol, settings.model_protocol
    for what, protocol in (("kernel_runs", rules), ("model_runs", whole)):
        fewer = f"{protocol.slow_runs} where over {protocol.slow_us / 1e3:g} ms"
        environment[what] = f"{protocol.sessions} sessions of {protocol.minimum_runs}, {fewer}"
    return ProfileHeader(
        name=settings.name or default_name(settings),
        description=settings.description,
        device=device,
        runtime=bench.runtime.describe(settings.run),
        precision=settings.precision,
        layout=LAYOUTS.get(settings.layout, settings.layout),
        batch=settings.batch,
        threads=settings.threads,
        environment=environment,
        protocol=ProtocolInfo(
            sessions=rules.sessions,
            minimum_runs=rules.minimum_runs,
            warmup_runs=rules.warmup_runs,
            warmup_us=rules.warmup_us,
            empty_run_us=round(correction * base.empty_us, 3),
            edge_us=round(correction * base.edges.constant_us, 3),
            edge_us_per_byte=round(correction * base.edges.us_per_byte, 9),
            seed=settings.seed,
            seconds=round(bench.clock.seconds, 1),
        ),
        provenance="measured",
        alignment_quantum=quantum,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    )


def _rows(bench: Bench, base: Base, kernels: KernelTimes, energy: Mapping[Kernel, float]) -> list[KernelRow]:
    """Rows of the kernels timed alone."""
    correction = _correction(bench)
    timed = [
        replace(timed_row(item, found, correction, base.empty_us, base.edges), energy_uj=energy.get(item.kernel))
        for item, found in kernels.timed
    ]
    return sorted([*timed, *(failed_row(item, why) for item, why in kernels.failed)], key=_place)


def _profile(
    bench: Bench,
    header: ProfileHeader,
    rows: Sequence[KernelRow],
    kernels: KernelTimes,
    whole: ModelTimes,
    graphs: Sequence[Graph],
) -> HardwareProfile:
    """The rows and what the whole models teach."""
    drift = 0.0 if bench.sentinel is None else bench.sentinel.drift
    notes = tuple(sorted({why for _, why in (*kernels.failed, *whole.failed)}))[:MOST_NOTES]
    observed = whole.observations(_correction(bench))
    profile = calibrated(HardwareProfile(header, tuple(rows)), graphs, observed, drift, notes, bench.progress)
    return replace(profile, kernels=tuple(sorted(profile.kernels, key=_place)))


def _place(row: KernelRow) -> tuple[str, tuple[int, ...], str]:
    return row.family, row.sizes, row.within


def _correction(bench: Bench) -> float:
    return 1.0 if bench.sentinel is None else bench.sentinel.correction

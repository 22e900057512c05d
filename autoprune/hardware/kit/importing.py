"""From a kit that was run to a hardware profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoprune.core.errors import AutopruneError, InputError, shortened
from autoprune.core.files import parse_json
from autoprune.graph.graph import DependencyGraph, DependencyGroup
from autoprune.graph.program import Program
from autoprune.graph.serialize import program_from_data
from autoprune.hardware.calibration import calibrated
from autoprune.hardware.cost import Graph
from autoprune.hardware.edges import Edges, fit_edges
from autoprune.hardware.importers.rows import check_unit
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.kit.contents import Contents, read_contents
from autoprune.hardware.kit.environment import Environment, environment_of
from autoprune.hardware.kit.logs import Logs, read_logs
from autoprune.hardware.kit.manifest import ENVIRONMENT, LOGS, MANIFEST, Manifest, manifest_of
from autoprune.hardware.kit.planning import edge_id, edge_sizes
from autoprune.hardware.kit.timing import Timed, timed_models
from autoprune.hardware.kit.tools import tool_for
from autoprune.hardware.observation import Observation
from autoprune.hardware.plan import PlannedKernel
from autoprune.hardware.profile import HardwareProfile, ProfileHeader, ProtocolInfo, RuntimeInfo
from autoprune.hardware.profiling.rows import failed_row, timed_row
from autoprune.hardware.quantum import PROBED, quantum_of

# What a program that fits its grammar and makes no sense raises: a convolution of one argument, sizes beyond machines.
ODD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, RuntimeError, MemoryError)
ENOUGH = 0.5  # of the kernels; below, too much would be made up
UNSTEADY, LOST = 0.1, 1.0  # drift of the sentinel that is noted, and that is refused


@dataclass(frozen=True)
class Asked:
    """What the user says of a kit; None takes the kit's word.

    Attributes:
        name: of the profile.
        device, kind: what it was run on; the kit knows the processor, and where its tool usually runs.
        description: for people.
        runtime: name, or name and version, that must have run it.
        precision, batch, threads: that it must have been run with.
    """

    name: str | None = None
    device: str | None = None
    kind: str | None = None
    description: str = ""
    runtime: str | None = None
    precision: str | None = None
    batch: int | None = None
    threads: int | None = None


def import_kit(path: Path, asked: Asked | None = None) -> HardwareProfile:
    """A profile of provenance `measured` from a kit's folder, or an archive of it. The model itself is not needed.

    Raises:
        InputError: the kit is damaged, changed, half run, run with something else than asked, or its times are no
            times; the message says which file, what was expected and what to do.
        AutopruneError: the tool refused every kernel.
    """
    given = asked or Asked()
    contents = read_contents(path)
    manifest = _manifest(contents)
    _check_files(contents, manifest)
    logs = read_logs(contents, manifest)
    _check_asked(given, manifest, logs)
    _check_coverage(contents, manifest, logs)
    graphs = [_graph(contents, manifest, index) for index in range(len(manifest.targets))]
    environment = environment_of(contents.texts.get(ENVIRONMENT, ""), given.kind or tool_for(manifest.runtime).kind)
    try:
        with np.errstate(over="raise"):
            return _profile(given, manifest, logs, environment, graphs, contents.place)
    except ODD as error:
        raise _odd(f"kit {contents.place}", error) from error


def _odd(place: str, error: Exception) -> InputError:
    told = shortened(f"{type(error).__name__}: {error}", 200)
    return InputError(f"{place}: expected a program as autoprune writes it, got {told}. Copy it again.")


def _manifest(contents: Contents) -> Manifest:
    place = f"kit {contents.place}, {MANIFEST}"
    data = parse_json(contents.texts[MANIFEST], place, "Copy it again.")
    if not isinstance(data, dict):
        raise InputError(f"{place}: expected a JSON object, got {type(data).__name__}.")
    return manifest_of(data, place)


def _check_files(contents: Contents, manifest: Manifest) -> None:
    """What came back is what was sent; models may stay behind."""
    for name, file in manifest.files.items():
        found = contents.hashes.get(name)
        if found is not None and (found.sha256, found.size) != (file.sha256, file.size):
            raise InputError(
                f"kit {contents.place}, {name}: expected the file as it was written (SHA-256 {file.sha256[:16]}..., "
                f"{file.size} bytes), got {found.sha256[:16]}..., {found.size} bytes. Times of changed files are of "
                "something else; copy the kit again and run it anew."
            )


def _check_asked(asked: Asked, manifest: Manifest, logs: Logs) -> None:
    name, _, version = logs.tool.partition(" ")
    wanted, _, wanted_version = (asked.runtime or manifest.runtime).partition(" ")
    facts: tuple[tuple[str, object, object], ...] = (
        ("runtime", wanted, manifest.runtime),
        ("tool", manifest.runtime, name or manifest.runtime),
        ("version", wanted_version or version, version),
        ("precision", asked.precision or manifest.precision, manifest.precision),
        ("batch", asked.batch or manifest.batch, manifest.batch),
        ("threads", asked.threads or manifest.threads, manifest.threads),
    )
    for what, expected, got in facts:
        if expected != got:
            raise InputError(
                f"profile import: expected a kit of {what} {expected}, got {what} {got}. Ask for what it was run with, "
                "or write and run another kit."
            )


def _check_coverage(contents: Contents, manifest: Manifest, logs: Logs) -> None:
    """Enough of the kernels have an answer, be it a refusal."""
    answered = {model for log, model in manifest.order if log in logs.times or log in logs.refused}
    kernels = [model.id for model in manifest.of("kernel")]
    done = sum(model in answered for model in kernels)
    if done < ENOUGH * len(kernels):
        raise InputError(
            f"kit {contents.place}: expected logs of at least half of its {len(kernels)} kernels, got {done}. Run "
            f"`sh run.sh` in the kit's folder again (it goes on where it was), and send back {LOGS}/ as well."
        )
    timed = {model for log, model in manifest.order if log in logs.times}
    if not timed & set(kernels):
        why = next(iter(logs.refused.values()), "no reason given")
        raise AutopruneError(f"kit: {manifest.runtime} refused every kernel, the first with: {why[:200]}.")


def _graph(contents: Contents, manifest: Manifest, index: int) -> Graph:
    """The traced model that the kit was written for, without its weights."""
    target = manifest.targets[index]
    place = f"kit {contents.place}, {target.program}"
    if target.program not in contents.texts:
        raise InputError(f"{place}: expected the program of the model, found no such file. Copy the kit again.")
    data = parse_json(contents.texts[target.program], place)
    try:
        program: Program = program_from_data(data)
        if sorted(program.group_sizes.items()) != sorted(target.groups):
            raise ValueError("other groups than the manifest names")
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    except ODD as error:
        raise _odd(place, error) from error
    groups = {group: DependencyGroup(group, size, "channel", ()) for group, size in target.groups}
    return DependencyGraph(program, groups, (), {}, ())


def _profile(
    asked: Asked, manifest: Manifest, logs: Logs, environment: Environment, graphs: Sequence[Graph], place: str
) -> HardwareProfile:
    timed = timed_models(manifest, logs)
    if timed.drift > LOST:
        raise InputError(
            f"kit {place}: expected a machine of steady speed, got a sentinel whose times differ by {timed.drift:.0%}. "
            f"Let nothing else run, keep it cool, remove {LOGS}/ and run the kit again."
        )
    empty = timed.own_us.get("empty")
    empty_us = 0.0 if empty is None else empty.p50_us
    edges = _edges(timed, empty_us, manifest.batch)
    rows = _rows(manifest, timed, empty_us, edges)
    places = {model.as_kernel(): f"kit {place}, {LOGS}/*-{model.id}.log" for model in manifest.of("kernel")}
    check_unit([row for row in rows if not row.failure], places)
    header = _header(asked, manifest, logs, environment, timed, empty_us, edges)
    bare = HardwareProfile(header, tuple(sorted(rows, key=lambda row: (row.family, row.sizes))))
    observed = [
        Observation(model.target or 0, model.widths, timed.clock_us[model.id])
        for model in manifest.of("whole")
        if model.id in timed.clock_us
    ]
    return calibrated(bare, graphs, observed, timed.drift, _notes(manifest, timed, len(observed)))


def _edges(timed: Timed, empty_us: float, batch: int) -> Edges:
    """What convolutions pay at their edges, as `probe_edges` finds it; nothing where a probe is missing."""
    saved, bytes_ = [], []
    for width, side in edge_sizes():
        one, two = (timed.own_us.get(edge_id(name, width, side)) for name in ("one", "two"))
        if one is None or two is None:
            return Edges()
        saved.append(2.0 * one.p50_us - two.p50_us - empty_us)
        bytes_.append(4.0 * batch * width * side * side)
    return fit_edges(np.array(bytes_), np.array(saved))


def _rows(manifest: Manifest, timed: Timed, empty_us: float, edges: Edges) -> list[KernelRow]:
    """A row a kernel, refused ones among them."""
    rows = []
    for model in manifest.of("kernel"):
        item = PlannedKernel(model.as_kernel(), model.operator, 0)
        if model.id in timed.own_us:
            rows.append(timed_row(item, timed.own_us[model.id], 1.0, empty_us, edges))
        elif model.id in timed.refused:
            rows.append(failed_row(item, timed.refused[model.id]))
    return rows


def _header(
    asked: Asked,
    manifest: Manifest,
    logs: Logs,
    environment: Environment,
    timed: Timed,
    empty_us: float,
    edges: Edges,
) -> ProfileHeader:
    device = environment.device
    if asked.device is not None:
        device = device.model_copy(update={"name": asked.device})
    protocol, tool = manifest.protocol, tool_for(manifest.runtime)
    flags = {
        "tool": tool.program,
        "kit": manifest.id,
        "precision": manifest.precision,
        "threads": str(manifest.threads),
    }
    return ProfileHeader(
        name=asked.name or f"{device.name}-{manifest.runtime}-{manifest.threads}t",
        description=asked.description,
        device=device,
        runtime=RuntimeInfo(name=manifest.runtime, version=logs.tool.partition(" ")[2] or "unknown", flags=flags),
        precision=manifest.precision,
        batch=manifest.batch,
        threads=manifest.threads,
        environment=environment.values,
        protocol=ProtocolInfo(
            sessions=protocol.sessions,
            minimum_runs=protocol.minimum_runs,
            warmup_runs=protocol.warmup_runs,
            warmup_us=protocol.warmup_us,
            empty_run_us=round(empty_us, 3),
            edge_us=round(edges.constant_us, 3),
            edge_us_per_byte=round(edges.us_per_byte, 9),
            seed=protocol.seed,
        ),
        provenance="measured",
        alignment_quantum=_quantum(manifest, timed),
        created=environment.values.get("date", ""),
    )


def _quantum(manifest: Manifest, timed: Timed) -> int:
    """The device's alignment quantum, by the dense probe; the plan's where the probe was not run."""
    probes = [timed.own_us.get(f"q{width:03d}") for width in PROBED]
    times = [probe.p50_us for probe in probes if probe is not None]
    return quantum_of(list(PROBED), times) if len(times) == len(probes) else manifest.quantum


def _notes(manifest: Manifest, timed: Timed, whole: int) -> tuple[str, ...]:
    kernels = manifest.of("kernel")
    missing = sum(model.id not in timed.own_us and model.id not in timed.refused for model in kernels)
    wanted = len(manifest.of("whole"))
    notes = [*manifest.notes]
    if len(kernels) < manifest.planned:
        notes.append(f"{len(kernels)} of {manifest.planned} planned kernels were in the kit; the rest is interpolated")
    if missing:
        notes.append(f"{missing} of {len(kernels)} kernels of the kit were not run")
    if whole < wanted:
        notes.append(f"{wanted - whole} of {wanted} whole models of the kit were not run")
    if timed.drift > UNSTEADY:
        notes.append(f"the machine's speed changed by {timed.drift:.0%} while the kit ran")
    if not tool_for(manifest.runtime).run_here:
        notes.append(f"autoprune's authors have not run {tool_for(manifest.runtime).program} themselves")
    return tuple(notes)

"""Every reader of files or texts that somebody else may have written: a sample, how it is made hostile, and a use.

A use does what the program does with what it read, since a file that loads and then breaks the next step is a fault of
the reader.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml

from autoprune.core.files import canonical_json, digest
from tests.fuzz import mutations
from tests.fuzz.mutations import MUTATIONS

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: in tables.
        make: hostile files by path, drawn.
        use: reads them from a folder, and goes on with what it read.
        valid: the sample.
    """

    name: str
    make: Callable[[Random], Files]
    use: Callable[[Path], object]
    valid: Callable[[], Files]


def one_changed(valid: Callable[[], Files], kinds: Mapping[str, str]) -> Callable[[Random], Files]:
    """Makes the sample with one file changed, now and then two; `kinds` are those that may be, and how."""

    def make(random: Random) -> Files:
        files = dict(valid())
        for _ in range(random.choice((1, 1, 1, 2))):
            path = random.choice(list(kinds))
            with_ = kinds[path] if random.random() < 0.95 else "bytes"
            try:
                files[path] = MUTATIONS[with_](files[path], random)
            except (
                ValueError,
                LookupError,
                TypeError,
                RecursionError,
                yaml.YAMLError,
            ):  # changed twice: no format left
                files[path] = mutations.plain(files[path], random)
        return files

    return make


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def write_files(folder: Path, files: Files) -> None:
    """Put files into a new folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _sampled(write: Callable[[Path], object]) -> Callable[[], Files]:
    """A sample that is written into a folder once, and kept."""

    @functools.cache
    def sample() -> Files:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            return files_of(Path(folder))

    return sample


# --------------------------------------------------------------------------- what people write by hand

CONFIG = """\
model: package.models:trained
task: package.data:task
profiles: [cpu-test, ./folder]
space: cnn
objectives: [error, latency_p50, size]
constraints: ["latency_p99 <= 8ms"]
search: {sampler: nsga2, trials: 20, time_budget: 30min, seed: 1}
finetune: {members: 2, epochs: 1, distill: true}
executor: {kind: local, workers: 2, timeout: 10s}
run: runs/x
"""
SPACE = """\
version: 1
description: widths of stages
extends: cnn
rules:
  - {match: ["*.conv*", "?ead.*"], minimum: 0.25, multiple: quantum, levels: 8, tie: "stage{1} {size}"}
  - {unit: channel, stream: false, removable: true, freeze: false, remove: true}
"""
EXPRESSIONS = (
    "latency_p50 <= 5ms and (size <= 4MB or accuracy > 97%)", "latency_p99@phone <= 8ms", "accuracy + 2*latency_p50",
    "1pt", "30min", "300M", "1,3,224,224:float32", "module.sub:callable.attribute", "ssh:user@host:22", "error",
    "layer*.?.conv{1}", "postgresql://user:password@host/db", "x0:(1,c0);y0:(1,c0)=relu.default(x0) @ 8",
)  # fmt: skip


def _config(folder: Path) -> object:
    from autoprune.config import load_config

    return load_config(folder / "config.yaml")


def _space(folder: Path) -> object:
    from autoprune.search.space import SearchSpace

    space = SearchSpace.load(folder / "space.yaml", small_graph(), quantum=4)
    return space.hash, space.policy(space.narrowest)


def _expression(folder: Path) -> object:
    """The text as everything that a text can be; one reader that takes it is enough."""
    text = (folder / "text.txt").read_text(encoding="utf-8", errors="surrogateescape")
    from autoprune.core.errors import AutopruneError

    refused: AutopruneError | None = None
    taken = 0
    for read in _texts():
        try:
            read(text)
            taken += 1
        except AutopruneError as error:
            refused = error
    if not taken and refused is not None:
        raise refused
    return taken


def _texts() -> tuple[Callable[[str], object], ...]:
    from autoprune.callables import example_inputs, import_reference
    from autoprune.config import resolve
    from autoprune.core.units import parse_bytes, parse_count, parse_seconds, parse_us
    from autoprune.graph.fusion import kernel_slots
    from autoprune.graph.kernel import Kernel
    from autoprune.hardware.devices import open_device
    from autoprune.hardware.profile import load_profile
    from autoprune.pareto import parse_constraint, parse_where
    from autoprune.pareto.preference import parse_margin, parse_weights
    from autoprune.search.rules import read_rules

    row = {"latency_p50_us": 4200.0, "size_bytes": 1e6, "accuracy": 0.9, "latency_p99_us@phone": 1.0}
    return (
        lambda text: parse_where(text, row).matches(row),
        parse_constraint,
        parse_weights,
        parse_margin,
        parse_us,
        parse_seconds,
        parse_bytes,
        parse_count,
        lambda text: example_inputs([text]) if len(text) < 40 else example_inputs([text[:40]]),
        lambda text: import_reference(text, "model"),
        lambda text: resolve(text, Path.cwd()),
        lambda text: load_profile(text),
        lambda text: open_device(text) if text.startswith(("ssh:", "android")) else None,
        lambda text: read_rules({"rules": [{"match": text, "tie": text}]}).settings("layer1.0.conv1", 8, traits()),
        lambda text: [slot.flops({}) for slot in kernel_slots(Kernel.from_key(text).program())],
    )


@functools.cache
def traits() -> Any:
    """Of some group."""
    from autoprune.search.traits import Traits

    return Traits(unit="channel", stream=False, removable=True)


# --------------------------------------------------------------------------- hardware


@functools.cache
def small_graph() -> Any:
    """The traced network of the importers' tests."""
    from tests.hardware.importers.files import small_graph as graph

    return graph()


def _write_profile(folder: Path) -> None:
    from autoprune.hardware.analytical import AnalyticalModel, ClassModel, Residual
    from autoprune.hardware.profile import Composition, HardwareProfile, KnownModel, Residuals, Validation
    from tests.hardware.samples import synthetic_profile

    graph = small_graph()
    widths: dict[str, Sequence[int]] = {group.id: (2, 4, group.size) for group in graph.groups.values()}
    plain = synthetic_profile(graph, widths)
    residuals = {"p50": Residuals(mean_absolute=0.02, low=-0.05, high=0.04)}
    composition = {p: Composition(sum_factor=1.1, constant_us=3.0, kernel_us=0.2) for p in ("p50", "p90")}
    own = ClassModel(overhead_us=1.0, us_per_flop=1e-4, us_per_byte=1e-4, tile=(8, 8), sliced=True,
                     residual=Residual(scales=(1.0,) * 17, signal=0.3, noise=0.1))  # fmt: skip
    header = plain.header.model_copy(
        update={
            "description": "a profile",
            "environment": {"governor": "performance"},
            "composition": composition,
            "known": {"0" * 16: KnownModel(models=4, composition=composition, residuals=residuals)},
            "validation": Validation(models=4, residuals=residuals, compared={"sum": 0.3}, notes=("a note",)),
            "analytical": AnalyticalModel(units=2, classes={"*": own, "conv": own}),
            "context": {"conv": 1.1},
        }
    )
    HardwareProfile(header, plain.kernels).save(folder)


def _profile(folder: Path) -> object:
    from autoprune.hardware.latency import LatencyTable
    from autoprune.hardware.profile import HardwareProfile, header_data

    profile = HardwareProfile.load(folder)
    table = LatencyTable(profile, small_graph())
    sizes = [group.size for group in small_graph().groups.values()]
    widths = np.array([sizes, [max(1, size // 2) for size in sizes], [3] * len(sizes)])
    found = table.latency_us(widths), table.interval_us(widths), table.shares(widths), profile.id
    if table.has_energy:
        table.energy_uj(widths)
    json.dumps(header_data(profile.header), allow_nan=False)
    return found


def _importer(format: str) -> Reader:
    from tests.hardware.importers.files import COLUMNS, CONTENT

    name, sample = CONTENT[format]
    kinds = {name: {"yaml": "yaml", "json": "json", "csv": "csv"}[name.rpartition(".")[2]]}
    files = {name: sample.encode(), "columns.yaml": COLUMNS.encode()}
    if format == "csv":
        kinds["columns.yaml"] = "yaml"

    def use(folder: Path) -> object:
        from autoprune.hardware.importers import ImportSettings
        from autoprune.hardware.importers.profile import Origin, import_profile, named_kernels

        settings = ImportSettings(1, folder / "columns.yaml", named_kernels(small_graph()))
        profile = import_profile(format, folder / name, Origin("imported", "Phone"), settings)
        profile.save(folder / "out")
        return profile.id

    return Reader(f"import {format}", one_changed(lambda: files, kinds), use, lambda: files)


def _write_kit(folder: Path) -> None:
    from tests.hardware import kits

    manifest = kits.written(folder, kernels=4, whole_models=2)
    kits.answer(folder, manifest, lambda model, session: 10.0 + len(model.id) + session)
    shutil.rmtree(folder / "models")


kit_files = _sampled(_write_kit)


def _kit(random: Random) -> Files:
    """The kit with one of its texts changed; mostly with all hashes made right again, to come further."""
    files = dict(kit_files())
    logs = [name for name in files if name.startswith("logs/")]
    path = random.choice(("manifest.json", "programs/0.json", "environment.txt", random.choice(logs)))
    kind = "json" if path.endswith(".json") else "text"
    files[path] = MUTATIONS[kind](files[path], random)
    return _rehashed(files) if random.random() < 0.8 else files


def _rehashed(files: dict[str, bytes]) -> dict[str, bytes]:
    """With the program's hash in the manifest, and the manifest's in all logs, as if the kit had been written so."""
    try:
        manifest = json.loads(files["manifest.json"])
        old = manifest["id"]
        program = files["programs/0.json"]
        manifest["files"]["programs/0.json"] = {"sha256": hashlib.sha256(program).hexdigest(), "size": len(program)}
        new = digest(canonical_json({**manifest, "id": ""}))
        manifest["id"] = new
        files["manifest.json"] = json.dumps(manifest).encode()
    except (ValueError, KeyError, TypeError, RecursionError, UnicodeError):
        return files
    return {
        name: content.replace(str(old).encode(errors="replace"), new.encode()) if name.startswith("logs/") else content
        for name, content in files.items()
    }


def _import_kit(folder: Path) -> object:
    from autoprune.hardware.kit.importing import import_kit

    archives = [path for path in folder.iterdir() if path.name in ("kit.tar.gz", "kit.zip")]
    return import_kit(archives[0] if archives else folder).id


# --------------------------------------------------------------------------- runs


def _write_run(folder: Path) -> None:
    from autoprune.artifacts.bundle import make_recipe, write_front, write_member, write_run, write_trials
    from autoprune.artifacts.records import RunRecord
    from tests.artifacts.samples import row, trials

    graph = small_graph()
    write_run(
        folder, graph, RunRecord(name="sample", profiles=("cpu",), notes=("a note",), constraints=("size <= 1MB",))
    )
    policy = graph.uniform(0.5)
    rows = [row("dense", 1.0), row("half", 0.5)]
    write_member(
        folder, make_recipe("half", graph, policy, criterion="l1"), graph.module(policy).clone_tensors(), rows[1], ()
    )
    write_front(folder, rows)
    write_trials(folder, trials(5))


run_files = _sampled(_write_run)
RUN_KINDS = {
    "run.json": "json", "front.csv": "csv", "trials.csv": "csv", "program.json": "json",
    "members/half/policy.json": "json", "members/half/metrics.json": "json",
    "members/half/weights.safetensors": "tensors", "inputs.safetensors": "tensors",
}  # fmt: skip


def _run(folder: Path) -> object:
    """The front shown and selected from, the report's page, and the member's model."""
    from autoprune.artifacts.front import load_front
    from autoprune.artifacts.loading import read_inputs
    from autoprune.artifacts.program_file import read_program
    from autoprune.artifacts.report.data import load_report_data
    from autoprune.artifacts.report.page import render
    from autoprune.core.errors import InputError

    front = load_front(folder)
    for asked in ({"where": "latency_p50 <= 5s and accuracy >= 0.1"}, {"prefer": "knee"}, {"prefer": "accuracy"}):
        try:
            front.select(**asked)
        except InputError:
            continue
    render(load_report_data(folder)).encode("utf-8")
    model = front["half"].model
    program, _ = read_program(folder)
    return read_inputs(folder, program), model


@functools.cache
def _space_of_small() -> Any:
    from autoprune.search.space import SearchSpace

    return SearchSpace.load("cnn", small_graph())


@functools.cache
def state_files() -> Files:
    """What a search keeps beside its trials."""
    from autoprune.search.damage import DamageCurves

    space = _space_of_small()
    tables = tuple(np.linspace(1.0, 0.0, count) for count in space.levels)
    curves = DamageCurves(tuple(v.name for v in space.variables), tables, tuple((0,) for _ in tables), 0.5)
    return {"damage.json": json.dumps({"schema": "autoprune.damage/1", "curves": curves.to_data()}).encode()}


def _state(folder: Path) -> object:
    from autoprune.core.files import read_json
    from autoprune.search.allocation import allocate
    from autoprune.search.damage import DamageCurves

    data = read_json(folder / "damage.json", "damage curves", "autoprune.damage/1")
    curves = DamageCurves.from_data(data.get("curves", {}), _space_of_small())
    return allocate(curves.tables, lambda choices: choices.sum(axis=1).astype(float), 4, seed=0)


def _write_journal(folder: Path) -> None:
    from autoprune.search.storage import Record, TrialStorage

    with TrialStorage(folder, ("a", "b"), (3, 4), ("error", "latency_p50"), None) as storage:
        storage.settings({"seed": 1})
        for number in range(3):
            storage.add(Record(number, 0, (1, 2), "sampler", (0.1, 5.0), {"size": -1.0}, True, {"accuracy": 0.9}, 0.1))
    (folder / "search.lock").unlink(missing_ok=True)


journal_files = _sampled(_write_journal)


def _journal(folder: Path) -> object:
    from autoprune.search.storage import TrialStorage

    with TrialStorage(folder, ("a", "b"), (3, 4), ("error", "latency_p50"), None) as storage:
        return storage.settings({"seed": 1}), storage.load()


def _write_profiling(folder: Path) -> None:
    from autoprune.hardware.profiling.journal import Journal

    measured = {"p50_us": 1.0, "p90_us": 1.1, "p95_us": 1.1, "p99_us": 1.2, "mean_us": 1.0, "std_us": 0.1, "n": 5}
    with Journal(folder / "journal.jsonl") as journal:
        journal.begin({"settings": {"threads": 1}, "quantum": 8})
        timed = [{"key": "x @ 1", "measured": {**measured, "sessions_us": [1.0], "pace": 1.0}}]
        journal.append("kernels", seconds=1.0, readings=[1.0, 2.0], timed=timed, failed=[{"key": "y @ 1", "why": "no"}])


profiling_files = _sampled(_write_profiling)


def _profiling(folder: Path) -> object:
    from autoprune.hardware.profiling.bench import readings
    from autoprune.hardware.profiling.journal import Journal

    with Journal(folder / "journal.jsonl") as journal:
        journal.begin({"settings": {"threads": 1}, "quantum": 8})
        return journal.seconds, readings(journal)


# --------------------------------------------------------------------------- tensors and programs


def _write_checkpoint(folder: Path) -> None:
    from autoprune.tuning.checkpoint import save

    state = {"w": torch.zeros(3, 4), "b": torch.zeros(4)}
    save(folder / "a.checkpoint", "key", {"model": state, "best": state, "epoch": 1})


checkpoint_files = _sampled(_write_checkpoint)


def _checkpoint(folder: Path) -> object:
    from autoprune.core.errors import InputError
    from autoprune.tuning.checkpoint import BrokenCheckpointError, load

    expected = {"w": torch.zeros(3, 4), "b": torch.zeros(4)}
    try:
        return load(folder / "a.checkpoint", "key", torch.device("cpu"), expected)
    except BrokenCheckpointError as error:  # fine-tuning says so, and begins anew
        raise InputError(str(error)) from error


@functools.cache
def exported() -> Files:
    """A program that `torch.export.save` wrote, member by member of its archive."""
    import zipfile

    out = io.BytesIO()
    program = torch.export.export(
        torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval(), (torch.zeros(2, 4),),
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
    )  # fmt: skip
    torch.export.save(program, out)
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _pt2(random: Random) -> Files:
    files = dict(exported())
    if random.random() < 0.25:
        return {"model.pt2": mutations.zip_file(files, random)}
    path = random.choice(list(files))
    kind = "json" if path.endswith(".json") else "bytes"
    files[path] = MUTATIONS[kind](files[path], random)
    if random.random() < 0.1:
        files[path.rpartition("/")[0] + "/" + random.choice(("x.pt", "model.pt", "opaque_obj_0", "../x"))] = b"x"
    data = mutations.packed(files)
    return {"model.pt2": mutations.plain(data, random) if random.random() < 0.1 else data}


def _load_pt2(folder: Path) -> object:
    from autoprune.callables import load_model

    return load_model(str(folder / "model.pt2"))


def _tensors(folder: Path) -> object:
    from autoprune.artifacts.weights import read_any_tensors, read_tensors

    expected = {"a": ("float32", (3, 4)), "b": ("int64", (2,))}
    read_any_tensors(folder / "x.safetensors", 2**20)
    return read_tensors(folder / "x.safetensors", expected)


def _write_tensors(folder: Path) -> None:
    from autoprune.artifacts.weights import write_tensors

    write_tensors(folder / "x.safetensors", {"a": torch.zeros(3, 4), "b": torch.zeros(2, dtype=torch.int64)})


tensors_files = _sampled(_write_tensors)


# --------------------------------------------------------------------------- all of them


@functools.cache
def readers() -> Mapping[str, Reader]:
    """Name -> reader."""

    def simple(
        name: str, valid: Callable[[], Files], kinds: Mapping[str, str], use: Callable[[Path], object]
    ) -> Reader:
        return Reader(name, one_changed(valid, kinds), use, valid)

    def text(random: Random) -> Files:
        seed = random.choice(EXPRESSIONS).encode()
        return {
            "text.txt": mutations.plain(seed, random) if random.random() < 0.7 else mutations.text_file(seed, random)
        }

    def tar(random: Random) -> Files:
        return {"kit.tar.gz": mutations.tar_file(kit_files(), random)}

    def zipped(random: Random) -> Files:
        return {"kit.zip": mutations.zip_file(kit_files(), random)}

    profile = _sampled(_write_profile)
    found = [
        simple("config", lambda: {"config.yaml": CONFIG.encode()}, {"config.yaml": "yaml"}, _config),
        simple("search space", lambda: {"space.yaml": SPACE.encode()}, {"space.yaml": "yaml"}, _space),
        Reader("expressions", text, _expression, lambda: {"text.txt": EXPRESSIONS[0].encode()}),
        simple("hardware profile", profile, {"profile.json": "json", "kernels.csv": "csv"}, _profile),
        *map(_importer, ("ofa", "proxylessnas", "nn-meter", "litert", "tensorrt", "onnxruntime", "csv")),
        Reader("kit folder", _kit, _import_kit, kit_files),
        Reader("kit tar", tar, _import_kit, kit_files),
        Reader("kit zip", zipped, _import_kit, kit_files),
        simple("run folder", run_files, RUN_KINDS, _run),
        simple("damage curves", state_files, {"damage.json": "json"}, _state),
        simple("trial journal", journal_files, {"journal.log": "text"}, _journal),
        simple("profiling journal", profiling_files, {"journal.jsonl": "text"}, _profiling),
        simple("safetensors", tensors_files, {"x.safetensors": "tensors"}, _tensors),
        simple("checkpoint", checkpoint_files, {"a.checkpoint": "bytes"}, _checkpoint),
        Reader("exported program", _pt2, _load_pt2, lambda: {"model.pt2": mutations.packed(exported())}),
    ]  # fmt: skip
    return {reader.name: reader for reader in found}


class FaultError(AssertionError):
    """A reader that did what no reader may do."""


@contextmanager
def placed(files: Files) -> Iterator[Path]:
    """The files in a folder of their own, in a folder of which nothing else is, gone afterwards.

    Raises:
        FaultError: anything stands outside of the folder afterwards.
    """
    path = list(sys.path)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        folder = Path(root) / "case"
        folder.mkdir()
        write_files(folder, files)
        before = os.listdir(os.getcwd())
        try:
            yield folder
        finally:
            sys.path[:] = path
            outside = {*os.listdir(root)} - {"case"} | ({*os.listdir(os.getcwd())} ^ {*before})
            outside |= {name for name in ("/tmp/canary",) if os.path.lexists(name)}
        if outside:
            raise FaultError(f"expected no file outside of the folder, got {sorted(outside)}")


def attempt(reader: Reader, files: Files) -> str | None:
    """Let a reader read; None where it takes the files, else why it refuses them.

    Raises:
        FaultError: it raised anything but an `AutopruneError`, said nothing or too much, or wrote elsewhere.
    """
    from autoprune.core.errors import AutopruneError

    with placed(files) as folder:
        try:
            reader.use(folder)
        except AutopruneError as error:
            if not 10 < len(str(error)) < 20_000:
                raise FaultError(
                    f"{reader.name}: expected a message, got one of {len(str(error))} characters"
                ) from error
            return str(error)
        except Exception as error:
            raise FaultError(
                f"{reader.name}: expected an AutopruneError, got {type(error).__name__}: {str(error)[:300]}"
            ) from error
    return None

"""Readers of what comes from devices: profiles, other people's tables, kits, journals of measurements, ONNX files."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np

from autoprune.core.files import canonical_json, digest
from tests.fuzz import mutations
from tests.fuzz.reader import Files, Reader, changed_file, changed_in, lines_changed, sampled, simple
from tests.hardware.importers.files import small_graph

FORMATS = ("ofa", "proxylessnas", "nn-meter", "litert", "tensorrt", "onnxruntime", "csv")


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

    return simple(f"import {format}", lambda: files, kinds, use)


def _write_kit(folder: Path) -> None:
    from tests.hardware import kits

    manifest = kits.written(folder, kernels=4, whole_models=2)
    kits.answer(folder, manifest, lambda model, session: 10.0 + len(model.id) + session)
    shutil.rmtree(folder / "models")


kit_files = sampled(_write_kit)


def _changed_kit(given: Files, random: Random) -> Files:
    """The kit with one of its texts changed; mostly with all hashes made right again, to come further."""
    files = dict(given)
    logs = [name for name in files if name.startswith("logs/")]
    path = random.choice(("manifest.json", "programs/0.json", "environment.txt", random.choice(logs)))
    files[path] = changed_file(files[path], "json" if path.endswith(".json") else "text", random)
    return _rehashed(files) if random.random() < 0.8 else files


def _tar(files: Files, random: Random) -> Files:
    packed = files.get("kit.tar.gz")
    return {"kit.tar.gz": mutations.tar_file(files, random) if packed is None else mutations.plain(packed, random)}


def _zip(files: Files, random: Random) -> Files:
    packed = files.get("kit.zip")
    return {"kit.zip": mutations.zip_file(files, random) if packed is None else mutations.plain(packed, random)}


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


# --------------------------------------------------------------------------- what a device answers


def _write_answer(folder: Path) -> None:
    (folder / "kit.id").write_text("0123456789abcdef\n")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in kit_files().items():
            if name.startswith("logs/") or name == "environment.txt":
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (folder / "answer.tar").write_bytes(out.getvalue())


answer_files = sampled(_write_answer)


def _changed_answer(files: Files, random: Random) -> Files:
    changed = dict(changed_in({"kit.id": "text", "answer.tar": "bytes"})(files, random))
    if random.random() < 0.6:
        changed["answer.tar"] = mutations.tar_file(kit_files(), random)
    return changed


def _answer(folder: Path) -> object:
    """A tar of logs that came over SSH, kept in the kit's folder."""
    from autoprune.hardware.devices.remote import checked_id
    from autoprune.hardware.devices.ssh import SshDevice

    kept = folder / "kit"
    kept.mkdir()
    with (folder / "answer.tar").open("rb") as received:
        SshDevice("host").keep(received, kept)
    found = {path.relative_to(kept).parts[0] for path in kept.rglob("*")}
    if not found <= {"logs", "environment.txt"}:
        raise AssertionError(f"expected logs and the environment, got {sorted(found)}")
    return checked_id(folder)


# --------------------------------------------------------------------------- journals of measurements


def _session() -> dict[str, Any]:
    return {"settings": {"threads": 1}, "quantum": 8}


@functools.cache
def _plan() -> tuple[Any, ...]:
    """A target, the kernels to time of it, and two whole models."""
    from autoprune.hardware.profiling.models import planned_policies
    from autoprune.hardware.profiling.target import Target

    target = Target.of(small_graph(), None)
    return target, tuple(target.planned(1, 8)), tuple(planned_policies([target], 2, 0))


def _write_profiling(folder: Path) -> None:
    from autoprune.hardware.profiling.journal import Journal

    _, planned, policies = _plan()
    measured: dict[str, Any] = {
        "p50_us": 1.0,
        "p90_us": 1.1,
        "p95_us": 1.1,
        "p99_us": 1.2,
        "mean_us": 1.0,
        "std_us": 0.1,
        "n": 5,
    }
    measured |= {"sessions_us": [1.0], "pace": 1.0}
    with Journal(folder / "journal.jsonl") as journal:
        journal.begin(_session())
        journal.append("base", seconds=0.5, readings=[1.0], sentinel_us=1.0, empty_us=0.5, edges=[0.1, 1e-6])
        timed = [{"key": item.kernel.key, "measured": measured} for item in planned[:-1]]
        failed = [{"key": planned[-1].kernel.key, "why": "no"}]
        journal.append("kernels", seconds=1.0, readings=[1.0, 2.0], timed=timed, failed=failed)
        journal.append("energy", seconds=1.5, readings=[], source="a counter", energies=[[planned[0].kernel.key, 2.0]])
        whole = [{**vars(policy), "measured": measured, "nodes": {"0": 1.0}} for policy in policies[:1]]
        refused = [{**vars(policy), "why": "no"} for policy in policies[1:]]
        journal.append("models", seconds=2.0, readings=[1.0], timed=whole, failed=refused)


profiling_files = sampled(_write_profiling)


def _profiling(folder: Path) -> object:
    """A measurement gone on with: all that its journal has of the plan."""
    from autoprune.hardware.profiling import kernels, models
    from autoprune.hardware.profiling.bench import readings
    from autoprune.hardware.profiling.journal import Journal
    from autoprune.hardware.profiling.power import energies
    from autoprune.hardware.profiling.records import BaseLine, lines

    target, planned, policies = _plan()
    with Journal(folder / "journal.jsonl") as journal:
        journal.begin(_session())
        bench: Any = SimpleNamespace(journal=journal, settings=SimpleNamespace(processor="none"))
        base = list(lines(journal, BaseLine))
        timed = kernels.restored(bench, planned)
        whole = models.restored(bench, [target], frozenset(policies))
        return journal.seconds, readings(journal), base, energies(bench, timed.timed), whole.observations(1.0)


# --------------------------------------------------------------------------- ONNX


def _write_onnx(folder: Path) -> None:
    from autoprune.hardware.runtimes.model import Model

    graph = small_graph()
    (folder / "model.onnx").write_bytes(Model.of_module(graph.module()).onnx())


onnx_files = sampled(_write_onnx)


def _onnx(folder: Path) -> object:
    """Its inputs and nodes; what compiles it is the runtime's own reader."""
    from autoprune.hardware.runtimes.model import Model

    model = Model.of_onnx((folder / "model.onnx").read_bytes())
    return model.input_names, model.parts, [tensor.shape for tensor in model.inputs(2)]


def readers() -> list[Reader]:
    """Those of what comes from devices."""
    profile = sampled(_write_profile)
    return [
        simple("hardware profile", profile, {"profile.json": "json", "kernels.csv": "csv"}, _profile),
        *map(_importer, FORMATS),
        Reader("kit folder", _changed_kit, _import_kit, kit_files),
        Reader("kit tar", _tar, _import_kit, kit_files),
        Reader("kit zip", _zip, _import_kit, kit_files),
        Reader("device answer", _changed_answer, _answer, answer_files),
        Reader("profiling journal", lines_changed("journal.jsonl"), _profiling, profiling_files),
        simple("onnx", onnx_files, {"model.onnx": "bytes"}, _onnx),
    ]

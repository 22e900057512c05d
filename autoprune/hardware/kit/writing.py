"""Write a kit: models, manifest, and what times them where there is no autoprune."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx

from autoprune import __version__
from autoprune.core.errors import AutopruneError, InputError
from autoprune.core.files import canonical_json, read_json, write_json
from autoprune.graph.onnx import BATCH
from autoprune.graph.serialize import program_to_data
from autoprune.hardware.cost import Graph
from autoprune.hardware.kit.manifest import (
    KIT_ID,
    MANIFEST,
    MODELS,
    ORDER,
    PROGRAMS,
    SUMS,
    KitFile,
    KitModel,
    KitTarget,
    Manifest,
    manifest_of,
)
from autoprune.hardware.kit.planning import KitPlan, KitSettings, PlannedModel, plan_kit, run_order
from autoprune.hardware.kit.tools import Tool, tool_for
from autoprune.hardware.measure import Progress
from autoprune.hardware.runtimes.model import Model

FAR = Path(__file__).parent / "far"
MAX_NOTES = 8


def write_kit(
    graph: Graph,
    folder: Path,
    settings: KitSettings | None = None,
    *,
    widths: Mapping[str, Sequence[int]] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write a kit into a new folder; where the same kit is there already, it is left as it is, logs and all.

    Equal models and settings give equal kits, file by file.

    Args:
        graph: the traced model.
        folder: of the kit.
        settings: what it holds and how it is run.
        widths: allowed widths by group; without, even steps of every group.
        progress: called with ("kit", models written, total).

    Raises:
        InputError: a runtime that no kit can be written for, a folder that is something else, nothing to time.
        AutopruneError: not one kernel can be written as a model file.
    """
    given = settings or KitSettings()
    tool = tool_for(given.runtime, given.precision)
    plan = plan_kit(graph, widths, given)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        manifest = _write(graph, plan, given, tool, made, progress)
        _take_place(made, folder, manifest)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return manifest


def _take_place(made: Path, folder: Path, manifest: Manifest) -> None:
    """The new folder under its name, unless the same kit has it."""
    if folder.is_dir() and any(folder.iterdir()):
        found = folder / MANIFEST
        if not found.is_file() or manifest_of(read_json(found, "kit"), f"kit {found}").id != manifest.id:
            raise InputError(
                f"profile kit: expected a new or empty folder, got {folder}, which holds something else. Name another."
            )
        return
    if folder.is_dir():
        folder.rmdir()
    made.chmod(0o755)
    made.rename(folder)


def _write(
    graph: Graph, plan: KitPlan, settings: KitSettings, tool: Tool, folder: Path, progress: Progress | None
) -> Manifest:
    files: dict[str, KitFile] = {}

    def put(name: str, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        files[name] = KitFile(sha256=hashlib.sha256(data).hexdigest(), size=len(data))

    program = f"{PROGRAMS}/0.json"
    put(program, canonical_json(program_to_data(graph.program)).encode())
    models, shapes, notes = _write_models(graph, plan, settings, tool, put, progress)
    order = run_order(models, settings.protocol.sessions, settings.protocol.seed)
    entries = {model.id: _entry(model, tool) for model in models}
    lines = [f"{log} {entries[model].file} {shapes[model]}\n" for log, model in order]
    put(ORDER, "".join(lines).encode())
    put("settings.sh", _settings_text(settings).encode())
    for name, source in _far_files(settings).items():
        put(name, source)
    sums = "".join(f"{file.sha256}  {name}\n" for name, file in sorted(files.items()))
    put(SUMS, sums.encode())
    manifest = Manifest(
        autoprune=__version__,
        runtime=settings.runtime,
        precision=settings.precision,
        batch=settings.batch,
        threads=settings.threads,
        protocol=settings.protocol,
        quantum=settings.quantum,
        planned=plan.planned,
        files=files,
        models=tuple(entries.values()),
        targets=(KitTarget(program=program, groups=tuple((group, int(g.size)) for group, g in graph.groups.items())),),
        order=tuple(order),
        notes=notes,
    ).identified()
    (folder / KIT_ID).write_text(manifest.id + "\n", encoding="utf-8")  # of the hashes of all else
    write_json(folder / MANIFEST, manifest.data())
    return manifest


def _settings_text(settings: KitSettings) -> str:
    """`settings.sh`: what the scripts at the far end go by."""
    protocol = settings.protocol
    values = {
        "TOOL": settings.runtime,
        "THREADS": settings.threads,
        "PRECISION": settings.precision,
        "MINIMUM_RUNS": protocol.minimum_runs,
        "MAXIMUM_RUNS": protocol.maximum_runs,
        "TARGET_US": f"{protocol.target_us:g}",
        "WARMUP_RUNS": protocol.warmup_runs,
        "WARMUP_US": f"{protocol.warmup_us:g}",
    }
    lines = [f"{name}={shlex.quote(str(value))}\n" for name, value in values.items()]
    return "".join(lines) + f'[ -n "${{PYTHON-}}" ] || PYTHON={shlex.quote(settings.python)}\n'


def _far_files(settings: KitSettings) -> dict[str, bytes]:
    names = {
        "readme.txt": "readme.txt",
        "run.sh": "run.sh",
        "environment.sh": "environment.sh",
        "tool.sh": f"tools/{settings.runtime}.sh",
    }
    if settings.runtime == "onnxruntime":
        names["time_onnx.py"] = "time_onnx.py"
    return {name: (FAR / source).read_bytes() for name, source in names.items()}


def _entry(model: PlannedModel, tool: Tool) -> KitModel:
    return KitModel.model_validate(
        {
            "id": model.id,
            "role": model.role,
            "file": f"{MODELS}/{model.id}.{tool.writes}",
            "kernel": None if model.kernel is None else model.kernel.key,
            "operator": model.operator,
            "target": model.target,
            "widths": model.widths,
        }
    )


def _write_models(
    graph: Graph,
    plan: KitPlan,
    settings: KitSettings,
    tool: Tool,
    put: Callable[[str, bytes], None],
    progress: Progress | None,
) -> tuple[list[PlannedModel], dict[str, str], tuple[str, ...]]:
    """The models that could be written, the shapes of their inputs by id, and why others could not be."""
    written: list[PlannedModel] = []
    shapes: dict[str, str] = {}
    notes: set[str] = set()
    for done, planned in enumerate(plan.models, start=1):
        model = _model(graph, planned)
        try:
            put(f"{MODELS}/{planned.id}.{tool.writes}", model_bytes(model, tool, settings))
        except InputError:
            raise
        except AutopruneError as error:
            notes.add(f"{planned.operator or planned.role}: {error}")
        else:
            written.append(planned)
            inputs = model.inputs(settings.batch)
            shapes[planned.id] = ";".join(",".join(str(size) for size in tensor.shape) for tensor in inputs)
        if progress is not None:
            progress("kit", done, len(plan.models))
    if not any(model.role == "kernel" for model in written):
        raise AutopruneError(f"kit: not one kernel can be written for {settings.runtime}: {sorted(notes)[0]}.")
    return written, shapes, tuple(sorted(notes)[:MAX_NOTES])


def _model(graph: Graph, planned: PlannedModel) -> Model:
    if planned.kernel is not None:
        return Model.of_kernel(planned.kernel)
    widths = dict(zip(graph.groups, planned.widths, strict=True))
    return Model.of_program(graph.program, widths)


def model_bytes(model: Model, tool: Tool, settings: KitSettings) -> bytes:
    """A model file of fixed sizes, as the tool reads it.

    Raises:
        AutopruneError: it cannot be written.
        InputError: the package that writes it is missing.
    """
    if tool.writes == "onnx":
        return _at_batch(model.onnx(), settings.batch)
    from autoprune.hardware.runtimes.executorch_program import lower, package_version

    package_version()
    try:
        return lower(model.module(), model.inputs(settings.batch)).data
    except AutopruneError:
        raise
    except Exception as error:  # the exporter raises classes of many packages
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise AutopruneError(f"ExecuTorch refused the model: {text}") from error


def _at_batch(data: bytes, batch: int) -> bytes:
    """The ONNX model with its free dimension fixed: not every tool can be told it."""
    model = onnx.load_model_from_string(data)
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == BATCH:
                size.dim_value = batch
            elif size.dim_param:
                size.ClearField("dim_param")
    return model.SerializeToString(deterministic=True)

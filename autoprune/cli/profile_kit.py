"""`autoprune profile kit`, and kits given to `autoprune profile import`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.inspect import Inputs, Model
from autoprune.cli.output import Json, counted, emit_json, note, plain, progress
from autoprune.core.errors import InputError

if TYPE_CHECKING:
    from autoprune.hardware.profile import HardwareProfile

KIT = "kit"
Space = Annotated[str, typer.Option("--space", help="Search space whose widths are timed; auto picks one.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of the runtime.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Batch size of the measurement.")]
WholeModels = Annotated[int, typer.Option("--whole-models", min=0, help="Pruned models timed from end to end.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of the order and of the whole models.")]
Python = Annotated[str, typer.Option("--python", help="Interpreter at the far end, for tools that are Python.")]


def kit(
    model: Model,
    inputs: Inputs,
    output: Annotated[Path, typer.Option("--output", help="Folder of the kit; new or empty.")],
    runtime: Annotated[
        str, typer.Option("--runtime", help="What is to run it: onnxruntime, executorch, tensorrt, litert, ncnn.")
    ] = "onnxruntime",
    space: Space = "auto",
    threads: Threads = 1,
    batch: Batch = 1,
    precision: Annotated[str, typer.Option("--precision", help="float32, or what the tool has besides.")] = "float32",
    kernels: Annotated[int, typer.Option("--kernels", min=1, help="At most so many, coarse grids first.")] = 600,
    whole_models: WholeModels = 16,
    sessions: Annotated[int, typer.Option("--sessions", min=1, help="Shuffled passes over all models.")] = 3,
    python: Python = "python3",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write a folder that somebody else runs on a device out of reach: models, and a script that times them.

    The device needs a POSIX shell and the runtime's own tool, nothing of autoprune. Whoever runs it types `sh run.sh`
    and sends the folder back; `autoprune profile import` makes a profile of it.
    """
    from autoprune import api
    from autoprune.callables import example_inputs, load_model
    from autoprune.hardware.kit.manifest import KitProtocol
    from autoprune.hardware.kit.planning import KitSettings
    from autoprune.hardware.kit.tools import tool_for
    from autoprune.hardware.kit.writing import write_kit
    from autoprune.search.space import SearchSpace

    tool = tool_for(runtime, precision)  # before the user's code runs
    settings = KitSettings(
        runtime=runtime,
        threads=threads,
        batch=batch,
        precision=precision,
        kernels=kernels,
        whole_models=whole_models,
        protocol=KitProtocol(sessions=sessions, seed=seed),
        python=python,
    )
    graph = api.trace(load_model(model, Path.cwd()), example_inputs(inputs))
    with progress() as report:
        made = write_kit(graph, output, settings, widths=SearchSpace.load(space, graph).widths, progress=report)
    written = len(made.of("kernel"))
    size = sum(file.size for file in made.files.values())
    facts: dict[str, Any] = {
        "kit": str(output),
        "id": made.id,
        "runtime": runtime,
        "tool": tool.program,
        "kernels": written,
        "planned_kernels": made.planned,
        "whole_models": len(made.of("whole")),
        "size_bytes": size,
        "notes": list(made.notes),
    }
    if as_json:
        emit_json(facts)
    else:
        plain(f"{output}: {counted(written, 'kernel')} of {made.planned} planned, "
              f"{counted(len(made.of('whole')), 'whole model')}, {size / 1e6:.0f} MB")  # fmt: skip
    for line in made.notes:
        note(f"left out: {line}")
    if tool.converter:
        note(f"first, where {tool.converter} is: sh {shlex.quote(str(output))}/run.sh convert")
    note(f"on the device, with {tool.program}: sh run.sh   (cut off, it goes on where it was)")
    note(f"then here: autoprune profile import {shlex.quote(str(output))}")


def is_kit_file(file: Path, format: str | None) -> bool:
    """Whether `profile import` is given a kit.

    Raises:
        InputError: no format is given, and it is none.
    """
    if format is not None:
        return format == KIT
    from autoprune.hardware.importers import IMPORTERS
    from autoprune.hardware.kit.contents import is_kit

    if not is_kit(file):
        raise InputError(
            f"profile import: expected --format for '{file}', which is no kit, got none. Known: {KIT}, "
            f"{', '.join(IMPORTERS.names())}."
        )
    return True


def import_kit_file(
    file: Path,
    name: str | None,
    device: str | None,
    kind: str | None,
    source: str,
    **asked: Any,
) -> HardwareProfile:
    """The profile of a kit; see `Asked` for what it is asked to be."""
    from autoprune.hardware.importers.profile import checked_kind
    from autoprune.hardware.kit.importing import Asked, import_kit

    checked = None if kind is None else checked_kind(kind)
    return import_kit(file, Asked(name=name, device=device, kind=checked, description=source, **asked))

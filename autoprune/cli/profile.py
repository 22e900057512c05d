"""`autoprune profile run|list|show`: hardware profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.inspect import Inputs, Model
from autoprune.cli.output import Json, cell, emit_json, note, plain, progress, table
from autoprune.core.errors import InputError

app = typer.Typer(
    help="Measure, list and show hardware profiles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the profiles that ship with the package and those in ./hardware_profiles."""
    from autoprune.hardware.profile import list_profiles

    found = list_profiles()
    if as_json:
        emit_json(found)
        return
    names = ["name", "device", "runtime", "precision", "batch", "threads", "provenance"]
    table(f"{len(found)} hardware profiles", names, [[cell(n, header.get(n)) for n in names] for header in found])


@app.command()
def show(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A profile's name or folder.")],
    as_json: Json = False,
) -> None:
    """Show a profile: device, runtime, protocol, provenance, validation."""
    from autoprune.hardware.profile import load_profile

    found = load_profile(profile)
    if as_json:
        emit_json(found.to_data())
    else:
        plain(found.summary())


@app.command()
def run(
    model: Model,
    inputs: Inputs,
    name: Annotated[str | None, typer.Option("--name", help="Name of the profile; else device and runtime.")] = None,
    output: Annotated[Path, typer.Option("--output", help="Folder that the profile's folder is made in.")] = Path(
        "hardware_profiles"
    ),
    runtime: Annotated[str, typer.Option("--runtime", help="What runs the model.")] = "onnxruntime",
    space: Annotated[str, typer.Option("--space", help="Search space whose widths are measured.")] = "cnn",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the runtime.")] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Batch size of the measurement.")] = 1,
    budget: Annotated[str | None, typer.Option("--budget", help="Time for measuring, such as 5min.")] = None,
    as_json: Json = False,
) -> None:
    """Measure this device for a model: its kernels at the widths of the space, and a few whole models."""
    from autoprune import api
    from autoprune.callables import example_inputs, load_model
    from autoprune.core.units import parse_seconds

    budget_s = parse_seconds(budget) if budget is not None else None
    if name is not None and (output / name).exists():
        raise InputError(f"profile run: expected a new name, got '{name}', which {output} already has.")
    with progress() as report:
        profile = api.profile_device(
            runtime=runtime,
            model=load_model(model, Path.cwd()),
            example_inputs=example_inputs(inputs),
            space=space,
            threads=threads,
            batch=batch,
            budget_s=budget_s,
            name=name,
            progress=report,
        )
    folder = output / profile.name
    profile.save(folder)
    if as_json:
        emit_json({"folder": folder, **profile.to_data()})
    else:
        plain(profile.summary())
    note(f"written: {folder}")

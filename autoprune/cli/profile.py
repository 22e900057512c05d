"""`autoprune profile run|import|list|show`: hardware profiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.inspect import Inputs, Model
from autoprune.cli.output import Json, cell, counted, emit_json, note, plain, progress, table
from autoprune.core.errors import InputError

if TYPE_CHECKING:
    from autoprune.hardware.importers import NamedKernels
    from autoprune.hardware.profile import HardwareProfile

Header = dict[str, Any]
OptionalModel = Annotated[str | None, typer.Option("--model", help="module:callable or .pt2 file: what was measured.")]
OptionalInputs = Annotated[list[str] | None, typer.Option("--input", help="Shape of an input, as 1,3,224,224.")]

_COLUMNS: dict[str, Callable[[Header], str]] = {
    "name": lambda header: header["name"],
    "device": lambda header: header["device"]["name"],
    "runtime": lambda header: f"{header['runtime']['name']} {header['runtime']['version']}",
    "precision": lambda header: header["precision"],
    "threads": lambda header: str(header["threads"]),
    "batch": lambda header: str(header["batch"]),
    "provenance": lambda header: header["provenance"],
    "error": lambda header: _error(header),
}

app = typer.Typer(
    help="Measure, list and show hardware profiles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the profiles that ship with the package."""
    from autoprune.hardware.profile import list_profiles

    found = list_profiles()
    if as_json:
        emit_json(found)
        return
    table(
        counted(len(found), "hardware profile"),
        list(_COLUMNS),
        [[read(header) for read in _COLUMNS.values()] for header in found],
    )


@app.command()
def show(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A profile's name or folder.")],
    as_json: Json = False,
) -> None:
    """Show a profile: device, runtime, protocol, provenance, validation."""
    from autoprune.hardware.profile import load_profile

    _show(load_profile(profile), as_json)


@app.command()
def run(
    model: Model,
    inputs: Inputs,
    name: Annotated[str | None, typer.Option("--name", help="Name of the profile; else device and runtime.")] = None,
    output: Annotated[Path, typer.Option("--output", help="Folder that the profile's folder is made in.")] = Path(
        "hardware_profiles"
    ),
    runtime: Annotated[str, typer.Option("--runtime", help="What runs the model.")] = "onnxruntime",
    space: Annotated[
        str, typer.Option("--space", help="Search space whose widths are measured; auto picks one.")
    ] = "auto",
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
    _show(profile, as_json)
    note(f"written: {folder}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Kernel times that others measured.")],
    format: Annotated[str, typer.Option("--format", help="csv, litert, nn-meter, ofa, proxylessnas, tensorrt, ...")],
    name: Annotated[str, typer.Option("--name", help="Name of the profile.")],
    device: Annotated[str, typer.Option("--device", help="What was measured on, such as 'Pixel 4 GPU'.")],
    output: Annotated[Path, typer.Option("--output", help="Folder that the profile's folder is made in.")] = Path(
        "hardware_profiles"
    ),
    kind: Annotated[str, typer.Option("--kind", help="cpu, gpu, mobile, npu or other.")] = "other",
    runtime: Annotated[str, typer.Option("--runtime", help="What ran it, such as 'litert 2.7'.")] = "unknown",
    precision: Annotated[str, typer.Option("--precision", help="Of weights and activations.")] = "float32",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the runtime.")] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Batch size of the measurement.")] = 1,
    source: Annotated[str, typer.Option("--source", help="Who measured it, and under which licence.")] = "",
    columns: Annotated[Path | None, typer.Option("--columns", help="Column map (YAML) of a csv file.")] = None,
    model: OptionalModel = None,
    inputs: OptionalInputs = None,
    as_json: Json = False,
) -> None:
    """Make a profile of times that others measured; formats that only name operations need the model as well."""
    from autoprune.hardware.importers import ImportSettings
    from autoprune.hardware.importers.profile import Origin, import_profile

    if (output / name).exists():
        raise InputError(f"profile import: expected a new name, got '{name}', which {output} already has.")
    ran, _, version = runtime.partition(" ")
    origin = Origin(
        name=name,
        device=device,
        kind=kind,
        runtime=ran,
        runtime_version=version or "unknown",
        precision=precision,
        threads=threads,
        description=source,
    )
    settings = ImportSettings(batch, columns, _named(model, inputs or [], batch) if model else None)
    profile = import_profile(format, file, origin, settings)
    folder = output / profile.name
    profile.save(folder)
    _show(profile, as_json)
    note(f"written: {folder}")


def _named(model: str, inputs: list[str], batch: int) -> NamedKernels:
    from autoprune import api
    from autoprune.callables import example_inputs, load_model
    from autoprune.hardware.importers.profile import named_kernels

    if not inputs:
        raise InputError("profile import: expected --input beside --model, got none. Give the shape of each input.")
    return named_kernels(api.trace(load_model(model, Path.cwd()), example_inputs(inputs)), batch)


def _error(header: Header) -> str:
    """Mean absolute error of the median over whole models left out in turn."""
    residuals = header["validation"]["residuals"].get("p50")
    return f"{residuals['mean_absolute']:.1%}" if residuals else "-"


def _show(profile: HardwareProfile, as_json: bool) -> None:
    from autoprune.hardware.profile import header_data

    header = header_data(profile.header)
    rows = {"name": profile.name, "kernels": len(profile.kernels)}
    if as_json:
        emit_json({**header, **rows})
        return
    for name, value in {**rows, **header}.items():
        _show_entry(name, value)


def _show_entry(name: str, value: Any, depth: int = 0) -> None:
    """`name  value`, nested entries indented; empty ones are left out."""
    indent = "  " * depth
    if isinstance(value, dict):
        if value:
            plain(f"{indent}{name}")
        for inner, entry in value.items():
            _show_entry(inner, entry, depth + 1)
    elif isinstance(value, list):
        if value:
            plain(f"{indent + name:<28} {', '.join(str(item) for item in value)}")
    elif value not in ("", None):
        plain(f"{indent + name:<28} {cell(name, value)}")

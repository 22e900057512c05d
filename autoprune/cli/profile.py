"""`autoprune profile run|kit|import|list|show|check`: hardware profiles."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli import profile_kit
from autoprune.cli.inspect import Inputs, Model
from autoprune.cli.output import Json, cell, counted, emit_json, note, plain, progress, table
from autoprune.core.errors import InputError

if TYPE_CHECKING:
    from autoprune.hardware.check import Check
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
    help="Measure, import, list, show and check hardware profiles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


app.command("kit")(profile_kit.kit)


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
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Write a page (.html) that draws times against widths.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a profile: device, runtime, protocol, provenance, validation; and draw its staircases."""
    from autoprune.hardware.profile import load_profile

    loaded = load_profile(profile)
    if picture is not None:
        from autoprune.artifacts.staircases import write_staircases

        write_staircases(loaded, picture)
        note(f"written: {picture}")
    _show(loaded, as_json)


@app.command()
def check(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A profile's name or folder.")],
    kernels: Annotated[int, typer.Option("--kernels", min=1, help="How many to time again.")] = 40,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of which ones.")] = 0,
    as_json: Json = False,
) -> None:
    """Time some of a profile's kernels again: does it still hold on this machine? Exit status 0 if so, else 1."""
    from autoprune.hardware.check import check_profile
    from autoprune.hardware.profile import load_profile

    loaded = load_profile(profile)
    with progress() as report:
        found = check_profile(loaded, kernels, seed=seed, progress=report)
    if as_json:
        emit_json(found.to_data())
    else:
        _show_check(found)
    if not found.holds:
        raise typer.Exit(1)


@app.command()
def run(
    model: Model,
    inputs: Inputs,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the profile; else device, runtime and settings.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", help="Folder that the profile's folder is made in.")] = Path(
        "hardware_profiles"
    ),
    device: Annotated[
        str, typer.Option("--device", help="local, ssh:user@host:port, android or android:serial.")
    ] = "local",
    runtime: Annotated[
        str, typer.Option("--runtime", help="What runs the model: onnxruntime, openvino, executorch, pytorch, ...")
    ] = "onnxruntime",
    space: profile_kit.Space = "auto",
    threads: profile_kit.Threads = 1,
    batch: profile_kit.Batch = 1,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, bfloat16, float16 or int8, where the runtime has it.")
    ] = "float32",
    layout: Annotated[
        str, typer.Option("--layout", help="contiguous or channels_last, where the runtime has it.")
    ] = "contiguous",
    processor: Annotated[
        str, typer.Option("--processor", help="What of the device runs the model: cpu, cuda, ...")
    ] = "cpu",
    budget: Annotated[
        str, typer.Option("--budget", help="Time for all of it, such as 10min; `all` times every kernel of the plan.")
    ] = "10min",
    whole_models: profile_kit.WholeModels = 60,
    python: profile_kit.Python = "python3",
    seed: profile_kit.Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure a device for a model: its kernels at the widths of the space, and whole pruned models.

    What is timed is kept beside the profile until it is written: the same command again goes on where it was stopped,
    however that was.
    """
    from autoprune import api
    from autoprune.callables import example_inputs, load_model
    from autoprune.core.units import parse_seconds

    budget_s = None if budget == "all" else parse_seconds(budget)
    settings: dict[str, Any] = {
        "runtime": runtime,
        "threads": threads,
        "batch": batch,
        "precision": precision,
        "layout": layout,
        "processor": processor,
    }
    made = _profile_name(name, device, settings)
    if (output / made).exists():
        raise InputError(
            f"profile run: expected a new name, got '{made}', which {output} already has. Choose another with --name."
        )
    kept = output / (f"{made}.journal.jsonl" if device == "local" else f"{made}.kit")
    if kept.exists():
        note(f"going on with {kept}")
    with progress() as report:
        profile = api.profile_device(
            **settings,
            model=load_model(model, Path.cwd()),
            example_inputs=example_inputs(inputs),
            space=space,
            device=device,
            budget_s=budget_s,
            whole_models=whole_models,
            name=made,
            progress=report,
            seed=seed,
            journal=kept,
            python=python,
        )
    profile.save(output / made)
    _remove(kept)
    _show(profile, as_json)
    note(f"written: {output / made}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Kernel times that others measured, or a kit that ran.")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="csv, litert, nn-meter, ofa, proxylessnas, tensorrt, ...; kits are known as such."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the profile.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="What was measured on, such as 'Pixel 4 GPU'.")] = None,
    output: Annotated[Path, typer.Option("--output", help="Folder that the profile's folder is made in.")] = Path(
        "hardware_profiles"
    ),
    kind: Annotated[str | None, typer.Option("--kind", help="cpu, gpu, mobile, npu or other.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="What ran it, such as 'litert 2.7'.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="Of weights and activations; float32.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of the runtime; 1.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Batch size of the measurement; 1.")] = None,
    source: Annotated[str, typer.Option("--source", help="Who measured it, and under which licence.")] = "",
    columns: Annotated[Path | None, typer.Option("--columns", help="Column map (YAML) of a csv file.")] = None,
    model: OptionalModel = None,
    inputs: OptionalInputs = None,
    as_json: Json = False,
) -> None:
    """Make a profile of times that others measured; formats that only name operations need the model as well.

    A kit (its folder, or a .tar.gz or .zip of it) says itself what it was run with: options then say what it must be.
    """
    if name is not None:
        _check_new(output, name)
    if profile_kit.is_kit_file(file, format):
        profile = profile_kit.import_kit_file(
            file, name, device, kind, source, runtime=runtime, precision=precision, threads=threads, batch=batch
        )
        _check_new(output, profile.name)
    else:
        from autoprune.hardware.importers import ImportSettings
        from autoprune.hardware.importers.profile import Origin, import_profile

        ran, _, version = (runtime or "unknown").partition(" ")
        origin = Origin(
            name=_needed(name, "--name"),
            device=_needed(device, "--device"),
            kind=kind or "other",
            runtime=ran,
            runtime_version=version or "unknown",
            precision=precision or "float32",
            threads=threads or 1,
            description=source,
        )
        named = _named(model, inputs or [], batch or 1) if model else None
        profile = import_profile(format or "", file, origin, ImportSettings(batch or 1, columns, named))
    folder = output / profile.name
    profile.save(folder)
    _show(profile, as_json)
    note(f"written: {folder}")


def _check_new(output: Path, name: str) -> None:
    if (output / name).exists():
        raise InputError(
            f"profile import: expected a new name, got '{name}', which {output} already has. "
            "Choose another with --name."
        )


def _needed(value: str | None, option: str) -> str:
    if value is None:
        raise InputError(f"profile import: expected {option}, got none. Only kits say by themselves what they are.")
    return value


def _profile_name(name: str | None, device: str, settings: Mapping[str, Any]) -> str:
    """The name of the profile's folder.

    Raises:
        InputError: none is given for a device elsewhere, or one that is no name of a folder.
    """
    if name is None:
        if device != "local":
            raise InputError(f"profile run: expected --name beside --device {device}, got none.")
        from autoprune.hardware.profiling import ProfileSettings, default_name

        return default_name(ProfileSettings(**settings))
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise InputError(f"profile run: expected a name without slashes, got '{name}'. Say where with --output.")
    return name


def _remove(kept: Path) -> None:
    """What was kept of a measurement that is written now."""
    if kept.is_dir():
        shutil.rmtree(kept)
    else:
        kept.unlink(missing_ok=True)


def _show_check(found: Check) -> None:
    low, high = f"{found.low:.2f}", f"{found.high:.2f}"
    plain(f"{'profile':<28} {found.profile}")
    plain(f"{'kernels':<28} {found.kernels} timed again")
    plain(f"{'time now / time in profile':<28} {found.median_ratio:.2f} (middle four fifths: {low} to {high})")
    plain(f"{'within 10 %':<28} {found.within:.0%}")
    for what, (there, here) in found.differences.items():
        plain(f"{'different here':<28} {what}: {here}, in the profile {there}")
    for failure in found.failures:
        plain(f"{'refused':<28} {failure}")
    verdict = "holds" if found.holds else "does not hold: measure it anew with 'autoprune profile run'"
    plain(f"{'verdict':<28} {verdict}")


def _named(model: str, inputs: list[str], batch: int) -> NamedKernels:
    from autoprune import api
    from autoprune.callables import example_inputs, load_model
    from autoprune.hardware.importers.profile import named_kernels

    if not inputs:
        raise InputError("profile import: expected --input beside --model, got none. Give the shape of each input.")
    return named_kernels(api.trace(load_model(model, Path.cwd()), example_inputs(inputs)), batch)


def _error(header: Header) -> str:
    """Mean absolute error of the median: on policies of the profiled models left out, and on models left out whole."""
    residuals = header["validation"]["residuals"].get("p50")
    others = f"{residuals['mean_absolute']:.1%}" if residuals else "-"
    own = [known["residuals"]["p50"]["mean_absolute"] for known in header.get("known", {}).values()]
    return f"{sum(own) / len(own):.1%}; unseen models {others}" if own else others


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

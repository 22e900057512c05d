"""`autoprune search`: a config in, a run folder with the front out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.front import columns, show_rows
from autoprune.cli.output import Json, counted, emit_json, note, progress

if TYPE_CHECKING:
    from autoprune.artifacts.front import Front


def search(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A config.yaml.")],
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the run, instead of the config's.")] = None,
    as_json: Json = False,
) -> None:
    """Search for pruned models on the config's hardware; the same command again resumes an interrupted run."""
    from autoprune.config import load_config

    settings = load_config(config)
    if run is not None:
        settings = settings.model_copy(update={"run": str(run)})
    from autoprune.cli.start import search_with

    with progress() as report:
        found = search_with(settings, config.resolve().parent, report)
    show_front(found, as_json)


def show_front(front: Front, as_json: bool) -> None:
    """The front to stdout; where to look next to stderr."""
    if as_json:
        emit_json({"run": str(front.run), "members": list(front.rows)})
    else:
        show_rows(counted(len(front), "member"), front.rows, columns(front.rows, front.record.metrics))
    for sentence in front.record.notes:
        note(f"note: {sentence}")
    note(f"report: {front.run / 'report.html'}")
    note(f"next: autoprune select {shlex.quote(str(front.run))}{_example(front)}")


def _example(front: Front) -> str:
    """A condition that asks for half the dense model's latency."""
    if front.dense is None:
        return ""
    latency = next((name for name in front.dense.metrics if name.startswith("latency_p50_us")), "")
    value = front.dense.metrics.get(f"measured_{latency}") or front.dense.metrics.get(latency)
    if not isinstance(value, (int, float)):
        return ""
    return f" --where 'latency_p50{latency.removeprefix('latency_p50_us')} <= {value / 2:.3g}us'"

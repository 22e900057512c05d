"""`autoprune front|select|export|report`: what came out of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.output import Json, cell, counted, emit_json, plain, table

if TYPE_CHECKING:
    from autoprune.artifacts.front import Front, Member

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]
Where = Annotated[
    str | None, typer.Option("--where", help="Condition, such as 'latency_p95 <= 5ms and size <= 4MB'.", metavar="TEXT")
]
Prefer = Annotated[
    str, typer.Option("--prefer", help="'knee', a metric (highest first) or a cost (lowest first).", metavar="NAME")
]

_COSTS = (
    "latency_p50_us",
    "latency_p95_us",
    "measured_latency_p50_us",
    "measured_latency_p95_us",
    "speedup",
    "params",
    "macs",
    "size_bytes",
)


def front(run: Run, as_json: Json = False) -> None:
    """Show the Pareto front of a run."""
    found = _load(run)
    if as_json:
        emit_json({"run": str(found.run), "members": list(found.rows)})
    else:
        show_rows(
            f"{counted(len(found), 'member')} in {found.run}", found.rows, columns(found.rows, found.record.metrics)
        )


def select(run: Run, where: Where = None, prefer: Prefer = "knee", as_json: Json = False) -> None:
    """Select the member to deploy."""
    member = _load(run).select(where=where, prefer=prefer)
    if as_json:
        emit_json({"folder": member.folder, **member.metrics})
        return
    for name, value in member.metrics.items():
        plain(f"{name:<28} {cell(name, value)}")
    plain(f"{'folder':<28} {member.folder}")


def export(
    run: Run,
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files go.")],
    member: Annotated[str | None, typer.Option("--member", help="Its name; else it is selected.")] = None,
    where: Where = None,
    prefer: Prefer = "knee",
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="onnx, pt2, safetensors, ...; may be given again. [onnx, pt2]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a member's model in deployable formats, each checked against the model first."""
    if member is not None and (where is not None or prefer != "knee"):
        raise typer.BadParameter("expected either --member or --where/--prefer, got both.")
    chosen = _chosen(_load(run), member, where, prefer)
    files = chosen.export(output, formats=formats or ["onnx", "pt2"])
    if as_json:
        emit_json({"member": chosen.name, "files": files})
        return
    for path in files.values():
        plain(str(path))


def report(run: Run, as_json: Json = False) -> None:
    """Write the run's report anew: one self-contained HTML page."""
    from autoprune.artifacts.report import write_report

    path = write_report(run)
    if as_json:
        emit_json({"report": path})
    else:
        plain(str(path))


def columns(rows: Sequence[Any], metrics: Sequence[str]) -> list[str]:
    """The columns worth a terminal's width: name, metrics, latency, speed-up and size, where the rows have them."""
    wanted = ["member", *metrics, *(f"test_{name}" for name in metrics)]
    present = list(dict.fromkeys(name for row in rows for name in row))
    shown = [name for name in wanted if name in present]
    return shown + [name for cost in _COSTS for name in present if name.partition("@")[0] == cost]


def show_rows(title: str, rows: Sequence[Any], names: Sequence[str]) -> None:
    """The rows as a table on stdout."""
    table(title, [_heading(name) for name in names], [[cell(name, row.get(name)) for name in names] for row in rows])


def _heading(name: str) -> str:
    stem, at, profile = name.partition("@")
    short = stem.replace("measured_latency_", "measured ").replace("latency_", "predicted ")
    return short.removesuffix("_us").removesuffix("_bytes").replace("_", " ").replace(" ", "\n") + at + profile


def _load(run: Path) -> Front:
    from autoprune.artifacts.front import load_front

    return load_front(run)


def _chosen(found: Front, member: str | None, where: str | None, prefer: str) -> Member:
    return found[member] if member is not None else found.select(where=where, prefer=prefer)

"""`autoprune front|select|export|report`: what came out of a run."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.output import Json, cell, counted, emit_json, plain, table

if TYPE_CHECKING:
    from autoprune.artifacts.front import Front
    from autoprune.cli.plot import Glyphs

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]
Where = Annotated[
    str | None, typer.Option("--where", help="Condition, such as 'latency_p95 <= 5ms and size <= 4MB'.", metavar="TEXT")
]
Prefer = Annotated[
    str | None,
    typer.Option(
        "--prefer",
        help="'knee', 'best' (quality), 'fastest', 'smallest', a metric (highest first), a cost (lowest first), or "
        "weights: 'accuracy + 2*latency_p50'. [knee; fastest with --within]",
        metavar="TEXT",
    ),
]
Within = Annotated[
    str | None,
    typer.Option(
        "--within", help="Quality that may be lost to the dense model: '1pt', '2%', or a number.", metavar="TEXT"
    ),
]
Profile = Annotated[str | None, typer.Option("--profile", help="The front of one of several devices.", metavar="NAME")]

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
_OF_SEVERAL = ("latency_p50_us", "measured_latency_p50_us", "speedup")  # a table of several devices shows these of each


def front(
    run: Run,
    profile: Profile = None,
    plot: Annotated[
        bool | None, typer.Option("--plot/--no-plot", help="Draw quality against latency. [on a terminal]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the Pareto front of a run."""
    from autoprune.artifacts.ranking import read_ranking, summary

    found = _load(run, profile)
    ranking = read_ranking(found)
    if as_json:
        emit_json({"run": str(found.run), "members": list(found.rows), "ranking": [c.model_dump() for c in ranking]})
        return
    of = f" for {profile}" if profile is not None else ""
    show_rows(f"{counted(len(found), 'member')} in {found.run}{of}", found.rows, shown_columns(found))
    if plot or (plot is None and sys.stdout.isatty()):
        show_plots(found)
    text = summary(ranking)
    if text:
        plain(text)


def select(
    run: Run,
    where: Where = None,
    prefer: Prefer = None,
    within: Within = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Select the member to deploy.

    The best under 5 ms: --where 'latency_p50 <= 5ms' --prefer best. The fastest that loses at most a point: --within
    1pt.
    """
    member = _load(run).select(where, prefer, within, profile)
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
    prefer: Prefer = None,
    within: Within = None,
    profile: Profile = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="onnx, pt2, safetensors, ...; may be given again. [onnx, pt2]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a member's model in deployable formats, each checked against the model first."""
    chosen_by = [where, prefer, within, profile]
    if member is not None and any(choice is not None for choice in chosen_by):
        raise typer.BadParameter("expected either --member or --where/--prefer/--within/--profile, got both.")
    found = _load(run)
    chosen = found[member] if member is not None else found.select(where, prefer, within, profile)
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


def shown_columns(found: Front) -> list[str]:
    """The columns of a front that its table shows: of several devices, only a few of each."""
    names = columns(found.rows, found.record.metrics)
    if len(found.record.profiles) < 2:
        return names
    return [name for name in names if "@" not in name or name.partition("@")[0] in _OF_SEVERAL]


def columns(rows: Sequence[Any], metrics: Sequence[str]) -> list[str]:
    """The columns worth a terminal's width: name, metrics, latency, speed-up and size, where the rows have them."""
    wanted = ["member", *metrics, *(f"test_{name}" for name in metrics)]
    present = list(dict.fromkeys(name for row in rows for name in row))
    shown = [name for name in wanted if name in present]
    return shown + [name for cost in _COSTS for name in present if name.partition("@")[0] == cost]


def show_rows(title: str, rows: Sequence[Any], names: Sequence[str]) -> None:
    """The rows as a table on stdout."""
    table(title, [_heading(name) for name in names], [[cell(name, row.get(name)) for name in names] for row in rows])


def show_plots(found: Front) -> None:
    """Quality against latency on stdout, once for each device; nothing where the terminal is too narrow."""
    from autoprune.cli.plot import glyphs

    drawn = glyphs(sys.stdout.encoding)
    width = shutil.get_terminal_size().columns - 1
    for profile in found.record.profiles if len(found.record.profiles) > 1 else ("",):
        lines = front_plot(found, profile, width, drawn)
        if lines:
            plain("\n".join([*lines, ""]))


def front_plot(found: Front, profile: str, width: int, drawn: Glyphs) -> list[str]:
    """The plot of one device's latency as lines; `profile` is empty where there is one device only."""
    from autoprune.artifacts.choice import higher_is_better, number, value
    from autoprune.artifacts.device import on_front
    from autoprune.artifacts.layout import DENSE
    from autoprune.cli.plot import Axis, Point, scatter

    record, metric = found.record, found.record.metrics[0]
    latency = next((name for name in record.objectives if name.startswith("latency_")), "latency_p50")
    latency = latency.partition("@")[0] + (f"@{profile}" if profile else "")
    points = []
    for row in found.rows:
        name = str(row["member"])
        mark = drawn.dense if name == DENSE else drawn.member if on_front(row, profile) else drawn.other
        point = Point(value(row, latency), number(row.get(metric)), mark, name)
        if math.isfinite(point.x) and math.isfinite(point.y):
            points.append(point)
    better = "up" if higher_is_better(metric, record.metrics, record.minimize) else "down"
    points.sort(key=lambda point: point.label == DENSE, reverse=True)
    x_axis = Axis(latency, lambda value_us: cell("latency_p50_us", value_us))
    y_axis = Axis(f"{metric} ({better} is better; {drawn.dense} dense)", lambda value: cell(metric, value))
    return scatter(points, x_axis, y_axis, width, drawn)


def _heading(name: str) -> str:
    stem, at, profile = name.partition("@")
    short = stem.replace("measured_latency_", "measured ").replace("latency_", "predicted ")
    lines = short.removesuffix("_us").removesuffix("_bytes").replace("_", " ").replace(" ", "\n")
    return f"{lines}\n@{profile}" if at else lines


def _load(run: Path, profile: str | None = None) -> Front:
    from autoprune.artifacts.front import load_front

    found = load_front(run)
    return found if profile is None else found.for_profile(profile)

"""The report's tables and paragraphs as HTML. Everything that a user named passes through `escape`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from autoprune.artifacts.choice import number
from autoprune.artifacts.report.budget import fastest_within, staircase
from autoprune.artifacts.report.data import ReportData, View
from autoprune.artifacts.report.devices import devices, fronts_of
from autoprune.artifacts.report.figures import escape
from autoprune.artifacts.table import Row
from autoprune.core.units import format_count, format_us

DASH = "&ndash;"


def html_table(head: Sequence[str], body: Iterable[tuple[str, Sequence[tuple[str, float | str]]]], name: str) -> str:
    """A sortable table.

    Args:
        head: titles, not escaped.
        body: per row, attributes of the `<tr>` and cells as (HTML, value to sort by).
        name: the table's id.
    """
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    rows = []
    for attributes, cells in body:
        texts = "".join(f'<td data-value="{escape(_sortable(value))}">{text}</td>' for text, value in cells)
        rows.append(f"<tr{attributes}>{texts}</tr>")
    body_text = "".join(rows)
    table = f'<table id="{name}"><thead><tr>{titles}</tr></thead><tbody>{body_text}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _sortable(value: float | str) -> str:
    return value if isinstance(value, str) else ("" if math.isnan(value) else repr(float(value)))


def cards(data: ReportData) -> str:
    """The few figures that matter, in large type."""
    items = []
    if data.dense:
        items.append(("dense model", quality_text(data, data.dense), _latency_note(data, data.dense)))
    for view, points in _shown_margins(data):
        found = fastest_within(data, view, points)
        if found:
            row, speedup = found
            unit = "point" if data.as_error else "%"
            where = f", {escape(view.profile)}" if view.profile else ""
            label = f"fastest within {points:g} {unit}{'s' if data.as_error and points != 1 else ''} of dense{where}"
            items.append((label, f"{speedup:.2f}&times; faster", f"{escape(row['member'])}: {quality_text(data, row)}"))
    trials = f"from {len(data.trials)} evaluated policies" if data.trials else "on the front"
    items.append(("members", str(len(data.members)), trials))
    return "".join(
        f'<div class="card"><div class="label">{label}</div><div class="figure">{figure}</div>'
        f'<div class="note">{note}</div></div>'
        for label, figure, note in items
    )


def _shown_margins(data: ReportData) -> list[tuple[View, float]]:
    """Two margins on one device, or one on each of several: (view, points)."""
    first = list({view.profile: view for view in reversed(data.views)}.values())[::-1]  # of each device
    return [(view, 1.0) for view in first] if len(first) > 1 else [(view, p) for view in first for p in (1.0, 3.0)]


def quality_text(data: ReportData, row: Row, column: str | None = None) -> str:
    """The quality of a row (on validation, or another column of the metric) in its own direction: `97.2 % accuracy`."""
    value = number(row.get(column or data.metric))
    if math.isnan(value):
        return DASH
    return f"{100 * value:.2f}&nbsp;% {escape(data.metric)}" if data.as_error else f"{escape(data.metric)} {value:.4g}"


def _latency_note(data: ReportData, row: Row) -> str:
    if not data.views:
        return ""
    view = data.views[0]
    latency = view.latency_us(row)
    kind = "measured" if row.get(view.measured) is not None else "predicted"
    return "" if math.isnan(latency) else f"{view.percentile} {format_us(latency)} {kind}"


def members_table(data: ReportData) -> str:
    """One row a member, the dense model first."""
    columns = _member_columns(data)
    several = devices(data)
    rows = [*([data.dense] if data.dense else []), *data.members]
    body = []
    for row in rows:
        cells: list[tuple[str, float | str]] = [
            (f"<b>{escape(row['member'])}</b>{_marks(data, row)}", str(row["member"]))
        ]
        cells += [(_cell(name, row), number(row.get(name))) for name, _ in columns]
        if several:
            fronts = ", ".join(fronts_of(data, row))
            cells.append((escape(fronts) or DASH, fronts))
        body.append((' class="dense"' if row is data.dense else "", cells))
    titles = [title for _, title in columns] + (["on the front of"] if several else [])
    return html_table(["member", *titles], body, "members")


def _member_columns(data: ReportData) -> list[tuple[str, str]]:
    """(column, title) of the columns that hold something, in the order of reading."""
    wanted: list[tuple[str, str]] = []
    for metric in data.record.metrics:
        wanted += [(metric, metric), (f"test_{metric}", f"{metric}, test")]
    for profile in dict.fromkeys(view.profile for view in data.views):
        at, of = (f"@{profile}", f" @{profile}") if profile else ("", "")
        for percentile in ("p50",) if profile else ("p50", "p95"):  # of several devices, only the middle of each
            wanted.append((f"latency_{percentile}_us{at}", f"predicted {percentile}{of}"))
            wanted.append((f"measured_latency_{percentile}_us{at}", f"measured {percentile}{of}"))
        wanted.append((f"speedup{at}", f"speed-up{of}"))
    wanted += [("params", "parameters"), ("macs", "MACs"), ("size_bytes", "weights"), ("onnx_bytes", "ONNX file")]
    wanted.append(("peak_memory_bytes", "peak memory"))
    rows = [*data.members, *([data.dense] if data.dense else [])]
    present = {name for row in rows for name, cell in row.items() if cell is not None}
    return [(name, title) for name, title in wanted if name in present]


def _cell(name: str, row: Row) -> str:
    value = number(row.get(name))
    base = name.partition("@")[0]
    if math.isnan(value):
        return DASH
    if base.endswith("_us"):
        return escape(format_us(value))
    if base.endswith("_bytes"):
        return escape(format_count(value, "B"))
    if base == "speedup":
        return f"{value:.2f}&times;"
    return escape(format_count(value) if base in ("params", "macs") else f"{value:.4f}".rstrip("0").rstrip("."))


def _marks(data: ReportData, row: Row) -> str:
    record = data.details.get(str(row["member"]))
    if record is None or not record.failures:
        return ""
    problems = "; ".join(f"{name}: {item.message}" for name, item in sorted(record.failures.items()))
    return f' <span class="warn" title="{escape(problems)}">!</span>'


def failures_list(data: ReportData) -> str:
    """What could not be published, member by member; empty where all was."""
    items = [
        f"<li><b>{escape(name)}</b>, {escape(stage)}: {escape(failure.message)}"
        f"{' ' + escape(failure.hint) if failure.hint else ''}</li>"
        for name, record in data.details.items()
        for stage, failure in sorted(record.failures.items())
    ]
    return f'<h3>Not published</h3><ul class="plain">{"".join(items)}</ul>' if items else ""


def budget_table(data: ReportData, view: View) -> str:
    """The staircase of one view as a table: the same that the slider shows."""
    steps = staircase(data, view)
    body = []
    for step, after in zip(steps, [*steps[1:], None], strict=False):  # nothing where no row has both numbers
        until = f" to {escape(format_us(after.latency_us))}" if after else " or more"
        kind = "measured" if step.row.get(view.measured) is not None else "predicted"
        params = number(step.row.get("params"))
        cells: list[tuple[str, float | str]] = [
            (f"{escape(format_us(step.latency_us))}{until}", step.latency_us),
            (f"<b>{escape(step.row['member'])}</b>", str(step.row["member"])),
            (quality_text(data, step.row), data.loss(step.row)),
            (quality_text(data, step.row, f"test_{data.metric}"), number(step.row.get(f"test_{data.metric}"))),
            (kind, kind),
            (DASH if math.isnan(params) else escape(format_count(params)), params),
        ]
        body.append((f' data-from="{step.latency_us!r}"', cells))
    return html_table(
        [f"budget for {view.percentile}", "deploy", "on validation", "on test", "latency", "parameters"], body, "budget"
    )


def ranking_table(data: ReportData) -> str:
    """How well the cheap stages rank what the dear ones decide; empty where there is nothing to compare."""
    body = []
    for found in data.ranking:
        label = f"{found.what}: {found.first} and {found.second}"
        cells: list[tuple[str, float | str]] = [(escape(label), label)]
        for value, text in ((found.kendall, ".2f"), (found.spearman, ".2f"), (found.error, ".1%")):
            cells.append((DASH, math.nan) if value is None else (format(value, text), value))
        cells.insert(3, (str(found.models), float(found.models)))
        body.append(("", cells))
    titles = ["compared", "Kendall's tau", "Spearman's rho", "models", "mean error"]
    return html_table(titles, body, "correlations") if body else ""


def facts(data: ReportData) -> str:
    """How the run was made, as a definition list."""
    record = data.record
    items: list[tuple[str, str]] = [
        ("objectives", ", ".join(record.objectives)),
        ("constraints", "; ".join(record.constraints)),
        ("profiles", ", ".join(record.profiles)),
        ("seed", str(record.seed)),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))),
        ("hashes", ", ".join(f"{name} {value}" for name, value in sorted(record.hashes.items()))),
    ]
    shown = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in items if value)
    config = ""
    if record.config:
        text = escape(json.dumps(record.config, indent=1, sort_keys=True, ensure_ascii=False))
        config = f"<details><summary>configuration as resolved</summary><pre>{text}</pre></details>"
    return f"<dl>{shown}</dl>{config}"

"""The report's figures as plotly data (plain dicts). Names that users gave are escaped: plotly reads a little HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from autoprune.artifacts.choice import number
from autoprune.artifacts.device import on_front
from autoprune.artifacts.report.data import ReportData, View
from autoprune.artifacts.table import Row
from autoprune.core.units import format_count, format_us
from autoprune.pareto.correlation import kendall_tau, mean_relative_error, paired

Figure: TypeAlias = dict[str, Any]

BLUE, ORANGE, GREY, INK, GREEN = "#2563eb", "#d97706", "#94a3b8", "#0f172a", "#059669"
_FONT = {"family": "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#334155"}
_AXIS = {
    "gridcolor": "#e9eef4",
    "zeroline": False,
    "linecolor": "#cbd5e1",
    "ticks": "outside",
    "tickcolor": "#cbd5e1",
    "automargin": True,
}


def escape(value: object) -> str:
    """Text for HTML, attributes included."""
    return html.escape(str(value), quote=True)


def label(value: object) -> str:
    """Text for plotly, which reads tags and the commonest entities but not those of quotes."""
    return html.escape(str(value), quote=False)


def layout(x_title: str, y_title: str, **extra: Any) -> Figure:
    """The look that all figures share; titles are escaped here."""
    base: Figure = {
        "font": _FONT,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 20, "t": 36, "b": 54},
        "xaxis": {**_AXIS, "title": {"text": label(x_title)}},
        "yaxis": {**_AXIS, "title": {"text": label(y_title)}},
        "legend": {
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "traceorder": "normal",
            "bgcolor": "rgba(0,0,0,0)",
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#cbd5e1", "activecolor": "#64748b"},
        "hoverlabel": {"bgcolor": "white", "bordercolor": "#cbd5e1", "font": {**_FONT, "size": 12}, "align": "left"},
    }
    for key, value in extra.items():
        base[key] = {**base[key], **value} if isinstance(base.get(key), dict) and isinstance(value, dict) else value
    return base


def _plain(values: Iterable[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _times(data: ReportData, view: View, rows: Iterable[Row], column: str | None = None) -> list[float | None]:
    """Latencies of rows in the view's unit: of a column, else measured where measured and predicted elsewhere."""
    scale = data.time_unit(view)[1]
    return _plain((number(row.get(column)) if column else view.latency_us(row)) / scale for row in rows)


def front_figure(data: ReportData, view: View) -> Figure:
    """Quality against latency: trials, predicted and measured members, the dense model."""
    traces = [_trial_trace(data, view)] if data.trials else []
    traces += [*_shift_traces(data, view), *_member_traces(data, view)]
    if data.dense:
        traces.append(_dense_trace(data, data.dense, view))
    device = f" on {view.profile}" if view.profile else ""
    unit, scale = data.time_unit(view)
    return {
        "data": traces,
        "layout": layout(
            f"latency {view.percentile}{device}, {unit}", data.quality_title, height=480,
            hovermode="closest", meta={"us": scale},
            xaxis=_range("x", data, view), yaxis=_range("y", data, view),
        ),
    }  # fmt: skip


def _trial_trace(data: ReportData, view: View) -> Figure:
    rows = [row for row in data.trials if row.get(data.metric) is not None]
    text = [
        f"trial {label(row.get('number', '?'))}, {label(row.get('origin') or 'sampler')}"
        + (f"<br>stopped after {row['raced_out']} samples as surely dominated" if row.get("raced_out") else "")
        for row in rows
    ]
    return {
        "type": "scatter", "mode": "markers", "name": f"trials ({len(rows)}), before fine-tuning",
        "x": _times(data, view, rows, view.predicted), "y": _plain(data.quality(row) for row in rows),
        "text": text,
        "hovertemplate": f"%{{text}}<br>%{{x:.4g}} {data.time_unit(view)[0]} predicted, %{{y:.4g}}<extra></extra>",
        "marker": {"size": 5, "color": GREY, "opacity": 0.45},
    }  # fmt: skip


def _shift_traces(data: ReportData, view: View) -> list[Figure]:
    """Where measurements differ from predictions: the predicted places, hollow, each tied to the measured one."""
    rows = [row for row in data.members if row.get(view.measured) is not None and row.get(view.predicted) is not None]
    if not rows:
        return []
    ties_x: list[float | None] = []
    ties_y: list[float | None] = []
    for row in rows:
        ties_x += [*_times(data, view, [row], view.predicted), *_times(data, view, [row], view.measured), None]
        ties_y += [*_plain([data.quality(row), data.quality(row)]), None]
    names = [label(row["member"]) for row in rows]
    return [
        {
            "type": "scatter", "mode": "lines", "x": ties_x, "y": ties_y, "hoverinfo": "skip", "showlegend": False,
            "line": {"color": "#93c5fd", "width": 1.2},
        },
        {
            "type": "scatter", "mode": "markers", "name": "members, predicted latency", "text": names,
            "x": _times(data, view, rows, view.predicted), "y": _plain(data.quality(row) for row in rows),
            "hovertemplate": f"%{{text}}<br>%{{x:.4g}} {data.time_unit(view)[0]} predicted<extra></extra>",
            "marker": {"size": 8, "color": "white", "line": {"color": "#60a5fa", "width": 1.5}},
        },
    ]  # fmt: skip


def _member_traces(data: ReportData, view: View) -> list[Figure]:
    """The members of this device's front, joined; those that are members for other devices' sake, apart."""
    rows = sorted(data.members, key=lambda row: (view.latency_us(row), str(row["member"])))
    measured = any(row.get(view.measured) is not None for row in rows)
    on = [row for row in rows if on_front(row, view.profile)]
    traces: list[Figure] = [
        {
            "type": "scatter", "mode": "lines+markers", "meta": "members", "ids": [str(row["member"]) for row in on],
            "name": f"members, {'measured' if measured else 'predicted'} latency",
            "text": [_hover(data, row, view) for row in on],
            "x": _times(data, view, on), "y": _plain(data.quality(row) for row in on),
            "hovertemplate": "%{text}<extra></extra>", "line": {"color": BLUE, "width": 1.6, "shape": "hv"},
            "marker": {"size": 10, "opacity": 1, "color": BLUE, "line": {"color": "white", "width": 1}},
        }
    ]  # fmt: skip
    apart = [row for row in rows if not on_front(row, view.profile)]
    if apart:
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": "members of other devices' fronts",
                "text": [_hover(data, row, view) for row in apart],
                "x": _times(data, view, apart), "y": _plain(data.quality(row) for row in apart),
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"size": 9, "symbol": "diamond-open", "color": BLUE, "line": {"width": 1.4}},
            }
        )  # fmt: skip
    return traces


def _dense_trace(data: ReportData, dense: Row, view: View) -> Figure:
    return {
        "type": "scatter", "mode": "markers", "name": "dense", "x": _times(data, view, [dense]),
        "y": _plain([data.quality(dense)]), "text": [_hover(data, dense, view)],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": 15, "symbol": "star", "color": ORANGE, "line": {"color": "white", "width": 1}},
    }  # fmt: skip


def _hover(data: ReportData, row: Row, view: View) -> str:
    lines = [f"<b>{label(row['member'])}</b>"]
    for metric in data.record.metrics:
        for column, where in ((metric, "validation"), (f"test_{metric}", "test")):
            if row.get(column) is not None:
                lines.append(f"{label(metric)} {number(row[column]):.4g} on {where}")
    for column, what in ((view.measured, "measured"), (view.predicted, "predicted")):
        if row.get(column) is not None:
            lines.append(f"{format_us(number(row[column]))} {what}")
    for column, suffix in (("params", " parameters"), ("macs", " MACs")):
        if row.get(column) is not None:
            lines.append(f"{format_count(number(row[column]))}{suffix}")
    return "<br>".join(lines)


def _range(axis: str, data: ReportData, view: View) -> Figure:
    """A range that shows members and dense well: untrained trials reach far beyond and would press the front flat."""
    everyone = [*data.members, *([data.dense] if data.dense else [])]
    scale = data.time_unit(view)[1]
    values = [view.latency_us(row) / scale if axis == "x" else data.quality(row) for row in everyone]
    if axis == "x":
        values += [number(row.get(view.predicted)) / scale for row in everyone]
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return {}
    low, high = min(finite), max(finite)
    span = (high - low) or abs(high) or 1.0
    if axis == "x":
        return {"range": [max(0.0, low - 0.1 * span), high + 0.08 * span]}
    below, above = (0.6, 0.12) if data.rising and not data.as_error else (0.12, 0.6)
    floor = 0.0 if low >= 0 else -math.inf
    ceiling = 104.0 if data.as_error else math.inf
    return {"range": [max(floor, low - below * span), min(ceiling, high + above * span)]}


def prediction_figure(data: ReportData, view: View) -> Figure | None:
    """Measured against predicted latency with the identity line; None where nothing was measured."""
    everyone = [*data.members, *([data.dense] if data.dense else [])]
    rows = [row for row in everyone if row.get(view.measured) is not None and row.get(view.predicted) is not None]
    if not rows:
        return None
    predicted = [number(row[view.predicted]) for row in rows]
    measured = [number(row[view.measured]) for row in rows]
    unit, scale = data.time_unit(view)
    low, high = 0.92 * min(*predicted, *measured) / scale, 1.08 * max(*predicted, *measured) / scale
    identity = {
        "type": "scatter", "mode": "lines", "name": "identity", "x": [low, high], "y": [low, high], "hoverinfo": "skip",
        "line": {"color": GREY, "dash": "dash", "width": 1.2},
    }  # fmt: skip
    error, tau = mean_relative_error(predicted, measured), kendall_tau(*paired(predicted, measured))
    tau_text = "" if math.isnan(tau) else f", Kendall's tau {tau:.2f}"
    note = {
        "text": f"mean error {error:.1%}{tau_text}, {len(rows)} models", "xref": "paper", "yref": "paper", "x": 0.98,
        "y": 0.04, "xanchor": "right", "showarrow": False, "bgcolor": "rgba(255,255,255,.8)",
    }  # fmt: skip
    axes = {"range": [low, high]}
    return {
        "data": [identity, _prediction_trace(data, view, rows)],
        "layout": layout(
            f"predicted {view.percentile}, {unit}", f"measured {view.percentile}, {unit}", height=400, xaxis=axes,
            yaxis=axes, annotations=[note], showlegend=False,
        ),
    }  # fmt: skip


def _prediction_trace(data: ReportData, view: View, rows: Sequence[Row]) -> Figure:
    """One point a model; horizontal bars reach as far as the profile says the prediction may be off."""
    text = []
    for row in rows:
        p, m = number(row[view.predicted]), number(row[view.measured])
        values = f"{format_us(p)} predicted<br>{format_us(m)} measured<br>error {(p - m) / m:+.1%}"
        text.append(f"<b>{label(row['member'])}</b><br>{values}")
    scale = data.time_unit(view)[1]
    below, above = zip(*(view.interval_us(row) for row in rows), strict=True)
    trace: Figure = {
        "type": "scatter", "mode": "markers", "name": "members and dense", "text": text,
        "x": _times(data, view, rows, view.predicted), "y": _times(data, view, rows, view.measured),
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "size": 10, "color": [ORANGE if row is data.dense else BLUE for row in rows],
            "line": {"color": "white", "width": 1},
        },
    }  # fmt: skip
    if any(math.isfinite(value) for value in (*below, *above)):
        trace["error_x"] = {
            "type": "data", "symmetric": False, "array": _plain(value / scale for value in above),
            "arrayminus": _plain(value / scale for value in below), "color": "#93c5fd",
            "thickness": 1.2, "width": 3,
        }  # fmt: skip
    return trace


def widths_figure(data: ReportData) -> Figure | None:
    """Share of units kept, one row a group and one column a member, the fastest first; None without recipes."""
    names = [str(row["member"]) for row in _by_latency(data) if row["member"] in data.widths]
    sizes = data.group_sizes
    if not names or not sizes:
        return None
    groups = list(sizes)
    kept = [[data.widths[name].get(group, sizes[group]) for name in names] for group in groups]
    text = [
        [
            f"{label(name)}<br>{label(group)}<br>keeps {width} of {sizes[group]}"
            for name, width in zip(names, row, strict=True)
        ]
        for group, row in zip(groups, kept, strict=True)
    ]
    shares = [
        [width / sizes[group] if sizes[group] else 0.0 for width in row]
        for group, row in zip(groups, kept, strict=True)
    ]
    cells = [[str(width) for width in row] for row in kept] if len(groups) <= 40 and len(names) <= 16 else None
    trace: Figure = {
        "type": "heatmap", "z": shares, "x": [label(name) for name in names], "hovertext": text,
        "y": [f"{label(group)}  ({sizes[group]})" for group in groups], "zmin": 0.0, "zmax": 1.0, "xgap": 2, "ygap": 2,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "colorscale": [[0, "#f1f5f9"], [0.25, "#bfdbfe"], [0.5, "#60a5fa"], [0.75, "#2563eb"], [1, "#1e3a8a"]],
        "colorbar": {"title": {"text": "kept"}, "tickformat": ".0%", "thickness": 12, "outlinewidth": 0},
    }  # fmt: skip
    if cells:
        trace |= {"text": cells, "texttemplate": "%{text}"}
    axis = {"type": "category", "showgrid": False, "ticks": ""}
    return {
        "data": [trace],
        "layout": layout(
            "", "", height=110 + round(min(40.0, max(22.0, 220.0 / len(groups))) * len(groups)),
            xaxis={**axis, "side": "top"},
            yaxis={**axis, "autorange": "reversed", "automargin": True}, margin={"l": 40, "r": 20, "t": 60, "b": 20},
        ),
    }  # fmt: skip


def provenance_figure(data: ReportData, profile: str) -> Figure | None:
    """How much of each predicted latency rests on measured, interpolated and estimated kernels; None where unknown."""
    suffix = f"@{profile}" if profile else ""
    kinds = {"measured": GREEN, "interpolated": BLUE, "estimated": ORANGE}
    columns = [f"share_{kind}{suffix}" for kind in kinds]
    everyone = [*_by_latency(data), *([data.dense] if data.dense else [])]
    rows = [row for row in everyone if any(row.get(column) is not None for column in columns)]
    if not rows:
        return None
    names = [label(row["member"]) for row in rows]
    traces = [
        {
            "type": "bar", "orientation": "h", "name": kind, "y": names, "marker": {"color": color},
            "x": _plain(number(row.get(column)) for row in rows),
            "hovertemplate": f"%{{y}}: %{{x:.1%}} {kind}<extra></extra>",
        }
        for column, (kind, color) in zip(columns, kinds.items(), strict=True)
    ]  # fmt: skip
    return {
        "data": traces,
        "layout": layout(
            "share of the predicted latency", "", barmode="stack", height=max(220, 120 + 24 * len(rows)),
            xaxis={"tickformat": ".0%", "range": [0, 1]},
            yaxis={"type": "category", "autorange": "reversed", "automargin": True},
        ),
    }  # fmt: skip


def _by_latency(data: ReportData) -> Sequence[Row]:
    if not data.views:
        return data.members
    view = data.views[0]
    return sorted(data.members, key=lambda row: (view.latency_us(row), str(row["member"])))

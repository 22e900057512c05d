"""Several devices beside each other: what each member gains on each of them."""

from __future__ import annotations

import math

from autoprune.artifacts.choice import number
from autoprune.artifacts.device import ON_FRONT
from autoprune.artifacts.report.data import ReportData
from autoprune.artifacts.report.figures import Figure, label, layout
from autoprune.artifacts.table import Row

_MARK = "\u25cf"  # a filled circle: on that device's front


def devices(data: ReportData) -> tuple[str, ...]:
    """The profiles of a run that has several; none where it has one."""
    return data.record.profiles if len(data.record.profiles) > 1 else ()


def fronts_of(data: ReportData, row: Row) -> tuple[str, ...]:
    """The devices on whose front a member is, as far as the run says."""
    return tuple(profile for profile in devices(data) if row.get(f"{ON_FRONT}@{profile}") == 1)


def devices_figure(data: ReportData) -> Figure | None:
    """The joint front: speed-up over the dense model, one row a member (the best quality first), one column a device.

    None where there is one device only, or no speed-up is known.
    """
    profiles = devices(data)
    rows = sorted(data.members, key=lambda row: (data.loss(row), str(row["member"])))
    gains = [[number(row.get(f"speedup@{profile}")) for profile in profiles] for row in rows]
    known = [gain for each in gains for gain in each if math.isfinite(gain)]
    if not profiles or not known:
        return None
    shown = [
        [_text(row, profile, gain) for profile, gain in zip(profiles, each, strict=True)]
        for row, each in zip(rows, gains, strict=True)
    ]
    names = [f"{label(row['member'])}  ({_quality(data, row)})" for row in rows]
    axis = {"type": "category", "showgrid": False, "ticks": ""}
    return {
        "data": [
            {
                "type": "heatmap", "z": [[g if math.isfinite(g) else None for g in each] for each in gains],
                "x": [label(profile) for profile in profiles], "y": names, "text": shown, "texttemplate": "%{text}",
                "hovertemplate": "%{y}<br>%{x}: %{text}<extra></extra>", "xgap": 2, "ygap": 2, "showscale": False,
                "zmin": min(1.0, *known), "zmax": max(known) * 1.6,
                "colorscale": [[0, "#f1f5f9"], [0.5, "#bfdbfe"], [1, "#2563eb"]],
            }
        ],
        "layout": layout(
            "", "", height=110 + 30 * len(rows), xaxis={**axis, "side": "top"},
            yaxis={**axis, "autorange": "reversed", "automargin": True}, margin={"l": 40, "r": 20, "t": 60, "b": 20},
        ),
    }  # fmt: skip


def _text(row: Row, profile: str, gain: float) -> str:
    mark = f" {_MARK}" if row.get(f"{ON_FRONT}@{profile}") == 1 else ""
    return f"{gain:.2f}\u00d7{mark}" if math.isfinite(gain) else ""


def _quality(data: ReportData, row: Row) -> str:
    value = number(row.get(data.metric))
    return f"{100 * value:.2f} %" if data.as_error else f"{value:.4g}"

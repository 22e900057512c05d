"""The picture of the front benchmark: fronts, and hypervolume against evaluations, a row a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from benchmarks.front_bench import Floats, front
from benchmarks.front_methods import PEERS
from benchmarks.front_parts import evaluated

SHOWN = 6  # peers, the best ones
OURS = "ours"


class Drawn(Protocol):
    """Parts of a task, as a picture needs them."""

    name: str
    parts: dict[tuple[str, int, str], dict[str, Any]]
    curves: dict[str, dict[int, Floats]]


def draw(tasks: Sequence[Drawn], path: Path) -> str:
    """Write `path`.html, and `path`.png where plotly can (package `kaleido`); returns what was written."""
    titles = [title for task in tasks for title in (f"{task.name}: fronts", f"{task.name}: hypervolume")]
    figure = make_subplots(len(tasks), 2, subplot_titles=titles, horizontal_spacing=0.09)
    colours: dict[str, str] = {OURS: "black"}
    for row, task in enumerate(tasks, start=1):
        for name in shown(task.curves):
            free = qualitative.Plotly[(len(colours) - 1) % len(qualitative.Plotly)]
            style = {"color": colours.setdefault(name, free)}
            _add_front(figure, row, task, name, style)
            _add_curve(figure, row, task.curves[name], name, style, first=row == 1)
        figure.update_xaxes(title="predicted latency, share of dense", row=row, col=1)
        figure.update_yaxes(title="error on validation", row=row, col=1)
        figure.update_xaxes(title="evaluations", type="log", row=row, col=2)
        figure.update_yaxes(title="hypervolume, mean over seeds", row=row, col=2)
    figure.update_layout(template="plotly_white", width=1300, height=460 * len(tasks))
    page = path.with_suffix(".html")
    figure.write_html(page, include_plotlyjs=True)
    try:
        figure.write_image(path.with_suffix(".png"))
    except (ValueError, ImportError, RuntimeError) as error:
        return f"{page} (no PNG: {str(error).strip().splitlines()[0]})"
    return f"{page}, {path.with_suffix('.png')}"


def shown(curves: Mapping[str, Mapping[int, Floats]]) -> list[str]:
    """Ours, and the best peers of each family (what stands before the first dash)."""

    def final(name: str) -> float:
        return float(np.mean([rows[-1, 1] for rows in curves[name].values()]))

    peers = sorted((name for name in curves if name in PEERS), key=final, reverse=True)
    families: dict[str, str] = {}
    for name in peers:
        families.setdefault(name.partition("-")[0], name)
    chosen = list(dict.fromkeys([*families.values(), *peers]))[:SHOWN]
    return [name for name in (OURS, *chosen) if name in curves]


def mean_curve(curves: Mapping[int, Floats]) -> Floats:
    """The mean over seeds of what was reached at every whole number of evaluations.  # (n, 2)"""
    last = int(max(rows[-1, 0] for rows in curves.values()))
    at = np.arange(1, max(last, 1) + 1, dtype=np.float64)
    values = [rows[np.searchsorted(rows[:, 0], at, side="right") - 1, 1] for rows in curves.values()]
    return np.stack([at, np.mean(values, axis=0)], axis=1)


def _add_front(figure: Any, row: int, task: Drawn, name: str, style: dict[str, str]) -> None:
    seed = min(task.curves[name])
    data = task.parts[name, seed, ""]
    members = front(evaluated(data))
    x = [item.latency_us / data["dense"]["latency_us"] for item in members]
    y = [item.error for item in members]
    figure.add_scatter(
        x=x, y=y, mode="lines+markers", marker=style, line={**style, "shape": "hv"}, legendgroup=name,
        showlegend=False, row=row, col=1,
    )  # fmt: skip


def _add_curve(
    figure: Any, row: int, curves: Mapping[int, Floats], name: str, style: dict[str, str], first: bool
) -> None:
    rows = mean_curve(curves)
    figure.add_scatter(
        x=rows[:, 0], y=rows[:, 1], mode="lines", line={**style, "shape": "hv"}, name=name, legendgroup=name,
        showlegend=first, row=row, col=2,
    )  # fmt: skip

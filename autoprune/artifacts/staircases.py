"""A profile as a page: time against width, family by family; measured points and what is predicted between them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoprune.artifacts.report.figures import Figure, escape, label, layout
from autoprune.artifacts.report.page import POLICY, plotly_script, resource, script_json
from autoprune.core.errors import InputError
from autoprune.core.files import write_text
from autoprune.core.units import format_us
from autoprune.graph.kernel import Kernel
from autoprune.hardware.analytical_estimate import Estimator
from autoprune.hardware.analytical_shapes import Shape, Shapes
from autoprune.hardware.interpolation import INTERPOLATED, FamilyTable, Floats, Integers
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.latency import STAIRCASE
from autoprune.hardware.profile import HardwareProfile
from autoprune.hardware.profiling import kernel_work
from autoprune.hardware.surface import Surface

FAMILIES = 24  # that are drawn: those that take longest
LINES = 4  # of a figure: levels of the other widths
POINTS = 160  # of an interpolated line
FEWER_POINTS = 64  # the same where each point's work is worked out
COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed")
MARKS = {
    "measured": "Dots were timed; lines are what is predicted.",
    "imported": "Dots were timed by others; lines are what is predicted.",
    "analytical": "Nothing here was timed: dots and lines are what an analytical model estimates.",
}
_OPERATION = re.compile(r"=([a-z_0-9]+)\.")
_SHAPE = re.compile(r":\(([^()]*)\)")
_SCRIPT = """
const figures = JSON.parse(document.getElementById('data').textContent);
for (const [id, figure] of Object.entries(figures))
  Plotly.newPlot(id, figure.data, figure.layout, {responsive: true, displaylogo: false, displayModeBar: false});
"""
_STYLE = """
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); gap: 18px;
  margin-top: 20px; }
.plots section { margin-top: 0; min-width: 0; padding: 18px 20px 8px; }
.plots h2 { font-size: 16px; }
.plots .hint { overflow-wrap: anywhere; }
.plot { min-height: 320px; }
"""


@dataclass(frozen=True)
class Family:
    """The rows of one family that hold times.

    Attributes:
        text: the family.
        operator: its class.
        alone, inside: rows by where they were timed.
    """

    text: str
    operator: str
    alone: tuple[KernelRow, ...]
    inside: tuple[KernelRow, ...]

    @property
    def longest_us(self) -> float:
        """Of its kernels."""
        return max(row.p50_us for row in (*self.alone, *self.inside))


def write_staircases(profile: HardwareProfile, path: Path) -> None:
    """Write one self-contained page that draws a profile's times against widths, longest families first.

    Raises:
        InputError: the profile has no kernels with widths, or the file cannot be written.
    """
    write_text(path, render(profile))


def families_of(profile: HardwareProfile) -> list[Family]:
    """The families that have widths and times, longest first."""
    rows: dict[str, list[KernelRow]] = {}
    for row in profile.kernels:
        if row.sizes and not row.failure:
            rows.setdefault(row.family, []).append(row)
    found = [
        Family(
            text,
            own[0].operator,
            tuple(row for row in own if row.within == "alone"),
            tuple(row for row in own if row.within == "model"),
        )
        for text, own in rows.items()
    ]
    return sorted(found, key=lambda family: (-family.longest_us, family.text))


def render(profile: HardwareProfile) -> str:
    """The page as text.

    Raises:
        InputError: the profile has no kernels with widths.
    """
    families = families_of(profile)
    if not families:
        raise InputError(f"picture of '{profile.name}': expected kernels with widths, got none. Nothing can be drawn.")
    drawn = families[:FAMILIES]
    predictor = Predictor(profile)
    figures = {f"family-{number}": figure(family, predictor) for number, family in enumerate(drawn)}
    more = f" The {len(drawn)} of {len(families)} families that take longest." if len(families) > len(drawn) else ""
    sections = "".join(
        f"<section><h2>{escape(title(family))}</h2><p class=hint>{escape(shapes(family))}</p>"
        f'<div id="family-{number}" class="plot"></div></section>'
        for number, family in enumerate(drawn)
    )
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(profile.name)} - staircases</title>",
            f"<style>{resource('page.css')}{_STYLE}</style></head><body><main>",
            f'<header><p class="kicker">Autoprune hardware profile</p><h1>{escape(profile.name)}</h1>',
            f'<p class="lead">{escape(_about(profile))}{more}</p><div class="cards">{_cards(profile)}</div></header>',
            f'<div class="plots">{sections}</div></main>',
            f"<script>{plotly_script()}</script>",
            f'<script id="data" type="application/json">{script_json(figures)}</script>',
            f"<script>{_SCRIPT}</script></body></html>\n",
        ]
    )


def title(family: Family) -> str:
    """`pointwise: conv2d + relu`."""
    return f"{family.operator}: {' + '.join(_OPERATION.findall(family.text)) or 'kernel'}"


def shapes(family: Family) -> str:
    """`x0 (1, c0, 28, 28), y1 (1, c1, 28, 28)`: what comes in, and the last result."""
    parts = [part for part in family.text.split(";") if ":" in part]
    shown = [part for part in parts if part.startswith("x")] + [part for part in parts if part.startswith("y")][-1:]
    named = []
    for part in shown:
        found = _SHAPE.search(part)
        named.append(f"{part.partition(':')[0]} ({found[1].replace(',', ', ')})" if found else part[:40])
    return " → ".join((", ".join(named[:-1]), named[-1])) if len(named) > 1 else "".join(named)


def figure(family: Family, predictor: Predictor) -> Figure:
    """Time against the width that has most levels; the others at a few levels, one colour each."""
    rows = family.alone or family.inside
    sizes = np.array([row.sizes for row in rows], dtype=np.int64)
    axis = _main_axis(sizes)
    traces: list[Figure] = []
    for colour, others in zip(COLOURS, _levels(sizes, axis), strict=False):
        traces += _line(family, predictor, axis, others, colour)
    return {
        "data": traces,
        "layout": layout(
            f"width c{axis}", "time, µs", height=320, margin={"l": 58, "r": 12, "t": 30, "b": 48},
            legend={"font": {"size": 12}},
            xaxis={"rangemode": "tozero"}, yaxis={"rangemode": "tozero"},
        ),
    }  # fmt: skip


def _main_axis(sizes: Integers) -> int:
    return max(range(sizes.shape[1]), key=lambda axis: (len(np.unique(sizes[:, axis])), sizes[:, axis].max()))


def _levels(sizes: Integers, axis: int) -> list[tuple[int, ...]]:
    """Combinations of the other widths that have most points, widest first."""
    others = np.delete(sizes, axis, axis=1)
    unique, counts = np.unique(others, axis=0, return_counts=True)
    full = unique[counts >= max(2, int(0.6 * counts.max()))] if counts.max() > 1 else unique
    order = full[np.argsort(full.prod(axis=1), kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(LINES, len(order))).round().astype(int))
    return [tuple(int(width) for width in order[place]) for place in places[::-1]]


def _line(family: Family, predictor: Predictor, axis: int, others: Sequence[int], colour: str) -> list[Figure]:
    """Points and the line between them, at one level of the other widths."""
    rest = [place for place in range(len(others) + 1) if place != axis]
    name = ", ".join(f"c{place} {width}" for place, width in zip(rest, others, strict=True))
    traces: list[Figure] = []
    for rows, where in ((family.alone, "alone"), (family.inside, "inside models")):
        own = sorted(
            (row for row in rows if tuple(row.sizes[place] for place in rest) == tuple(others)),
            key=lambda row: row.sizes[axis],
        )
        if own:
            traces.append(_points(own, axis, name, where, colour))
    known = {row.sizes[axis] for row in (*family.alone, *family.inside)}
    low = min(known) if len(known) > 2 else max(max(known) // 8, 1)  # an analytical profile has only dense widths
    widths = np.unique(np.linspace(low, max(known), predictor.points).round().astype(np.int64))
    sizes = np.insert(np.tile(np.array(others, dtype=np.int64), (len(widths), 1)), axis, widths, axis=1)
    times = predictor.times_us(family, sizes)
    line = {
        "type": "scatter", "mode": "lines", "name": name, "legendgroup": name, "showlegend": bool(others),
        "x": widths.tolist(), "y": [float(time) if np.isfinite(time) else None for time in times],
        "line": {"color": colour, "width": 1.4}, "opacity": 0.75,
        "hovertemplate": "%{x}: %{y:.4g} µs predicted<extra></extra>",
    }  # fmt: skip
    return [line, *traces]


def _points(rows: Sequence[KernelRow], axis: int, name: str, where: str, colour: str) -> Figure:
    inside = where != "alone"
    return {
        "type": "scatter", "mode": "markers", "legendgroup": name, "showlegend": False,
        "x": [row.sizes[axis] for row in rows], "y": [row.p50_us for row in rows],
        "marker": {
            "color": "white" if inside else colour, "size": 7 if inside else 6,
            "symbol": "diamond" if inside else "circle", "line": {"color": colour, "width": 1.5 if inside else 0},
        },
        "hovertemplate": f"%{{x}}: %{{y:.4g}} µs {label(where)}<extra></extra>",
    }  # fmt: skip


class Predictor:
    """What a profile predicts for kernels at any widths, as `LatencyTable` does for those of a model.

    Attributes:
        points: that a line is worth: fewer where the work of each kernel has to be worked out.
    """

    def __init__(self, profile: HardwareProfile) -> None:
        self._profile = profile
        model = profile.header.analytical
        known = [row for row in profile.kernels if row.provenance != "analytical" and not row.failure]
        self._estimator = None if model is None else Estimator(model, known)
        self.points = POINTS if self._estimator is None and profile.header.within == "alone" else FEWER_POINTS

    def times_us(self, family: Family, sizes: Integers) -> Floats:
        """Times at some widths; NaN where nothing is near.  # (n,)

        Args:
            family: which.
            sizes: (n, d)
        """
        kernels = [Kernel(family.text, tuple(row)) for row in sizes.tolist()]
        if self._estimator is not None:
            return self._estimator.estimate_us(family.operator, Shapes.of([Shape.of(kernel) for kernel in kernels]))
        quantum, header = self._profile.alignment_quantum, self._profile.header
        surface = Surface.of(family.inside, quantum) if header.within == "model" else None
        if surface is not None:
            work = np.array([kernel_work(kernel) for kernel in kernels])
            return surface.predict(sizes, work[:, 0], work[:, 1])[0]
        if not family.alone:
            return np.full(len(sizes), np.nan)
        table = FamilyTable.of(family.alone)
        times, kinds = table.predict(sizes)
        between = kinds == INTERPOLATED
        if family.operator in STAIRCASE and between.any():
            times[between] = table.predict(table.within_step(sizes[between], quantum))[0]
        return times * header.context.get(family.operator, 1.0)


def _about(profile: HardwareProfile) -> str:
    header = profile.header
    what = f"{header.device.processor or header.device.name}, {header.runtime.name} {header.runtime.version}"
    if header.within == "model":
        marks = "Dots were timed alone, diamonds inside whole models; lines are what is predicted."
    else:
        marks = MARKS[header.provenance]
    return f"{what}: median time of each kernel against its width. {marks}"


def _cards(profile: HardwareProfile) -> str:
    header = profile.header
    residuals = header.validation.residuals.get("p50")
    error = f"{residuals.mean_absolute:.1%}" if residuals else "unknown"
    failed = sum(bool(row.failure) for row in profile.kernels)
    timed = [row for row in profile.kernels if not row.failure]
    counted = f"{failed} failed" if failed else f"{format_us(min(r.p50_us for r in timed))} the shortest"
    cards = (
        ("provenance", header.provenance, header.created),
        ("kernels", str(len(timed)), counted),
        ("settings", f"{header.precision}, {header.threads} thread{'s' if header.threads > 1 else ''}",
         f"batch {header.batch}, {header.layout}"),
        ("alignment quantum", str(header.alignment_quantum), "widths that are multiples pay"),
        ("error at the median", error, f"{header.validation.models} whole models left out in turn"),
    )  # fmt: skip
    return "".join(
        f'<div class="card"><div class="label">{escape(name)}</div><div class="figure">{escape(value)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for name, value, note in cards
    )

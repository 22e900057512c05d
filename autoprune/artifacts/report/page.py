"""Assembles the page: one file, plotly inlined, nothing fetched."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autoprune.artifacts.layout import REPORT
from autoprune.artifacts.report import tables
from autoprune.artifacts.report.budget import start_us
from autoprune.artifacts.report.data import ReportData, View, load_report_data
from autoprune.artifacts.report.devices import devices_figure
from autoprune.artifacts.report.figures import escape, front_figure, prediction_figure, provenance_figure, widths_figure
from autoprune.core.errors import AutopruneError
from autoprune.core.files import write_text

# Nothing may be loaded from anywhere, whatever stands in the page.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


def write_report(run: str | Path) -> Path:
    """Write `report.html` from what lies in a run folder.

    Returns:
        The file written.

    Raises:
        InputError: no run folder, no front in it, a file of it that does not fit, or a folder that cannot be written.
    """
    folder = Path(run)
    text = render(load_report_data(folder))
    write_text(folder / REPORT, text)
    return folder / REPORT


def render(data: ReportData) -> str:
    """The page as text."""
    figures = _figures(data)
    payload = {
        "figures": figures,
        "budgets": {view.key: tables.budget_table(data, view) for view in data.views},
        "start_us": {view.key: start_us(data, view) for view in data.views},
    }
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(data.name)} - Autoprune report</title><style>{resource('page.css')}</style></head>",
            "<body><main>",
            _header(data),
            _front_section(data),
            _figure_section(
                "devices",
                "Device by device",
                "Speed-up over the dense model; a dot marks the members of that device's own front. All of them "
                "together are the joint front.",
                figures,
            ),
            _section("Members", tables.members_table(data) + tables.failures_list(data), "Click a heading to sort."),
            _figure_section(
                "widths", "Widths per layer", "Share of units each member keeps, fastest member first.", figures
            ),
            _prediction_section(data, figures),
            _section("How it was made", tables.facts(data)),
            "</main>",
            f"<script>{plotly_script()}</script>",
            f'<script id="data" type="application/json">{script_json(payload)}</script>',
            f"<script>{resource('page.js')}</script></body></html>\n",
        ]
    )


def script_json(data: object) -> str:
    """JSON that is safe inside `<script>`: no `<`, `>` or `&` is left that could close the tag or open a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), sort_keys=True)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _figures(data: ReportData) -> dict[str, Any]:
    profiles = dict.fromkeys(view.profile for view in data.views)
    figures: dict[str, Any] = {f"front-{view.key}": front_figure(data, view) for view in data.views}
    figures |= {f"prediction-{view.key}": prediction_figure(data, view) for view in data.views}
    figures |= {f"provenance-{profile}": provenance_figure(data, profile) for profile in profiles}
    figures |= {"devices": devices_figure(data), "widths": widths_figure(data)}
    return {name: figure for name, figure in figures.items() if figure}


def _header(data: ReportData) -> str:
    profiles = ", ".join(data.record.profiles)
    count = len(data.members)
    about = f"{count} model{'' if count == 1 else 's'} on the Pareto front" + (f" for {profiles}" if profiles else "")
    notes = "".join(f"<li>{escape(note)}</li>" for note in data.record.notes)
    return (
        f'<header><p class="kicker">Autoprune report</p><h1>{escape(data.name)}</h1>'
        f'<p class="lead">{escape(about)}.</p>'
        f'<div class="cards">{tables.cards(data)}</div>'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "</header>"
    )


def _front_section(data: ReportData) -> str:
    if not data.views:
        return ""
    options = "".join(f'<option value="{escape(view.key)}">{escape(_view_title(view))}</option>' for view in data.views)
    budget = (
        "<h3>What to deploy for a budget</h3>"
        '<p class="hint">Slide to the latency you can afford; the row that fits is marked.</p>'
        '<div class="slider">'
        '<input id="slider" type="range" min="0" max="1000" value="1000" aria-label="latency budget">'
        '<output id="chosen"></output></div><div id="budgets">' + tables.budget_table(data, data.views[0]) + "</div>"
    )
    return _section(
        "The front",
        f'<label class="view">latency <select id="view">{options}</select></label>'
        f'<div id="front" class="plot"></div>{budget}',
        "Down and to the left is better. Drag to zoom, double-click to see everything."
        if data.as_error or not data.rising
        else "Up and to the left is better. Drag to zoom, double-click to see everything.",
    )


def _view_title(view: View) -> str:
    return view.percentile + (f" on {view.profile}" if view.profile else "")


def _prediction_section(data: ReportData, figures: dict[str, Any]) -> str:
    body = ""
    if any(name.startswith("prediction-") for name in figures):
        body += '<div id="prediction" class="plot"></div>'
    ranking = tables.ranking_table(data)
    if ranking:
        body += "<h3>Do the cheap stages rank like the dear ones?</h3>" + ranking
    if any(name.startswith("provenance-") for name in figures):
        body += "<h3>Where predicted latencies come from</h3>"
        body += (
            '<p class="hint">Shares of each prediction that rest on measured, interpolated and estimated kernels.</p>'
        )
        body += '<div id="provenance" class="plot"></div>'
    return _section("Can the figures be trusted?", body) if body else ""


def _figure_section(name: str, title: str, hint: str, figures: dict[str, Any]) -> str:
    return _section(title, f'<div id="{name}" class="plot"></div>', hint) if name in figures else ""


def _section(title: str, body: str, hint: str = "") -> str:
    return f"<section><h2>{title}</h2>{f'<p class=hint>{hint}</p>' if hint else ''}{body}</section>"


def resource(name: str) -> str:
    """A file that lies beside this one."""
    return files("autoprune.artifacts.report").joinpath(name).read_text(encoding="utf-8")


@cache
def plotly_script() -> str:
    """Plotly's code, safe inside `<script>`.

    Raises:
        AutopruneError: plotly is not installed.
    """
    # Found and read as a file: importing plotly takes longer than writing the report.
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise AutopruneError("report: expected the package plotly, got none. Install it: pip install plotly")
    text = Path(spec.origin).with_name("package_data").joinpath("plotly.min.js").read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script")

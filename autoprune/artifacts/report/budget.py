"""What to deploy for a given latency budget: a staircase of members."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoprune.artifacts.choice import number
from autoprune.artifacts.report.data import ReportData, View
from autoprune.artifacts.table import Row


@dataclass(frozen=True, eq=False)
class Step:
    """From `latency_us` on (and below the next step), `row` is the best that fits."""

    latency_us: float
    row: Row


def staircase(data: ReportData, view: View) -> tuple[Step, ...]:
    """The best member for every budget, fastest first; the dense model ends it where it is better than all members."""
    rows = [*data.members, *([data.dense] if data.dense else [])]
    known = [row for row in rows if math.isfinite(view.latency_us(row)) and math.isfinite(data.loss(row))]
    steps: list[Step] = []
    for row in sorted(known, key=lambda row: (view.latency_us(row), data.loss(row), str(row["member"]))):
        if not steps or data.loss(row) < data.loss(steps[-1].row):
            steps.append(Step(view.latency_us(row), row))
    return tuple(steps)


def fastest_within(data: ReportData, view: View, points: float) -> tuple[Row, float] | None:
    """The fastest member that loses at most `points` percentage points (or percent, where quality is no share).

    Returns:
        The row and its speed-up over the dense model; None where no member does or the dense latency is unknown.
    """
    if data.dense is None or not math.isfinite(view.latency_us(data.dense)):
        return None
    limit = data.loss(data.dense) + (points / 100.0 if data.as_error else abs(data.loss(data.dense)) * points / 100.0)
    fit = [row for row in data.members if data.loss(row) <= limit + 1e-12 and math.isfinite(view.latency_us(row))]
    if not fit:
        return None
    row = min(fit, key=lambda row: (view.latency_us(row), str(row["member"])))
    same_kind = row.get(view.measured) is not None and data.dense.get(view.measured) is not None
    column = view.measured if same_kind else view.predicted
    fast, slow = number(row.get(column)), number(data.dense.get(column))
    return (row, slow / fast) if math.isfinite(slow / fast) else None


def start_us(data: ReportData, view: View) -> float | None:
    """Where the slider starts: at the fastest member that loses about nothing, else at the fastest of all."""
    found = fastest_within(data, view, 1.0)
    if found:
        return view.latency_us(found[0])
    steps = staircase(data, view)
    return steps[0].latency_us if steps else None

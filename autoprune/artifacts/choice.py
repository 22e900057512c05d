"""Which member of a front: conditions on rows, quality that may go, preferences; and the nearest where none fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from autoprune.artifacts.records import RunRecord
from autoprune.artifacts.table import TEXT_COLUMNS, Cell, Row
from autoprune.core.errors import InputError, unknown_name
from autoprune.pareto import Condition, column, format_quantity, knee, parse_where
from autoprune.pareto.expression import AllOf, AnyOf, Comparison, Expression, comparisons
from autoprune.pareto.preference import parse_margin, parse_weights
from autoprune.pareto.selection import Constraint

WORDS = ("knee", "best", "fastest", "smallest")
"""Preferences with a name: the best trade, the best quality, the lowest of the latencies searched for, fewest bytes."""

_HIGHER = ("speedup",)


def higher_is_better(name: str, metrics: Sequence[str], minimize: Sequence[str]) -> bool:
    """Whether more of a column is better: the task's metrics unless minimised, and the speed-up; costs are not."""
    base = name.partition("@")[0]
    for prefix in ("test_", "before_"):
        base = base.removeprefix(prefix) if base not in metrics else base
    return base in _HIGHER or (base in metrics and base not in minimize)


def number(cell: Cell) -> float:
    """A cell as a number; NaN where it is missing or text."""
    return float(cell) if isinstance(cell, (int, float)) else math.nan


def value(row: Row, name: str) -> float:
    """What a name such as `latency_p50` stands for in a row: the measured value where there is one, else predicted."""
    present = [key for key, cell in row.items() if cell is not None]
    return number(row.get(column(name, present)))


def matching(rows: Sequence[Row], where: str, dense: Row | None, profiles: Sequence[str] = ()) -> list[int]:
    """Indices of the rows that meet `where`; `profiles` are the run's, for messages.

    Raises:
        InputError: it does not parse, names no column, or no row meets it; then the nearest member and its values
            are named.
    """
    columns = [name for name in _columns(rows, dense) if name not in TEXT_COLUMNS]
    condition = parse_where(where)
    for name in condition.names:
        if _lacks_profile(name, columns, profiles):
            raise unknown_column("where", name, columns, profiles)
    condition.check(columns)
    found = [index for index, row in enumerate(rows) if _matches(condition, row)]
    if found:
        return found
    distances = [_distance(condition.expression, row) for row in rows]
    nearest = rows[int(np.argmin(distances))]
    values = ", ".join(_shown(part.name, nearest) for part in _unique(condition))
    hint = " The dense model does, and needs no selection." if dense and _matches(condition, dense) else ""
    raise InputError(
        f"select: no member meets '{where}'. The nearest is '{nearest['member']}' with {values}.{hint} "
        "Loosen the condition, or search for longer."
    )


def within(
    rows: Sequence[Row], margin: str | float, dense: Row | None, record: RunRecord, front: Sequence[Row]
) -> list[int]:
    """Indices of the rows whose quality is at most `margin` worse than the dense model's.

    Args:
        rows: to choose among.
        margin: `1pt` (a hundredth, of a metric that is a share), `1%` (of the dense model's value) or a plain number.
        dense: the dense model's row; the best of `front` takes its place where there is none.
        record: how the run was made; its first metric is the quality.
        front: all members.

    Raises:
        InputError: no margin, points of a metric that is no share, or no row is that good; the nearest is named.
    """
    wanted, metric = parse_margin(margin), record.metrics[0]
    sign = -1.0 if higher_is_better(metric, record.metrics, record.minimize) else 1.0
    losses = [sign * number(row.get(metric)) for row in rows]
    everyone = [sign * number(row.get(metric)) for row in [*front, *([dense] if dense else [])]]
    known = [loss for loss in everyone if math.isfinite(loss)]
    if not known:
        raise InputError(f"within: expected values of '{metric}', got none in any member.")
    if wanted.points and not all(0.0 <= sign * loss <= 1.0 for loss in known):
        raise InputError(
            f"within: '{wanted.text}' is a hundredth of a metric between 0 and 1; '{metric}' is "
            f"{format_quantity(metric, sign * known[-1])}. Write a percentage such as '1%', or a plain number."
        )
    reference = sign * number(dense.get(metric)) if dense else math.nan
    whose = "the dense model's" if math.isfinite(reference) else "the best member's"
    reference = reference if math.isfinite(reference) else min(known)
    limit = reference + wanted.allowance(reference)
    found = [index for index, loss in enumerate(losses) if loss <= limit + 1e-9 * abs(limit)]
    if not found:
        nearest = int(np.nanargmin([loss if math.isfinite(loss) else math.inf for loss in losses]))
        raise InputError(
            f"select: no member is within {wanted.text} of {whose} {metric} "
            f"{format_quantity(metric, sign * reference)}. The nearest is '{rows[nearest]['member']}' with "
            f"{_shown(metric, rows[nearest])}. Allow more, or search or fine-tune for longer."
        )
    return found


def best(rows: Sequence[Row], prefer: str | Mapping[str, float], record: RunRecord, front: Sequence[Row]) -> int:
    """The index of the preferred row.

    Args:
        rows: to choose among.
        prefer: one of `WORDS`, a column, or weights of columns (text or a mapping).
        record: how the run was made.
        front: all members: what columns are scaled over, so that weights mean the same under every condition.

    Weights: each column is scaled to 0 (the best of the front) .. 1 (the worst of it), and the weighted sum is
    minimised. A sum prefers members on the convex hull of the front; the knee and conditions reach the others.

    Raises:
        InputError: a name that is no column, weights that make no sense, or no member with values of a column.
    """
    if prefer == "knee":
        return _knee(rows, record)
    columns = [name for name in _columns(front, None) if name not in TEXT_COLUMNS]
    weights = _weights(prefer, columns, record)
    total = np.zeros(len(rows))
    for name, weight in weights.items():
        if weight > 0.0:
            total += weight * _scaled(rows, name, columns, record, front)
    if np.isnan(total).all():
        raise InputError(f"select: expected values of '{next(iter(weights))}', got none in any member.")
    return int(np.nanargmin(total))


def _weights(prefer: str | Mapping[str, float], columns: Sequence[str], record: RunRecord) -> dict[str, float]:
    """Names that stand for columns, and their weights."""
    latencies = [name for name in record.objectives if name.startswith("latency_")]
    if prefer == "fastest":
        known = latencies or [name for name in columns if name.startswith("latency_p50_us")]
        return dict.fromkeys(known or ["latency_p50"], 1.0)
    words = {"best": record.metrics[0], "smallest": "size"}
    if isinstance(prefer, str):
        prefer = words.get(prefer, prefer)
    single = isinstance(prefer, str) and column(prefer, columns) in columns
    weights = {str(prefer): 1.0} if single else parse_weights(prefer)
    found = {}
    for name, weight in weights.items():
        known_as = record.metrics[0] if name == "error" and name not in columns else name
        if column(known_as, columns) not in columns:
            raise unknown_column("preference", name, [*WORDS, *columns], record.profiles)
        found[known_as] = weight
    return found


def _scaled(
    rows: Sequence[Row], name: str, columns: Sequence[str], record: RunRecord, front: Sequence[Row]
) -> npt.NDArray[np.float64]:
    """0 for the front's best value of a column .. 1 for its worst; NaN where it is missing.  # (rows,)"""
    sign = -1.0 if higher_is_better(column(name, columns), record.metrics, record.minimize) else 1.0
    everywhere = [sign * value(row, name) for row in front]
    known = [score for score in everywhere if math.isfinite(score)]
    low, span = (min(known), max(known) - min(known)) if known else (math.nan, 1.0)
    return np.array([(sign * value(row, name) - low) / (span or 1.0) for row in rows])


def unknown_column(what: str, name: str, known: Sequence[str], profiles: Sequence[str]) -> InputError:
    """The error for a name that is no column; where it only lacks the profile that it speaks of, it says so."""
    if _lacks_profile(name, known, profiles):
        listed = ", ".join(f"{name}@{profile}" for profile in profiles)
        return InputError(f"{what}: '{name}' is another on each profile: write one of {listed}, or give profile.")
    return unknown_name(what, name, known)


def _lacks_profile(name: str, known: Sequence[str], profiles: Sequence[str]) -> bool:
    return column(name, known) not in known and any(column(f"{name}@{one}", known) in known for one in profiles)


def scores(rows: Sequence[Row], record: RunRecord) -> npt.NDArray[np.float64]:
    """The objectives of rows, minimised; those that a row lacks are left out.  # (rows, objectives)"""
    metrics = record.metrics
    names = [metrics[0] if name == "error" and metrics else name for name in record.objectives]
    found = np.array([[_minimised(row, name, record) for name in names] for row in rows], dtype=np.float64)
    found = found.reshape(len(rows), len(names))
    return found[:, ~np.isnan(found).any(axis=0)]


def _knee(rows: Sequence[Row], record: RunRecord) -> int:
    found = scores(rows, record)
    return knee(found) if found.shape[1] else 0


def _minimised(row: Row, name: str, record: RunRecord) -> float:
    return value(row, name) * (-1.0 if higher_is_better(name, record.metrics, record.minimize) else 1.0)


def _columns(rows: Sequence[Row], dense: Row | None) -> list[str]:
    return list(dict.fromkeys(name for row in [*rows, *([dense] if dense else [])] for name in row))


def _matches(condition: Condition, row: Row) -> bool:
    return condition.matches(_visible(row))


def _visible(row: Row) -> Mapping[str, Cell]:
    # A member that was not measured is judged by its prediction, so its empty measured cell must not stand in the way.
    return {
        name: cell
        for name, cell in row.items()
        if cell is not None or not name.startswith("measured_") or row.get(name.removeprefix("measured_")) is None
    }


def _distance(expression: Expression, row: Row) -> float:
    """How far a row is from meeting the expression, relative to the bounds; 0 where it does."""
    match expression:
        case AllOf(parts):
            return sum(_distance(part, row) for part in parts)
        case AnyOf(parts):
            return min(_distance(part, row) for part in parts)
        case Comparison(name, operator, bound, _):
            actual = value(row, name)
            if operator in ("==", "!="):
                return abs(actual - bound) / (abs(bound) or 1.0) if operator == "==" and actual == actual else 1.0
            return max(0.0, Constraint(name, operator, bound).violation(actual))


def _unique(condition: Condition) -> list[Comparison]:
    return list({part.name: part for part in comparisons(condition.expression)}.values())


def _shown(name: str, row: Row) -> str:
    actual = value(row, name)
    return f"{name} {'unknown' if math.isnan(actual) else format_quantity(name, actual)}"

"""Which member of a front: conditions over rows, preferences, and the nearest member where nothing matches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.artifacts.table import TEXT_COLUMNS, Cell, Row
from autoprune.core.errors import InputError, unknown_name
from autoprune.pareto import Condition, column, format_quantity, knee, parse_where
from autoprune.pareto.expression import AllOf, AnyOf, Comparison, Expression, comparisons
from autoprune.pareto.selection import Constraint

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


def matching(rows: Sequence[Row], where: str, dense: Row | None, what: str) -> list[int]:
    """Indices of the rows that meet `where`.

    Raises:
        InputError: it does not parse, names no column, or no row meets it; then the nearest member and its values
            are named.
    """
    condition = parse_where(where, [name for name in _columns(rows, dense) if name not in TEXT_COLUMNS])
    found = [index for index, row in enumerate(rows) if _matches(condition, row)]
    if found:
        return found
    distances = [_distance(condition.expression, row) for row in rows]
    nearest = rows[int(np.argmin(distances))]
    values = ", ".join(_shown(part.name, nearest) for part in _unique(condition))
    hint = " The dense model does, and needs no selection." if dense and _matches(condition, dense) else ""
    raise InputError(
        f"{what}: no member meets '{where}'. The nearest is '{nearest['member']}' with {values}.{hint} "
        "Loosen the condition, or search for longer."
    )


def best(
    rows: Sequence[Row], prefer: str, metrics: Sequence[str], minimize: Sequence[str], objectives: Sequence[str]
) -> int:
    """The index of the preferred row: the knee of the front over `objectives`, or the best by a column.

    Raises:
        InputError: `prefer` is neither `knee` nor a column.
    """
    if prefer == "knee":
        return _knee(rows, metrics, minimize, objectives)
    columns = [name for name in _columns(rows, None) if name not in TEXT_COLUMNS]
    name = prefer
    if column(prefer, columns) not in columns:
        if prefer != "error" or not metrics:
            raise unknown_name("preference", prefer, ["knee", *columns])
        name = metrics[0]
    sign = -1.0 if higher_is_better(column(name, columns), metrics, minimize) else 1.0
    scores = [sign * value(row, name) for row in rows]
    if all(math.isnan(score) for score in scores):
        raise InputError(f"select: expected values of '{prefer}', got none in any member.")
    return int(np.nanargmin(scores))


def _knee(rows: Sequence[Row], metrics: Sequence[str], minimize: Sequence[str], objectives: Sequence[str]) -> int:
    names = [metrics[0] if name == "error" and metrics else name for name in objectives]
    scores = np.array(
        [[_minimised(row, name, metrics, minimize) for name in names] for row in rows]
    )  # (members, objectives)
    scores = scores[:, ~np.isnan(scores).any(axis=0)]
    return knee(scores) if scores.shape[1] else 0


def _minimised(row: Row, name: str, metrics: Sequence[str], minimize: Sequence[str]) -> float:
    return value(row, name) * (-1.0 if higher_is_better(name, metrics, minimize) else 1.0)


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

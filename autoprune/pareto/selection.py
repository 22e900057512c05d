"""Which members: `Condition` for `where`, `Constraint` for the search."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.core.errors import InputError
from autoprune.pareto.columns import column, format_quantity, known_column
from autoprune.pareto.expression import AllOf, Comparison, Expression, comparisons, parse

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Condition:
    """A parsed `where` expression.

    Attributes:
        text: as it was written.
        expression: its tree.
    """

    text: str
    expression: Expression

    @property
    def names(self) -> tuple[str, ...]:
        """The names in it as written, each once, left to right."""
        return tuple(dict.fromkeys(part.name for part in comparisons(self.expression)))

    def check(self, columns: Collection[str]) -> None:
        """Validate the names against columns.

        Raises:
            InputError: a name that is no column, where it stands, and the nearest column.
        """
        for part in comparisons(self.expression):
            try:
                known_column(part.name, columns)
            except InputError as error:
                raise InputError(f"where: at character {part.position}: {error}") from error

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether a row (column -> value) meets it. A value that is missing (None, NaN) meets nothing.

        Raises:
            InputError: a name that is no column of the row, or a value that is not a number.
        """
        self.check(row.keys())
        return _matches(self.expression, row)


@dataclass(frozen=True)
class Constraint:
    """One comparison that every member must meet.

    Attributes:
        metric: the name as written (`latency_p99@phone`).
        op: `<=`, `<`, `>=` or `>`.
        value: the bound, in the unit of the metric's column (us, bytes).
    """

    metric: str
    op: str
    value: float

    def __post_init__(self) -> None:
        if self.op not in ("<=", "<", ">=", ">"):
            raise InputError(f"constraint on '{self.metric}': expected <=, <, >= or >, got '{self.op}'.")
        if not math.isfinite(self.value):
            raise InputError(f"constraint on '{self.metric}': expected a finite bound, got {self.value}.")

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {format_quantity(self.metric, self.value)}"

    @property
    def column(self) -> str:
        """The column of predicted values it speaks of (`latency_p99_us@phone`)."""
        return column(self.metric)

    def violation(self, value: float) -> float:
        """How far `value` is past the bound, in units of the bound: at most 0 where it is met; inf for NaN.

        Relative, so that violations of several constraints add up to something sensible.
        """
        if math.isnan(value):
            return math.inf
        over = value - self.value if self.op[0] == "<" else self.value - value
        if over == 0.0 and self.op in ("<", ">"):
            return math.ulp(1.0)
        return over / (abs(self.value) or 1.0)


def parse_where(text: str, columns: Collection[str] | None = None) -> Condition:
    """Parse an expression over columns, such as `latency_p50 <= 5ms and (size <= 4MB or accuracy > 97%)`.

    Args:
        text: comparisons joined by `and`, `or` and parentheses; `and` binds closer.
        columns: where given, names must be among them.

    Example:
        >>> parse_where("latency_p50 <= 5ms").matches({"latency_p50_us": 4200.0})
        True

    Raises:
        InputError: says what was expected, what stands there and at which character; for a name, the nearest column.
    """
    condition = Condition(text, parse(text, "where"))
    if columns is not None:
        condition.check(columns)
    return condition


def parse_constraint(text: str) -> Constraint:
    """Parse one comparison, such as `latency_p99 <= 8ms`.

    Raises:
        InputError: not exactly one comparison with `<=`, `<`, `>=` or `>`.
    """
    expression = parse(text, "constraint")
    if not isinstance(expression, Comparison):
        joined = "and" if isinstance(expression, AllOf) else "or"
        hint = "Give each as its own entry." if joined == "and" else "Alternatives cannot be constraints."
        raise InputError(f"constraint: expected one comparison, got several joined by '{joined}'. {hint}")
    return Constraint(expression.name, expression.operator, expression.value)


def _matches(expression: Expression, row: Mapping[str, Any]) -> bool:
    if isinstance(expression, Comparison):
        value = _number(row, column(expression.name, row.keys()))
        return not math.isnan(value) and _COMPARE[expression.operator](value, expression.value)
    results = (_matches(part, row) for part in expression.parts)
    return all(results) if isinstance(expression, AllOf) else any(results)


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row[name]
    if value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"where: expected numbers in column '{name}', got {value!r}.") from error

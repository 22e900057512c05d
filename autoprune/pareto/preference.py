"""What a user would rather have: columns with weights, and how much quality may be lost for it.

weights := term ("+" term)*
term    := NAME | NAME "*" NUMBER | NUMBER "*" NAME
margin  := NUMBER ("pt" | "pp" | "point" | "points" | "%")?
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.core.errors import InputError

MAX_LENGTH = 1000

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NAME = r"[A-Za-z_][A-Za-z0-9_.\-]*(?:@[A-Za-z0-9_.\-]+)?"
_TERM = re.compile(rf"\s*(?:(?P<before>{_NUMBER})\s*\*\s*)?(?P<name>{_NAME})(?:\s*\*\s*(?P<after>{_NUMBER}))?\s*")
_MARGIN = re.compile(rf"\s*(?P<number>{_NUMBER})\s*(?P<unit>%|[A-Za-z]*)\s*")
_POINTS = ("pt", "pts", "pp", "point", "points")


@dataclass(frozen=True)
class Margin:
    """How much worse than a reference a quality may be.

    Attributes:
        text: as it was written.
        amount: a share of the reference where `relative`, else in the metric's own unit.
        relative: whether it was written in percent.
        points: whether it was written in points, hundredths of a metric that is a share.
    """

    text: str
    amount: float
    relative: bool = False
    points: bool = False

    def allowance(self, reference: float) -> float:
        """The same in the metric's own unit, for a reference value."""
        return self.amount * abs(reference) if self.relative else self.amount


def parse_weights(prefer: str | Mapping[str, float]) -> dict[str, float]:
    """Names and how much each counts, from a mapping or from text such as `accuracy + 2*latency_p50`.

    Example:
        >>> parse_weights("accuracy*1 + latency_p50*2")
        {'accuracy': 1.0, 'latency_p50': 2.0}

    Raises:
        InputError: not weights of names, a name twice, a weight that is negative or no finite number, or all zero.
    """
    pairs = _terms(prefer) if isinstance(prefer, str) else _items(prefer)
    weights: dict[str, float] = {}
    for name, weight in pairs:
        if name in weights:
            raise InputError(f"prefer: expected each name once, got '{name}' twice.")
        if not math.isfinite(weight) or weight < 0.0:
            raise InputError(
                f"prefer: expected a weight of at least 0 for '{name}', got {weight:g}. More of a metric and less of a "
                "cost are preferred already; a weight only says how much it counts."
            )
        weights[name] = weight
    if not any(weights.values()):
        raise InputError(
            "prefer: expected at least one weight above 0, got none. A weight says how much a name counts."
        )
    return weights


def parse_margin(within: str | float) -> Margin:
    """How much quality may be lost: `1pt` (a hundredth of a share), `1%` (of the reference), or a plain number.

    Example:
        >>> parse_margin("1.5pt").amount, parse_margin("2%").allowance(0.5), parse_margin(0.3).amount
        (0.015, 0.01, 0.3)

    Raises:
        InputError: no number of at least 0, or of another unit.
    """
    readable = isinstance(within, (int, float)) or (isinstance(within, str) and len(within) <= MAX_LENGTH)
    found = _MARGIN.fullmatch(str(within)) if readable else None
    unit = found["unit"] if found else ""
    if found is None or (unit and unit != "%" and unit not in _POINTS) or isinstance(within, bool):
        raise InputError(
            f"within: expected how much quality may be lost, such as '1pt' (a hundredth of an accuracy), '2%' (of the "
            f"dense model's value) or a plain number, got {_short(within)}."
        )
    number = float(found["number"])
    if not math.isfinite(number) or number < 0.0:
        raise InputError(f"within: expected a number of at least 0, got {_short(within)}.")
    relative, points = unit == "%", unit in _POINTS
    return Margin(str(within).strip(), number / 100.0 if relative or points else number, relative, points)


def _terms(text: str) -> list[tuple[str, float]]:
    if len(text) > MAX_LENGTH:
        raise InputError(f"prefer: expected at most {MAX_LENGTH} characters, got {len(text)}.")
    pairs: list[tuple[str, float]] = []
    place = 0
    while True:
        found = _TERM.match(text, place)
        if found is None or (found["before"] and found["after"]):
            raise InputError(
                f"prefer: expected a column with its weight, such as 'accuracy' or '2*latency_p50', at character "
                f"{place + 1} of {_short(text)}."
            )
        pairs.append((found["name"], float(found["before"] or found["after"] or 1.0)))
        place = found.end()
        if place == len(text):
            return pairs
        if text[place] != "+":
            raise InputError(f"prefer: expected '+' or the end at character {place + 1} of {_short(text)}.")
        place += 1


def _items(weights: Mapping[str, float]) -> list[tuple[str, float]]:
    if not isinstance(weights, Mapping):
        raise InputError(
            f"prefer: expected a name, text such as 'accuracy + 2*latency_p50', or a mapping of weights, got "
            f"{type(weights).__name__}."
        )
    for name, weight in weights.items():
        if not isinstance(name, str) or not isinstance(weight, (int, float)) or isinstance(weight, bool):
            raise InputError(f"prefer: expected names with numbers as weights, got {_short(name)}: {_short(weight)}.")
    return [(name, float(weight)) for name, weight in weights.items()]


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."

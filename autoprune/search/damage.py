"""Damage curves: how much the calibration loss rises when one variable alone is cut; their sum predicts a policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.graph.policy import SparsityPolicy
from autoprune.search.space import Choice, SearchSpace

Floats: TypeAlias = npt.NDArray[np.float64]
LossOf: TypeAlias = Callable[[Sequence[SparsityPolicy]], Sequence[float | Failure]]

FAILED = 2.0  # a cut whose evaluation failed counts as this many times the worst damage seen


@dataclass(frozen=True, eq=False)
class DamageCurves:
    """Per variable of a space and per level: the rise of the calibration loss with that variable alone cut.

    Attributes:
        names: the variables.
        tables: the rise at every level, never rising with the level, 0 at the dense one.  # n_variables x (n_levels,)
        measured: the levels that were measured; the others are interpolated.
        dense_loss: the loss that the rises start from.
    """

    names: tuple[str, ...]
    tables: tuple[Floats, ...]
    measured: tuple[tuple[int, ...], ...]
    dense_loss: float

    def __post_init__(self) -> None:
        for table in self.tables:
            table.setflags(write=False)

    def predict(self, choices: npt.ArrayLike) -> Floats:
        """Predicted rise of the loss, the sum over variables.

        Args:
            choices: levels.  # (n, n_variables)

        Returns:
            Rises.  # (n,)
        """
        levels = np.asarray(choices, dtype=np.int64).reshape(-1, len(self.tables))
        total = np.zeros(len(levels))
        for column, table in enumerate(self.tables):
            total += table[levels[:, column]]
        return total

    def sensitivity(self) -> dict[str, float]:
        """Variables -> rise at the narrowest level, the most sensitive first."""
        rises = {name: float(table[0]) for name, table in zip(self.names, self.tables, strict=True)}
        return dict(sorted(rises.items(), key=lambda item: -item[1]))

    def to_data(self) -> dict[str, Any]:
        """As JSON data."""
        curves = [
            {"name": name, "rise": table.tolist(), "measured": list(measured)}
            for name, table, measured in zip(self.names, self.tables, self.measured, strict=True)
        ]
        return {"dense_loss": self.dense_loss, "curves": curves}

    @classmethod
    def from_data(cls, data: Mapping[str, Any], space: SearchSpace) -> DamageCurves:
        """The inverse of `to_data`.

        Raises:
            InputError: the data is not that of curves over this space.
        """
        try:
            curves = [
                (str(c["name"]), [float(r) for r in c["rise"]], [int(m) for m in c["measured"]]) for c in data["curves"]
            ]
            dense_loss = float(data["dense_loss"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"damage curves: expected dense_loss and curves of name, rise, measured, got {error!r}."
            ) from error
        if [(name, len(rise)) for name, rise, _ in curves] != [(v.name, len(v.widths)) for v in space.variables]:
            raise InputError("damage curves: expected those of this search space, got others. Measure them anew.")
        return cls(
            tuple(name for name, _, _ in curves),
            tuple(np.array(rise) for _, rise, _ in curves),
            tuple(tuple(measured) for _, _, measured in curves),
            dense_loss,
        )


def damage_plan(space: SearchSpace, points: int = 4) -> list[Choice]:
    """The choices to measure: the dense one first, then up to `points` cuts of each variable alone.

    Cuts are spread evenly over the levels below the dense one, the narrowest among them: there the curves bend most.

    Raises:
        InputError: fewer than one point.
    """
    if points < 1:
        raise InputError(f"damage curves: expected at least 1 width a variable, got {points}.")
    plan = [space.dense]
    for place in range(len(space.levels)):
        for level in _levels(space.levels[place], points):
            plan.append((*space.dense[:place], level, *space.dense[place + 1 :]))
    return plan


def damage_curves(space: SearchSpace, losses: LossOf, points: int = 4) -> DamageCurves:
    """Measure the plan and fill in the levels between, monotonically.

    Args:
        space: whose variables to cut.
        losses: calibration losses of many policies, in order; runs them wherever it likes.
        points: cuts measured for each variable.

    Raises:
        AutopruneError: the dense model itself could not be evaluated.
    """
    plan = damage_plan(space, points)
    found = losses([space.policy(choice) for choice in plan])
    if len(found) != len(plan):
        raise AutopruneError(f"damage curves: expected {len(plan)} losses, got {len(found)}.")
    dense = found[0]
    if isinstance(dense, Failure) or not math.isfinite(dense):
        raise AutopruneError(f"the dense model cannot be evaluated: {dense}.")
    rises = [math.nan if isinstance(loss, Failure) else loss - dense for loss in found[1:]]
    worst = max((rise for rise in rises if math.isfinite(rise)), default=0.0)
    penalty = FAILED * max(worst, abs(dense), 1e-6)
    tables: list[Floats] = []
    measured: list[tuple[int, ...]] = []
    start = 0
    for count in space.levels:
        levels = _levels(count, points)
        part = [rise if math.isfinite(rise) else penalty for rise in rises[start : start + len(levels)]]
        start += len(levels)
        measured.append(levels)
        tables.append(_filled(space.variables[len(tables)].ratios, levels, part))
    return DamageCurves(tuple(v.name for v in space.variables), tuple(tables), tuple(measured), float(dense))


def rank_correlation(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Spearman's rank correlation, ties averaged; NaN where one side is constant or fewer than two pairs are finite."""
    one, two = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    sound = np.isfinite(one) & np.isfinite(two)
    if sound.sum() < 2:
        return math.nan
    a, b = _ranks(one[sound]), _ranks(two[sound])
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else math.nan


def interpolate_monotone(x: Floats, y: Floats, at: Floats) -> Floats:
    """Piecewise cubic through (x, y) that is monotone wherever the data is (Fritsch and Butland 1984).

    Args:
        x: ascending.  # (n,)
        y: values.  # (n,)
        at: where to evaluate, within x.  # (m,)
    """
    if len(x) < 3:
        return np.interp(at, x, y)
    step = np.diff(x)
    slope = np.diff(y) / step
    tangent = np.zeros_like(y)
    left, right = 2 * step[1:] + step[:-1], step[1:] + 2 * step[:-1]
    inner = slope[:-1] * slope[1:] > 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mean = (left + right) / (left / slope[:-1] + right / slope[1:])  # weighted harmonic, eq. (5)
    tangent[1:-1] = np.where(inner, mean, 0.0)
    tangent[0], tangent[-1] = slope[0], slope[-1]
    place = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    h, t = step[place], (at - x[place]) / step[place]
    return np.asarray(
        (1 + 2 * t) * (1 - t) ** 2 * y[place]
        + t * (1 - t) ** 2 * h * tangent[place]
        + t**2 * (3 - 2 * t) * y[place + 1]
        + t**2 * (t - 1) * h * tangent[place + 1]
    )


def isotonic_decreasing(values: Floats) -> Floats:
    """The nearest sequence (least squares) that never rises, by pooling adjacent violators."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] < mean:
            previous, size = blocks.pop()
            mean, count = (previous * size + mean * count) / (size + count), size + count
        blocks.append((mean, count))
    return np.concatenate([np.full(count, mean) for mean, count in blocks])


def _levels(count: int, points: int) -> tuple[int, ...]:
    """The measured levels of a variable with `count` levels, ascending, without the dense one."""
    places = np.linspace(0, count - 1, min(points, count - 1) + 1)
    return tuple(sorted({int(place) for place in np.floor(places[:-1] + 1e-9)}))


def _filled(ratios: Floats, levels: Sequence[int], rises: Sequence[float]) -> Floats:
    """The rise at every level from the measured ones.  # (n_levels,)"""
    known = np.append(np.maximum(isotonic_decreasing(np.array(rises)), 0.0), 0.0)
    places = np.append(np.array(levels, dtype=np.int64), len(ratios) - 1)
    filled = interpolate_monotone(ratios[places], known, ratios)
    return np.maximum(np.minimum.accumulate(filled), 0.0)


def _ranks(values: Floats) -> Floats:
    """Ranks from 0, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2.0)[inverse])

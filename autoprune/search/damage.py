"""Damage curves: how much the calibration loss rises when one variable alone is cut; their sum predicts a policy."""

from __future__ import annotations

import itertools
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
SHARE = 0.05  # of what the trials cost, the curves may cost
_LEAST_SAMPLES = (512, 256, 128)  # that a loss looks at: the first that is paid for, the last in any case
_FIRST = 2  # widths a variable that are measured before it is known where more are wanted
_MOST_SAMPLES = 1024  # the loss is smooth: more tell little more


@dataclass(frozen=True, eq=False)
class DamageCurves:
    """Per variable of a space and per level: the rise of the calibration loss with that variable alone cut.

    Attributes:
        names: the variables.
        tables: the rise at every level, never rising with the level, 0 at the dense one.  # n_variables x (n_levels,)
        measured: the levels that were measured; the others are interpolated. None of curves that were predicted.
        dense_loss: the loss that the rises start from; None where it was not measured.
    """

    names: tuple[str, ...]
    tables: tuple[Floats, ...]
    measured: tuple[tuple[int, ...], ...]
    dense_loss: float | None

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
            dense_loss = None if data["dense_loss"] is None else float(data["dense_loss"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"damage curves: expected dense_loss and curves of name, rise, measured, got {error!r}."
            ) from error
        if not all(math.isfinite(rise) for _, rises, _ in curves for rise in rises):
            raise InputError("damage curves: expected finite rises, got others. Measure them anew.")
        if [(name, len(rise)) for name, rise, _ in curves] != [(v.name, len(v.widths)) for v in space.variables]:
            raise InputError("damage curves: expected those of this search space, got others. Measure them anew.")
        return cls(
            tuple(name for name, _, _ in curves),
            tuple(np.array(rise) for _, rise, _ in curves),
            tuple(tuple(measured) for _, _, measured in curves),
            dense_loss,
        )


@dataclass(frozen=True)
class DamageBudget:
    """What damage curves may cost.

    Attributes:
        points: widths a variable that are measured, on average at most.
        samples: that each loss looks at.
        losses: that are measured, the dense model's included.
        evaluations: what they cost in units of one evaluation of a policy on the whole validation split.
    """

    points: int
    samples: int
    losses: int
    evaluations: float


def damage_budget(
    levels: Sequence[int],
    trials: int,
    validation_samples: int,
    points: int,
    batch: int = 1,
    recalibrated: int = 0,
) -> DamageBudget:
    """As many samples as a twentieth of the trials' cost pays for; the fewest that still tell something if not.

    Args:
        levels: of each variable.
        trials: policies that the search evaluates.
        validation_samples: that one such evaluation looks at.
        points: widths a variable.
        batch: samples come in batches of so many.
        recalibrated: samples that a trial's batch norms are re-estimated on; for a loss, at most as many as it looks
            at.

    Raises:
        InputError: fewer than one point.
    """
    if points < 1:
        raise InputError(f"damage curves: expected at least 1 width a variable, got {points}.")
    one = validation_samples + recalibrated
    losses = 1 + sum(min(points, count - 1) for count in levels)
    each = SHARE * trials * one / losses  # samples, those that norms are re-estimated on among them

    def cost(samples: int) -> int:
        return samples + min(samples, recalibrated)

    paid = (least for least in _LEAST_SAMPLES if cost(min(least, validation_samples)) <= each)
    least = next(paid, _LEAST_SAMPLES[-1])
    samples = min(max(int(max(each / 2, each - recalibrated)), least), _MOST_SAMPLES)
    whole = min(batch * math.ceil(samples / batch), validation_samples)
    return DamageBudget(points, whole, losses, losses * cost(whole) / one)


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
    """Measure the ends and middles of the curves, then more where they are least known, and fill in the levels between.

    Args:
        space: whose variables to cut.
        losses: calibration losses of many policies, in order; runs them wherever it likes. Asked twice at most, for as
            many as `damage_plan` has in all.
        points: cuts measured a variable, on average: the third and further ones go where a curve falls steeply between
            those that are known.

    Raises:
        AutopruneError: the dense model itself could not be evaluated.
    """
    plan = damage_plan(space, min(points, _FIRST))
    found = _measured(space, losses, plan)
    dense = found[0]
    if isinstance(dense, Failure) or not math.isfinite(dense):
        raise AutopruneError(f"the dense model cannot be evaluated: {dense}.")
    rises: list[dict[int, float]] = [{} for _ in space.levels]  # level -> rise; NaN where it failed
    _note(rises, space.dense, plan[1:], found[1:], dense)
    left = len(damage_plan(space, points)) - len(plan)
    if left:
        more = _where_unknown(space, rises, left)
        _note(rises, space.dense, more, _measured(space, losses, more), dense)
    known = [rise for part in rises for rise in part.values() if math.isfinite(rise)]
    penalty = FAILED * max(max(known, default=0.0), abs(dense), 1e-6)
    tables: list[Floats] = []
    for variable, part in zip(space.variables, rises, strict=True):
        ordered = {level: rise if math.isfinite(rise) else penalty for level, rise in sorted(part.items())}
        tables.append(_filled(variable.ratios, list(ordered), list(ordered.values())))
    measured = tuple(tuple(sorted(part)) for part in rises)
    return DamageCurves(tuple(v.name for v in space.variables), tuple(tables), measured, float(dense))


def predicted_curves(space: SearchSpace, errors: Mapping[str, npt.ArrayLike]) -> DamageCurves:
    """Curves without a measurement: what each width of a group costs whatever reads it (`Pruner.damage`).

    A group that goes with its block costs what the dearest of the groups gone with it does. Where nothing is known of a
    group, its damage is taken to grow with the square of the share that is cut, to the mean of the others'.

    Args:
        space: whose variables to cut.
        errors: group -> by units kept, none to all.  # (size + 1,)
    """
    known = {group: np.asarray(rise, dtype=np.float64) for group, rise in errors.items()}
    narrow = [float(rise[len(rise) // 2]) for rise in known.values()]
    usual = 4.0 * float(np.mean(narrow)) if narrow else 1.0

    def damage(group: str, width: int) -> float:
        if width == 0 and group in space.removal.closure:
            return max(lost(inner, 0) for inner in space.removal.closure[group])
        return lost(group, width)

    def lost(group: str, width: int) -> float:
        if group in known:
            return float(known[group][width])
        return usual * (1.0 - width / space.groups[group]) ** 2

    tables = []
    for variable in space.variables:
        rises = [sum(map(damage, variable.groups, widths)) for widths in variable.widths]
        tables.append(np.array(rises, dtype=np.float64))
    return DamageCurves(tuple(v.name for v in space.variables), tuple(tables), tuple(() for _ in tables), None)


def _measured(space: SearchSpace, losses: LossOf, plan: Sequence[Choice]) -> Sequence[float | Failure]:
    found = losses([space.policy(choice) for choice in plan])
    if len(found) != len(plan):
        raise AutopruneError(f"damage curves: expected {len(plan)} losses, got {len(found)}.")
    return found


def _note(
    rises: list[dict[int, float]], top: Choice, plan: Sequence[Choice], found: Sequence[float | Failure], dense: float
) -> None:
    """Enter losses of choices that cut one variable each."""
    for choice, loss in zip(plan, found, strict=True):
        place = next(i for i, (level, full) in enumerate(zip(choice, top, strict=True)) if level != full)
        rises[place][choice[place]] = math.nan if isinstance(loss, Failure) else loss - dense


def _where_unknown(space: SearchSpace, rises: Sequence[Mapping[int, float]], count: int) -> list[Choice]:
    """Cuts to measure next: in the middle of the intervals in which a falling curve may lie anywhere.

    What is not known of a monotone curve between two points is the rectangle that they span. Rises beyond the mean of
    the narrowest cuts count as that: such cuts are on no front.
    """
    ends = [max((r for r in part.values() if math.isfinite(r)), default=0.0) for part in rises]
    cap = max(float(np.mean(ends)), 1e-12)
    open_: list[tuple[float, int, int, int, float, float]] = []  # area, variable, its two levels and their rises
    for place, part in enumerate(rises):
        known = sorted({**part, space.levels[place] - 1: 0.0}.items())
        for (low, left), (high, right) in itertools.pairwise(known):
            capped = [min(max(r, 0.0), cap) if math.isfinite(r) else cap for r in (left, right)]
            _open(open_, space, place, low, high, capped[0], capped[1])
    plan: list[Choice] = []
    while open_ and len(plan) < count:
        best = max(range(len(open_)), key=lambda i: (open_[i][0], -open_[i][1], open_[i][2]))
        _, place, low, high, left, right = open_.pop(best)
        middle = (low + high) // 2
        plan.append((*space.dense[:place], middle, *space.dense[place + 1 :]))
        _open(open_, space, place, low, middle, left, (left + right) / 2)
        _open(open_, space, place, middle, high, (left + right) / 2, right)
    return plan


def _open(
    intervals: list[tuple[float, int, int, int, float, float]],
    space: SearchSpace,
    place: int,
    low: int,
    high: int,
    left: float,
    right: float,
) -> None:
    """Add an interval that has levels inside."""
    if high - low > 1:
        ratios = space.variables[place].ratios
        area = float(ratios[high] - ratios[low]) * abs(left - right)
        intervals.append((area, place, low, high, left, right))


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
    return np.repeat([mean for mean, _ in blocks], [count for _, count in blocks]) if blocks else np.zeros(0)


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

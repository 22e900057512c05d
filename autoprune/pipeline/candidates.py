"""Which candidates become members, and which members stay: on each device's front and on the joint one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import AutopruneError
from autoprune.graph.policy import SparsityPolicy
from autoprune.pareto.dominance import non_dominated
from autoprune.tuning.batches import batch_size

if TYPE_CHECKING:
    from autoprune.pipeline.problem import Problem
    from autoprune.search.objectives import Objective
    from autoprune.search.trial import Trial

Floats: TypeAlias = npt.NDArray[np.float64]

JOINT = ""
"""The name of the front over all objectives."""


def fronts(problem: Problem) -> dict[str, tuple[int, ...]]:
    """Front -> places of its objectives: the joint one, and with several profiles one for each that is minimised on.

    What no profile decides (quality, size) counts on every front.
    """
    found = {JOINT: tuple(range(len(problem.objectives)))}
    if len(problem.profiles) > 1:
        for profile in dict.fromkeys(o.profile for o in problem.objectives if o.profile is not None):
            found[profile] = tuple(p for p, o in enumerate(problem.objectives) if o.profile in (None, profile))
    return found


# ----------------------------------------------------------------------- which candidates


def choose(trials: Sequence[Trial], problem: Problem, count: int, fill: bool = False) -> list[Trial]:
    """A spread of the searched fronts, the fastest first.

    Each front in turn (the joint one, then each device's) takes one of its ends, then always the one farthest from
    those of it that are chosen. Distances are between the logarithms of what the tables say and between the ranks of
    the quality, scaled to one.

    Args:
        trials: of the search; those that were stopped as surely dominated are never chosen.
        problem: that was searched.
        count: at most this many.
        fill: where the fronts have fewer, go on with what they are without those chosen.

    Raises:
        AutopruneError: no trial is feasible and was evaluated.
    """
    dense = SparsityPolicy(problem.graph.widths({}))
    usable = [t for t in trials if t.feasible and t.failure is None and not t.raced_out and t.policy != dense]
    if not usable:
        reasons = sorted({str(trial.failure) for trial in trials if trial.failure is not None})
        why = f" Evaluations failed with: {'; '.join(reasons[:3])}." if reasons else ""
        raise AutopruneError(f"the search found no policy that meets the constraints and could be evaluated.{why}")
    values = np.array([[trial.objectives[o.name] for o in problem.objectives] for trial in usable])
    return sorted((usable[place] for place in _spread(values, problem, count, fill)), key=lambda t: _speed(t, problem))


def promote(
    candidates: Sequence[Trial], metrics: Sequence[Mapping[str, float] | None], problem: Problem, count: int
) -> list[int]:
    """Places of the candidates that a little training shows to be the most promising spread, in their order.

    Args:
        candidates: as `choose` gave them.
        metrics: of each after that training; None where it failed.
        problem: that was searched.
        count: at most this many.
    """
    sound = [place for place, found in enumerate(metrics) if found is not None]
    rows = [[_value(candidates[p], metrics[p] or {}, o, problem) for o in problem.objectives] for p in sound]
    values = np.array(rows, dtype=np.float64).reshape(len(sound), len(problem.objectives))
    known = np.flatnonzero(~np.isnan(values).any(axis=1))
    return sorted(sound[known[place]] for place in _spread(values[known], problem, count, fill=True))


def _value(trial: Trial, metrics: Mapping[str, float], objective: Objective, problem: Problem) -> float:
    return objective.judged(metrics, problem.task) if objective.evaluated else trial.objectives[objective.name]


def _speed(trial: Trial, problem: Problem) -> tuple[float, ...]:
    costs = [trial.objectives[o.name] for o in problem.objectives if not o.evaluated]
    return (*costs, trial.number)


def _spread(values: Floats, problem: Problem, count: int, fill: bool) -> list[int]:
    """Rows of a spread of every front; see `choose`."""
    chosen: list[int] = []
    left = np.arange(len(values))
    while len(chosen) < count and left.size:
        found = _take_in_turn(values[left], problem, count - len(chosen))
        chosen += [int(left[place]) for place in found]
        left = np.setdiff1d(left, chosen)
        if not fill:
            break
    return chosen


def _take_in_turn(values: Floats, problem: Problem, count: int) -> list[int]:
    shown = [_front(values, places, problem.objectives) for places in fronts(problem).values()]
    chosen: list[int] = []
    while len(chosen) < count:
        new = list(_farthest_of_each(shown, chosen))
        if not new:
            break
        chosen += new[: count - len(chosen)]
    return chosen


def _farthest_of_each(shown: Sequence[tuple[npt.NDArray[np.int64], Floats]], chosen: Sequence[int]) -> Iterator[int]:
    """One more row of each front, where it has one left: its last end, then what is farthest from those chosen."""
    taken = set(chosen)
    for rows, points in shown:
        mine = np.array([row in taken for row in rows])
        if mine.all():
            continue
        if mine.any():
            gaps = np.linalg.norm(points[:, None, :] - points[None, mine, :], axis=2).min(axis=1)
            place = int(np.argmax(np.where(mine, -1.0, gaps)))
        else:
            place = int(np.argmin(points[:, -1]))
        taken.add(int(rows[place]))
        yield int(rows[place])


def _front(
    values: Floats, places: Sequence[int], objectives: Sequence[Objective]
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Rows that no other dominates in some objectives, each value once, and their points for distances."""
    seen = values[:, list(places)]
    rows = np.flatnonzero(non_dominated(seen))
    rows = rows[np.unique(seen[rows], axis=0, return_index=True)[1]]
    scaled = [_scaled(values[rows, place], objectives[place].evaluated) for place in places]
    return rows, np.stack(scaled, axis=1)


def _scaled(column: Floats, evaluated: bool) -> Floats:
    """0 to 1 along the front; quality by rank, since its differences shrink when members are trained."""
    if evaluated:
        values = np.unique(column, return_inverse=True)[1].astype(np.float64)
    else:
        values = np.log(np.maximum(column, 1e-12))
    span = values.max() - values.min()
    return np.asarray((values - values.min()) / span if span > 0 else np.zeros_like(values))


# ----------------------------------------------------------------------- which members


def standing(table: Sequence[Mapping[str, object]], problem: Problem) -> dict[str, list[bool]]:
    """Front -> which rows are on it: all but those that another beats there beyond the noise.

    To be beaten beyond it is to be nowhere less costly, and worse by more than it in quality. The noise of an accuracy
    is its binomial standard error over the validation samples; other metrics are taken as exact, but for what they
    differed by when the dense model was judged twice. Costs are the measured ones where there are any.
    """
    values = np.array([[_objective(row, problem, o) for o in problem.objectives] for row in table], dtype=float)
    samples = validation_size(problem) if problem.task.judges_classes else 0
    noise = np.array([_standard_error(row, samples) for row in table])
    evaluated = np.array([o.evaluated for o in problem.objectives])
    shaky = np.array([_between_two(o, problem) for o in problem.objectives])
    margins = np.maximum(noise[:, None] * evaluated[None, :], shaky[None, :])  # (rows, objectives)
    gains = values[:, None, :] - values[None, :, :] - margins[:, None, :]  # (rows, others, objectives)
    found = {}
    for name, places in fronts(problem).items():
        over = gains[:, :, list(places)]
        beats = (over >= 0.0).all(axis=2) & (over > 0.0).any(axis=2)
        np.fill_diagonal(beats, False)
        found[name] = [not beaten for beaten in beats.any(axis=1)]
    return found


def _objective(row: Mapping[str, object], problem: Problem, objective: Objective) -> float:
    if objective.evaluated:
        metrics = {metric: float(row[metric]) for metric in problem.task.metrics}  # type: ignore[arg-type]
        return objective.judged(metrics, problem.task)
    measured = row.get(f"measured_{objective.column}")
    return float(measured if measured is not None else row[objective.column])  # type: ignore[arg-type]


def _between_two(objective: Objective, problem: Problem) -> float:
    """What two evaluations of the dense model differed by."""
    if not objective.evaluated:
        return 0.0
    task = problem.task
    return problem.noise.get(task.metric if objective.kind == task.quality else objective.kind, 0.0)


def _standard_error(row: Mapping[str, object], samples: int) -> float:
    """Of an accuracy over that many samples; 0 where the quality is no accuracy (no samples are given)."""
    if not samples:
        return 0.0
    share = float(row["accuracy"])  # type: ignore[arg-type]
    return math.sqrt(max(share * (1.0 - share), 0.0) / samples)


def validation_size(problem: Problem) -> int:
    """Samples in the validation split."""
    return sum(batch_size(problem.task.inputs_of(batch)) for batch in problem.task.validation)

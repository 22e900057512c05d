"""How far a search is: counts, the front so far, how long it may still take, and whether it still finds anything."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.pareto.dominance import non_dominated
from autoprune.pareto.hypervolume import hypervolume
from autoprune.search.improvement import spread_points
from autoprune.search.trial import Trial

Floats: TypeAlias = npt.NDArray[np.float64]

RISE = 1e-3  # a hypervolume that grows by a smaller share than this stands still
POINTS = 4096  # at which the hypervolume of three objectives and more is looked at


@dataclass(frozen=True)
class Progress:
    """After a trial.

    Attributes:
        done: evaluations finished, those of earlier runs and failed ones included.
        trials: evaluations planned.
        failed: how many of the finished failed.
        infeasible: policies that the tables exclude.
        front_size: feasible policies that no other dominates.
        hypervolume: what they dominate, up to the worst values of the first batch; as of the last whole batch, None
            during the first. Of three objectives and more, an estimate from 4,096 points.
        elapsed_s: since the search began in this process, what was waited for left out.
        remaining_s: estimated from the evaluations of this process; None before the first.
        trial: the trial that was finished.
    """

    done: int
    trials: int
    failed: int
    infeasible: int
    front_size: int
    hypervolume: float | None
    elapsed_s: float
    remaining_s: float | None
    trial: Trial


class ProgressMeter:
    """Counts trials, keeps the front, and tells who listens.

    Attributes:
        succeeded: whether any evaluation did.
        hypervolume: as in `Progress`.
    """

    def __init__(self, trials: int, budget_s: float | None, listener: Callable[[Progress], None] | None) -> None:
        self._trials = trials
        self._budget_s = budget_s
        self._listener = listener
        self._start = time.monotonic()
        self._done = self._failed = self._infeasible = self._here = 0
        self._front: Floats | None = None
        self._settled: Floats | None = None  # the front of whole batches
        self._volume: _Volume | None = None
        self.hypervolume: float | None = None
        self.succeeded = False

    def waited(self, seconds: float) -> None:
        """Time that was spent on something else than evaluations."""
        self._start += seconds

    def recall(self, trial: Trial) -> None:
        """A trial from storage."""
        if not trial.evaluated:
            self._infeasible += 1
            return
        self._done += 1
        if trial.failure is not None:
            self._failed += 1
            return
        self.succeeded = True
        if trial.feasible:
            self._add(list(trial.objectives.values()))

    def found(self, trial: Trial) -> None:
        """A trial finished now."""
        before = self._done
        self.recall(trial)
        self._here += self._done - before
        if self._listener is not None:
            self._listener(self._progress(trial))

    def batch_done(self, trials: Sequence[Trial]) -> None:
        """A whole batch is finished: measure its front and that of the batches before it.

        Of later ones nothing counts yet: which of their trials are there already depends on who was faster.
        """
        rows = [list(trial.objectives.values()) for trial in trials if trial.evaluated and trial.feasible]
        if not rows:
            return
        seen = np.array(rows, dtype=np.float64)
        if self._volume is None:
            self._volume = _Volume(seen)
        together = seen if self._settled is None else np.concatenate([self._settled, seen])
        self._settled = together[non_dominated(together)]
        self.hypervolume = self._volume.of(self._settled)

    def _add(self, values: list[float]) -> None:
        row = np.array([values], dtype=np.float64)
        if self._front is None:
            self._front = row
        elif not (self._front <= row).all(axis=1).any():
            together = np.concatenate([self._front, row])
            self._front = together[non_dominated(together)]

    def _progress(self, trial: Trial) -> Progress:
        elapsed = time.monotonic() - self._start
        remaining = elapsed / self._here * max(0, self._trials - self._done) if self._here else None
        if remaining is not None and self._budget_s is not None:
            remaining = min(remaining, max(0.0, self._budget_s - elapsed))
        size = 0 if self._front is None else len(self._front)
        return Progress(
            self._done, self._trials, self._failed, self._infeasible, size, self.hypervolume, elapsed, remaining, trial
        )


class _Volume:
    """Hypervolumes of the fronts of one search, in a time that does not explode with the objectives.

    Args:
        seen: values of the first trials; the reference is a little worse than the worst of them.  # (n, n_objectives)
    """

    def __init__(self, seen: Floats) -> None:
        span = np.ptp(seen, axis=0)
        self._reference = seen.max(axis=0) + 0.1 * span + 1e-12
        self._ideal = seen.min(axis=0) - 0.1 * span - 1e-12
        self._left = self._ideal + (self._reference - self._ideal) * spread_points(POINTS, seen.shape[1])

    def of(self, front: Floats) -> float:
        """Exact of one or two objectives; else the share of points between ideal and reference that is dominated.

        Points once dominated stay so: fronts are expected to be those of a search that goes on.
        """
        if front.shape[1] <= 2:
            return hypervolume(front, self._reference)
        for point in front:
            self._left = self._left[~(point <= self._left).all(axis=1)]
        box = float(np.prod(self._reference - self._ideal))
        return box * (1.0 - len(self._left) / POINTS)


class Plateau:
    """Tells when a search no longer finds anything.

    Args:
        span: evaluations without a rise of the hypervolume by a thousandth; None never ends it.
    """

    def __init__(self, span: int | None) -> None:
        self._span = span
        self._before: deque[tuple[int, float]] = deque()

    def reached(self, evaluated: int, volume: float | None) -> bool:
        """After a batch: whether the hypervolume is what it was `span` evaluations ago.

        Args:
            evaluated: trials so far.
            volume: hypervolume now; None while there is no front.
        """
        if self._span is None or volume is None:
            return False
        self._before.append((evaluated, volume))
        while len(self._before) > 1 and self._before[1][0] <= evaluated - self._span:
            self._before.popleft()
        then, was = self._before[0]
        return then <= evaluated - self._span and volume <= was * (1.0 + RISE)


class TimeBudget:
    """Whether one more evaluation fits, if it takes as long as the longest of the last few.

    Args:
        budget_s: from now on; None for no end.
    """

    def __init__(self, budget_s: float | None) -> None:
        self._end = math.inf if budget_s is None else time.monotonic() + budget_s
        self._begun: dict[int, float] = {}
        self._took: deque[float] = deque(maxlen=8)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be started."""
        return time.monotonic() + max(self._took, default=0.0) >= self._end

    def started(self, number: int) -> None:
        """An evaluation was handed out."""
        self._begun[number] = time.monotonic()

    def finished(self, number: int) -> None:
        """Its result is there."""
        self._took.append(time.monotonic() - self._begun.pop(number, time.monotonic()))

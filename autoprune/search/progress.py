"""How far a search is: counts, the front so far, and how long it may still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.pareto.dominance import non_dominated
from autoprune.pareto.hypervolume import hypervolume
from autoprune.search.trial import Trial


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
            during the first.
        elapsed_s: in this process.
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
    """Counts trials, keeps the front, and tells who listens."""

    def __init__(self, trials: int, budget_s: float | None, listener: Callable[[Progress], None] | None) -> None:
        self._trials = trials
        self._budget_s = budget_s
        self._listener = listener
        self._start = time.monotonic()
        self._done = self._failed = self._infeasible = self._here = 0
        self._front: npt.NDArray[np.float64] | None = None
        self._seen: list[list[float]] = []  # of the first batch
        self._reference: npt.NDArray[np.float64] | None = None
        self._hypervolume: float | None = None
        self.succeeded = False

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

    def batch_done(self) -> None:
        """A whole batch is finished: measure the front."""
        if self._front is None:
            return
        if self._reference is None:
            seen = np.array(self._seen)
            self._reference = seen.max(axis=0) + 0.1 * np.ptp(seen, axis=0) + 1e-12
        self._hypervolume = hypervolume(self._front, self._reference)

    def _add(self, values: list[float]) -> None:
        row = np.array([values], dtype=np.float64)
        if self._reference is None:
            self._seen.append(values)
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
            self._done, self._trials, self._failed, self._infeasible, size, self._hypervolume, elapsed, remaining, trial
        )

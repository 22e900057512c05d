"""What worker processes and actors have in common: jobs are handed to idle workers, lost ones once more."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

from autoprune.core.errors import Failure
from autoprune.search.executors.executor import NONE_IN_HAND, Job

MAX_ATTEMPTS = 2  # a worker that dies costs one retry, then the job is a Failure
MAX_FAILED_STARTS = 3  # in a row; then something is wrong with starting workers at all

START_TIMEOUT_S = 300.0  # for a worker to be there with its context; a cluster may have to add a machine first
_END = object()  # in the place of a job: there are no more

W = TypeVar("W")


@dataclass(frozen=True)
class Assignment:
    """A job in hand, and which attempt at it this is."""

    job: Job
    attempt: int = 1


class Feed:
    """The jobs of one run, read one at a time; those that lost their worker come first again."""

    def __init__(self, jobs: Iterable[Job | None]) -> None:
        self._jobs = iter(jobs)
        self._lost: deque[Assignment] = deque()
        self._open = True
        self._none_yet = False

    @property
    def more(self) -> bool:
        """Whether `take` may still give something, now or later."""
        return self._open or bool(self._lost)

    @property
    def waits(self) -> bool:
        """Whether there is nothing to take before another result was."""
        return self._none_yet and not self._lost

    def answered(self) -> None:
        """A result was taken: there may be jobs that waited for it."""
        self._none_yet = False

    def take(self) -> Assignment | None:
        """The next job; None when there is none (any more, or at the moment)."""
        if self._lost:
            return self._lost.popleft()
        if not self._open:
            return None
        job = next(self._jobs, _END)
        self._open = job is not _END
        self._none_yet = job is None
        return Assignment(job) if isinstance(job, Job) else None

    def lost(self, assignment: Assignment, why: Failure, attempts: int = MAX_ATTEMPTS) -> tuple[int, Failure] | None:
        """Take back a job whose worker is gone: to be tried again, or a failure after so many attempts."""
        if assignment.attempt < attempts:
            self._lost.append(Assignment(assignment.job, assignment.attempt + 1))
            return None
        return assignment.job.id, replace(why, message=f"{why.message}; tried {assignment.attempt} times")


def died(reason: str) -> Failure:
    """Of a worker that ended by itself, or was ended by somebody else."""
    hint = "a worker that the system kills has usually run out of memory: use fewer workers or smaller batches"
    return Failure("worker died", reason, hint)


def overdue(limit_s: float) -> Failure:
    """Of a worker that was ended since its job took too long."""
    hint = "give it more time (executor: {timeout: ...}), or make evaluations shorter"
    return Failure("overdue", f"no answer within {limit_s:g} s", hint)


class Closing:
    """`with` for executors."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to stop."""


class Pool(Closing, abc.ABC, Generic[W]):
    """The loop of an executor with workers elsewhere; `W` is the handle on one."""

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[int, Any]]:
        """See `Executor.run`.

        Raises:
            AutopruneError: workers do not start.
        """
        feed = Feed(jobs)
        try:
            while True:
                self._hand_out(feed)
                if not feed.more and not self._busy():
                    return
                if feed.waits and not self._busy():
                    raise RuntimeError(NONE_IN_HAND)
                for worker in self._heard():
                    answer = self._listen(worker, feed)
                    if answer is not None:
                        self._hand_out(feed)
                        yield answer
                        feed.answered()
        finally:
            for worker in self._busy():
                self._drop(worker)

    @abc.abstractmethod
    def _busy(self) -> list[W]:
        """Workers with a job in hand."""

    @abc.abstractmethod
    def _hand_out(self, feed: Feed) -> None:
        """Give idle workers a job; start workers that are missing while there is work."""

    @abc.abstractmethod
    def _heard(self) -> list[W]:
        """Wait until workers have something to say, are gone, or are overdue."""

    @abc.abstractmethod
    def _listen(self, worker: W, feed: Feed) -> tuple[int, Any] | None:
        """What one of them says: an answer, or None when that was no answer yet."""

    @abc.abstractmethod
    def _drop(self, worker: W) -> None:
        """Give up the job it has in hand."""

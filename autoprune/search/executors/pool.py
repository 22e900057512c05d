"""What worker processes and actors have in common: jobs are handed to idle workers, lost ones once more."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeAlias, TypeVar

from autoprune.core.errors import Failure
from autoprune.search.executors.executor import NONE_IN_HAND, Job

MAX_ATTEMPTS = 2  # a worker that dies costs one retry, then the job is a Failure
MAX_FAILED_STARTS = 3  # in a row; then something is wrong with starting workers at all

START_TIMEOUT_S = 300.0  # for a worker to be there with its context; a cluster may have to add a machine first
CALL_S = 1.0  # that short jobs, handed to a worker at once, may take together
MOST_AT_ONCE = 4  # of them: what is lost with their worker is begun again
_LATELY = 16  # calls, whose times tell of the next ones; before there are as many nothing is known
_END = object()  # in the place of a job: there are no more

W = TypeVar("W")
Answers: TypeAlias = list[tuple[int, Any]]  # ids of jobs and their results


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
        self._times: deque[float] = deque(maxlen=_LATELY)

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

    def take_some(self, workers: int, call_s: float) -> tuple[Assignment, ...]:
        """The next job; several where they are short and all workers get as many. Those taken back come singly.

        Args:
            workers: that take jobs.
            call_s: that several jobs may take together, judged by the longest of late.
        """
        alone = bool(self._lost)
        first = self.take()
        if first is None:
            return ()
        fitting = int(call_s / max(self._times)) if len(self._times) == _LATELY else 1
        most = 1 if alone else min(fitting, MOST_AT_ONCE, (first.job.followed + 1) // workers)
        taken = [first]
        while len(taken) < most and (following := self.take()) is not None:
            taken.append(following)
        return tuple(taken)

    def took(self, seconds: float) -> None:
        """How long a job took; of several in one call their mean."""
        self._times.append(max(seconds, 1e-6))

    def back(self, assignments: Iterable[Assignment]) -> None:
        """Take back jobs that are not known to have been begun."""
        self._lost += assignments

    def lost(self, assignments: Sequence[Assignment], why: Failure, attempts: int = MAX_ATTEMPTS) -> Answers:
        """Take back the jobs of a worker that is gone.

        One is tried again, or is a failure after so many attempts. Of several nobody knows which was under way: it
        counts for none of them, and each is tried singly.
        """
        if len(assignments) != 1:
            self.back(assignments)
            return []
        (assignment,) = assignments
        if assignment.attempt < attempts:
            self._lost.append(Assignment(assignment.job, assignment.attempt + 1))
            return []
        return [(assignment.job.id, replace(why, message=f"{why.message}; tried {assignment.attempt} times"))]


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
                    answers = self._listen(worker, feed)
                    if answers:
                        self._hand_out(feed)
                    for answer in answers:
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
    def _listen(self, worker: W, feed: Feed) -> Answers:
        """What one of them says: answers, or none yet."""

    @abc.abstractmethod
    def _drop(self, worker: W) -> None:
        """Give up what it has in hand."""

"""Jobs on this machine: in this process, or in worker processes."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any

from autoprune.core.errors import AutopruneError
from autoprune.search.executors.executor import (
    NONE_IN_HAND,
    Executor,
    ExecutorSettings,
    Job,
    limit_threads,
    perform,
)
from autoprune.search.executors.pool import MAX_FAILED_STARTS, Answers, Closing, Feed, Pool
from autoprune.search.executors.worker import Worker, WorkerDied, pickled


def local_executor(context: Any, settings: ExecutorSettings) -> Executor:
    """One worker is this process, as long as nothing has to be stopped; otherwise they are processes."""
    limited = settings.timeout_s is not None or settings.memory_bytes is not None
    if settings.workers == 1 and not limited:
        return InProcess(context, settings)
    return WorkerProcesses(context, settings)


class InProcess(Closing):
    """Jobs one after the other, in this process, on the context itself."""

    def __init__(self, context: Any, settings: ExecutorSettings) -> None:
        self._context = context
        self._threads = settings.threads

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[int, Any]]:
        """See `Executor.run`. An interrupt ends the job in hand."""
        for job in jobs:
            if job is None:
                raise RuntimeError(NONE_IN_HAND)
            before = limit_threads(self._threads)
            try:
                result = perform(self._context, job)
            finally:
                if before is not None:
                    limit_threads(before)
            yield job.id, result


class WorkerProcesses(Pool[Worker]):
    """Jobs in spawned processes, started with the first job, each with its own copy of the context.

    A process that dies, is overdue or holds too much memory is replaced, and its job tried once more.

    Raises:
        InputError: the context cannot be pickled.
    """

    def __init__(self, context: Any, settings: ExecutorSettings) -> None:
        self._context = pickled(context, "executor")
        self._settings = settings
        self._workers: list[Worker] = []
        self._failed_starts = 0  # in a row
        self._started_once = False
        atexit.register(self.close)  # Python waits for its child processes at exit, and they wait for jobs

    def close(self) -> None:
        """Stop all workers."""
        atexit.unregister(self.close)
        while self._workers:
            self._workers.pop().stop()

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.assignment is not None]

    def _hand_out(self, feed: Feed) -> None:
        """A job for every idle worker, and workers in the place of those that are missing."""
        for worker in self._workers:
            assignment = feed.take() if worker.idle else None
            if assignment is not None:
                worker.give(assignment)
        while feed.more and len(self._workers) < self._settings.workers:
            self._workers.append(Worker(self._context, self._settings))

    def _heard(self) -> list[Worker]:
        """Wait until some worker has something to say, is gone, or is overdue."""
        if not self._workers:
            return []
        limits = [worker.seconds_left for worker in self._workers if worker.seconds_left is not None]
        said = wait([worker.connection for worker in self._workers], min(limits, default=None))
        return [w for w in self._workers if w.connection in said or w.seconds_left == 0.0]

    def _listen(self, worker: Worker, feed: Feed) -> Answers:
        """An answer, or none yet."""
        try:
            answer = worker.receive()
        except WorkerDied as death:
            return self._bury(worker, death, feed)
        if worker.ready:
            self._failed_starts, self._started_once = 0, True
        return [] if answer is None else [answer]

    def _bury(self, worker: Worker, death: WorkerDied, feed: Feed) -> Answers:
        """Remove a dead worker; its job goes back, or is answered with a failure when that was its last attempt."""
        self._drop(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS * (self._settings.workers if self._started_once else 1):
                raise AutopruneError(
                    f"worker processes do not start: {death.failure.message}, {self._failed_starts} times in a row. A "
                    "script that starts workers needs its own work under `if __name__ == '__main__':`; see what they "
                    "printed."
                )
        return [] if worker.assignment is None else feed.lost([worker.assignment], death.failure)

    def _drop(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.stop()

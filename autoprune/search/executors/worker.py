"""One worker process: its far end, `serve`, and the driver's handle on it, `Worker`."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.search.executors.executor import ExecutorSettings, limit_threads
from autoprune.search.executors.memory import Outgrown, outgrown, perform_within
from autoprune.search.executors.pool import START_TIMEOUT_S, Assignment, died, overdue

_HELLO, _READY = "hello", "ready"
_JOIN_S = 2.0  # how long an idle worker may take to leave once its pipe is closed


def pickled(item: object, what: str) -> bytes:
    """The item pickled.

    Raises:
        InputError: it cannot be.
    """
    try:
        return pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(
            f"{what}: expected something worker processes can be sent, got {error}. Define functions and classes at "
            "the top of a module (no lambdas, nothing local to a function), or run with one local worker and without "
            "limits of time and memory."
        ) from error


def serve(connection: Connection, threads: int, memory_bytes: int | None) -> None:
    """Life of a worker process: say hello, receive the context, then answer jobs until the pipe closes.

    Ctrl-C is the driver's to handle. A driver that is gone takes its workers with it, even in the middle of a job.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        connection.send(_HELLO)
        try:
            context = pickle.loads(connection.recv_bytes())  # noqa: S301 - the driver's bytes, over a private pipe
        except EOFError:
            return
        except Exception as error:
            connection.send(Failure(type(error).__name__, str(error)))
            return
        limit_threads(threads)
        found = outgrown(memory_bytes)
        connection.send(_READY if found is None else found)
        while True:
            job = pickle.loads(connection.recv_bytes())  # noqa: S301 - as above
            connection.send_bytes(_answer(job.id, perform_within(context, job, memory_bytes)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(job_id: int, result: object) -> bytes:
    try:
        return pickle.dumps((job_id, result), protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return pickle.dumps((job_id, Failure("result cannot be pickled", f"{type(error).__name__}: {error}")))


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class WorkerDied(Exception):  # noqa: N818 - an event, not an error of ours
    """The process behind a handle is gone, or has to go; `failure` says why and what to do."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Worker:
    """The driver's handle on one spawned process.

    It goes booting -> (hello) loading the context -> (ready) idle <-> busy; `receive` moves it on.
    """

    def __init__(self, context: bytes, settings: ExecutorSettings) -> None:
        self._context = context
        self._timeout_s = settings.timeout_s
        self._limit_s: float | None = START_TIMEOUT_S
        self._deadline = time.monotonic() + START_TIMEOUT_S
        self.ready = False
        self.assignment: Assignment | None = None
        spawn = multiprocessing.get_context("spawn")
        self.connection, far = spawn.Pipe()
        # No daemon, as those may not have children, and data loaders do; `serve` leaves with its parent.
        self._process = spawn.Process(
            target=serve, args=(far, settings.threads, settings.memory_bytes), daemon=False, name="autoprune-worker"
        )
        with _ignoring_interrupts():
            self._process.start()
        far.close()

    @property
    def seconds_left(self) -> float | None:
        """Until it, or the job that it has in hand, is overdue; None without a limit."""
        return None if self._limit_s is None else max(0.0, self._deadline - time.monotonic())

    @property
    def idle(self) -> bool:
        """Whether it can take a job."""
        return self.ready and self.assignment is None

    def give(self, assignment: Assignment) -> None:
        """Send a job. That the process died meanwhile shows at the next `receive`."""
        data = pickled(assignment.job, f"job {assignment.job.id}")
        self.assignment = assignment
        if self._timeout_s is not None and assignment.job.timed:
            self._limit_s = self._timeout_s
            self._deadline = time.monotonic() + self._timeout_s
        try:
            self.connection.send_bytes(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> tuple[int, Any] | None:
        """What it has to say: the result of its job, or None when it only got further with starting.

        Raises:
            WorkerDied: the process is gone, is overdue, or holds too much memory.
            AutopruneError: it cannot build the context.
        """
        if self._limit_s is not None and self.seconds_left == 0.0 and not self.connection.poll():
            raise WorkerDied(overdue(self._limit_s) if self.ready else died(f"not started within {self._limit_s:g} s"))
        try:
            message = pickle.loads(self.connection.recv_bytes())  # noqa: S301 - our own worker, over a private pipe
            if message == _HELLO:
                self.connection.send_bytes(self._context)
                return None
        except (EOFError, ConnectionResetError, BrokenPipeError) as error:
            self._process.join(_JOIN_S)
            code = self._process.exitcode
            reason = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            raise WorkerDied(died(f"worker process ended ({reason})")) from error
        if isinstance(message, Outgrown):
            raise AutopruneError(f"a worker process cannot start: {message.failure}")
        if isinstance(message, Failure):
            raise AutopruneError(
                f"a worker process cannot load what it is to work on: {message}. What it needs must be importable "
                "there: functions and classes at the top of a module."
            )
        self._limit_s = None
        if message == _READY:
            self.ready = True
            return None
        job_id, result = message
        if isinstance(result, Outgrown):
            raise WorkerDied(result.failure)
        self.assignment = None
        return int(job_id), result

    def stop(self) -> None:
        """End the process: an idle one leaves by itself, a busy one is killed."""
        self.connection.close()
        self._process.join(_JOIN_S if self.idle else 0.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ctrl-C reaches the whole terminal group; a process that starts inherits that it is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

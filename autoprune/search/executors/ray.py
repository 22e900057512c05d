"""Jobs on Ray actors. The only module of the search that imports Ray.

The context goes to the object store once; each actor builds its copy from there, also when Ray restarts it, on whatever
node. The driver keeps all state: actors only answer jobs.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
from ray._private import ray_constants
from ray._private import worker as worker_module

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.search.executors.executor import ExecutorSettings, Job, limit_threads
from autoprune.search.executors.memory import Outgrown, outgrown, perform_within
from autoprune.search.executors.pool import (
    MAX_ATTEMPTS,
    MAX_FAILED_STARTS,
    START_TIMEOUT_S,
    Assignment,
    Feed,
    Pool,
    died,
    overdue,
)

_LOG = logging.getLogger(__name__)


class Actor:
    """What lives on a Ray worker: the context, and nothing that could be lost.

    The reference to the context comes with every call, in a tuple: Ray warns of references among the arguments that an
    actor is restarted with, and does not look into tuples to wait for them.
    """

    def __init__(self) -> None:
        self._loaded: tuple[Any] | None = None
        self._spent = False

    def ready(self, boxed: tuple[Any], threads: int, memory_bytes: int | None) -> Failure | Outgrown | None:
        """Build the context, once a process; a `Failure` where it cannot be built.

        A process that has to go leaves here, and Ray calls the next one.
        """
        if self._spent:
            os._exit(1)
        if self._loaded is None:
            try:
                self._loaded = (ray.get(boxed[0]),)
            except ray.exceptions.RaySystemError as error:
                return Failure("cannot be loaded", _last_line(error))
            limit_threads(threads)
            return outgrown(memory_bytes)
        return None

    def perform(self, boxed: tuple[Any], threads: int, memory_bytes: int | None, job: Job) -> Any:
        """The job's result, `Failure`, or `Outgrown`."""
        failure = self.ready(boxed, threads, memory_bytes)
        if failure is not None or self._loaded is None:
            return failure
        result = perform_within(self._loaded[0], job, memory_bytes)
        self._spent = isinstance(result, Outgrown)
        return result


@dataclass(eq=False)
class Handle:
    """The driver's view of one actor: `waits_for` is the result of its job, or the answer that it is there."""

    actor: Any
    waits_for: Any = None  # ObjectRef; None when idle
    assignment: Assignment | None = None
    deadline: float | None = None

    @property
    def overdue(self) -> bool:
        """Whether its job took longer than it may."""
        return self.deadline is not None and time.monotonic() >= self.deadline


class RayExecutor(Pool[Handle]):
    """Jobs on actors of a running Ray, or of one started for this executor on this machine, bound to 127.0.0.1.

    Ray restarts actors that die; the job one had in hand is tried again, on whichever is idle first. Twice at most,
    once more than on one machine: Ray tells of a death seconds later, so a job may be given to one that is dead.

    Raises:
        InputError: the context cannot be pickled, or there is no Ray at the address.
    """

    def __init__(self, context: Any, settings: ExecutorSettings) -> None:
        self._settings = settings
        self._started = _connect(settings)
        self._loud: Any = _quieted() if self._started else None
        self._failed_starts = 0
        self._handles: list[Handle] = []
        self._context: tuple[tuple[Any], int, int | None] = ((None,), 1, None)
        try:
            self._context = ((_stored(context),), settings.threads, settings.memory_bytes)  # what each call takes first
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the actors, and Ray if it was started here."""
        while self._handles:
            ray.kill(self._handles.pop().actor)
        self._context = ((None,), 1, None)
        if self._started:
            self._started = False
            ray.shutdown()
            worker_module.print_to_stdstream = self._loud

    def _busy(self) -> list[Handle]:
        return [handle for handle in self._handles if handle.assignment is not None]

    def _hand_out(self, feed: Feed) -> None:
        for handle in self._handles:
            assignment = feed.take() if handle.waits_for is None else None
            if assignment is not None:
                handle.assignment = assignment
                handle.waits_for = handle.actor.perform.remote(*self._context, assignment.job)
                limit = self._settings.timeout_s if assignment.job.timed else None
                handle.deadline = None if limit is None else time.monotonic() + limit
        while feed.more and len(self._handles) < self._settings.workers:
            self._handles.append(self._new_handle())

    def _heard(self) -> list[Handle]:
        waiting = {handle.waits_for: handle for handle in self._handles if handle.waits_for is not None}
        if not waiting:
            return []
        busy = self._busy()
        deadlines = [handle.deadline for handle in busy if handle.deadline is not None]
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout if busy else START_TIMEOUT_S)
        if not done and not busy:
            raise AutopruneError(
                f"no Ray worker is there, and none started within {START_TIMEOUT_S:g} s; {self._settings.workers} were "
                f"asked for, each with {self._settings.cpus_per_worker:g} CPUs and {self._settings.gpus_per_worker:g} "
                "GPUs. `ray status` shows what the cluster has; ask for less or add machines, and start again to go on."
            )
        return [waiting[ref] for ref in done] + [h for h in self._handles if h.overdue and h.waits_for not in done]

    def _listen(self, handle: Handle, feed: Feed) -> tuple[int, Any] | None:
        ref, assignment = handle.waits_for, handle.assignment
        if handle.overdue and not ray.wait([ref], timeout=0)[0]:
            self._drop(handle)
            return None if assignment is None else feed.lost(assignment, overdue(self._settings.timeout_s or 0.0))
        handle.waits_for, handle.assignment, handle.deadline = None, None, None
        try:
            result = ray.get(ref)
        except ray.exceptions.RayTaskError as error:  # the job could not even be unpickled, or its result not pickled
            result = Failure(type(error.cause).__name__, str(error.cause))
        except ray.exceptions.RayError as error:
            self._revive(handle, error)
            return None if assignment is None else feed.lost(assignment, died(_first_line(error)), MAX_ATTEMPTS + 1)
        if assignment is not None and isinstance(result, Outgrown):
            handle.waits_for = self._ping(handle.actor)
            return feed.lost(assignment, result.failure)
        if assignment is None and isinstance(result, Outgrown):
            raise AutopruneError(f"a Ray worker cannot start: {result.failure}")
        if assignment is None and isinstance(result, Failure):
            raise AutopruneError(
                f"a Ray worker cannot load what it is to work on: {result.message}. What it needs must be importable "
                "on every machine of the cluster."
            )
        if assignment is None:
            self._failed_starts = 0
            return None
        return assignment.job.id, result

    def _drop(self, handle: Handle) -> None:
        """Ray cannot interrupt an actor's call, but restart the actor."""
        ray.kill(handle.actor, no_restart=False)
        handle.assignment, handle.deadline = None, None
        handle.waits_for = self._ping(handle.actor)

    def _revive(self, handle: Handle, error: ray.exceptions.RayError) -> None:
        """Wait for Ray to restart the actor; put a new one in its place when it will not."""
        self._failed_starts += 1
        if self._failed_starts > MAX_FAILED_STARTS * self._settings.workers:
            raise AutopruneError(f"Ray workers do not start: {_first_line(error)}") from error
        if isinstance(error, ray.exceptions.ActorDiedError):
            self._handles[self._handles.index(handle)] = self._new_handle()
        else:
            handle.waits_for = self._ping(handle.actor)

    def _new_handle(self) -> Handle:
        remote: Any = ray.remote(Actor)
        actor = remote.options(
            num_cpus=self._settings.cpus_per_worker,
            num_gpus=self._settings.gpus_per_worker,
            max_restarts=-1,
            max_task_retries=0,
        ).remote()
        return Handle(actor, self._ping(actor))

    def _ping(self, actor: Any) -> Any:
        """Answered when the actor is there (again) with its context, however often it is restarted."""
        return actor.ready.options(max_task_retries=-1).remote(*self._context)


def _stored(context: Any) -> Any:
    """The context in the object store.

    Raises:
        InputError: it cannot be pickled.
    """
    try:
        return ray.put(context)
    except (TypeError, AttributeError, ValueError) as error:
        raise InputError(f"executor: expected something Ray workers can be sent, got {error}.") from error


def _connect(settings: ExecutorSettings) -> bool:
    """Connect to Ray; True when one was started here.

    Raises:
        InputError: nothing answers at the address.
    """
    if ray.is_initialized():
        return False
    address = settings.address or os.environ.get("RAY_ADDRESS") or "local"
    if address != "local":
        _check_answers(address)
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise InputError(
                f"executor: expected a Ray cluster at '{address}', got {error}. `ray start --head` starts one; without "
                "an address, one is started for this run."
            ) from error
        return True
    with on_this_machine_only():
        ray.init(
            address="local",
            num_cpus=max(1, math.ceil(settings.workers * settings.cpus_per_worker)),
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    return True


def _check_answers(address: str) -> None:
    """Whether anything listens at host:port; Ray itself would try for minutes.

    Raises:
        InputError: nothing does.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"executor: expected a Ray cluster at '{address}', got {error}. `ray start --head` starts one; without an "
            "address, one is started for this run."
        ) from error


@contextmanager
def on_this_machine_only() -> Iterator[None]:
    """Ray's servers listen on all interfaces on Linux; as on other systems, a Ray for one machine needs only loopback.

    Ray reads the variable once, at import, in every one of its processes; the driver may have imported it long ago.
    """
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, enabled = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name] = "0"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _quieted() -> Any:
    """Log what Ray reports (lost nodes, each retry): it writes to stdout, where results go. What did so before."""
    before = worker_module.print_to_stdstream

    def log(data: dict[str, Any], *_: Any, **__: Any) -> None:
        _LOG.info("Ray: %s", " ".join(map(str, data.get("lines", ()))))

    worker_module.print_to_stdstream = log
    return before


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]


def _last_line(error: BaseException) -> str:
    return str(error).strip().rsplit("\n", 1)[-1].strip()

"""Jobs on Ray actors. The only module of the search that imports Ray.

The context goes to the object store once; each actor builds its copy from there, also when Ray restarts it, on whatever
node. The driver keeps all state: actors only answer jobs.

Calls take most of the driver's time, so they carry nothing but bytes: a reference among the arguments (to the context)
costs as much as the rest of the call, arguments that Ray pickles and events for its dashboard half as much again.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
from ray import cloudpickle
from ray._private import ray_constants
from ray._private import worker as worker_module

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.search.executors.executor import ExecutorSettings, limit_threads
from autoprune.search.executors.memory import Outgrown, outgrown, perform_within
from autoprune.search.executors.pool import (
    CALL_S,
    MAX_ATTEMPTS,
    MAX_FAILED_STARTS,
    MOST_AT_ONCE,
    START_TIMEOUT_S,
    Answers,
    Assignment,
    Feed,
    Pool,
    died,
    overdue,
)

_LOG = logging.getLogger(__name__)

_pickled: Callable[[Any], bytes] = cloudpickle.dumps  # what is defined in the script that runs, too


class Actor:
    """What lives on a Ray worker: the context, and nothing that could be lost."""

    def __init__(self) -> None:
        self._loaded: tuple[Any] | None = None
        self._memory_bytes: int | None = None
        self._spent = False

    def ready(self, boxed: tuple[Any], threads: int, memory_bytes: int | None) -> Failure | Outgrown | None:
        """Build the context, once a process; a `Failure` where it cannot be built.

        A process that has to go leaves here, and Ray calls the next one.

        Args:
            boxed: a reference to the context, in a tuple: Ray warns of references among the arguments that an actor is
                restarted with, and does not look into tuples to wait for them.
            threads: of torch.
            memory_bytes: that the process may hold.
        """
        if self._spent:
            os._exit(1)
        if self._loaded is None:
            try:
                self._loaded = (ray.get(boxed[0]),)
            except ray.exceptions.RaySystemError as error:
                return Failure("cannot be loaded", _last_line(error))
            self._memory_bytes = memory_bytes
            limit_threads(threads)
            return outgrown(memory_bytes)
        return None

    def perform(self, jobs: bytes) -> bytes | None:
        """Pickled jobs' results, pickled; the last may be `Outgrown`. None in a process that has no context yet."""
        if self._loaded is None:
            return None
        results: list[Any] = []
        for job in pickle.loads(jobs):  # noqa: S301 - the driver's
            results.append(perform_within(self._loaded[0], job, self._memory_bytes))
            self._spent = isinstance(results[-1], Outgrown)
            if self._spent:
                break
        return _pickled(results)


@dataclass(eq=False)
class Handle:
    """The driver's view of one actor: `waits_for` is the results of its jobs, or the answer that it is there."""

    actor: Any
    waits_for: Any = None  # ObjectRef; None when idle
    assignments: tuple[Assignment, ...] = ()
    given: float = 0.0
    deadline: float | None = None

    @property
    def overdue(self) -> bool:
        """Whether its jobs took longer than one may."""
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
            self._context = ((_stored(context),), settings.threads, settings.memory_bytes)  # what `ready` takes
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
        return [handle for handle in self._handles if handle.assignments]

    def _hand_out(self, feed: Feed) -> None:
        limit = self._settings.timeout_s
        call_s = CALL_S if limit is None else min(CALL_S, limit / MOST_AT_ONCE)
        for handle in self._handles:
            taken = feed.take_some(self._settings.workers, call_s) if handle.waits_for is None else ()
            if taken:
                handle.assignments, handle.given = taken, time.monotonic()
                handle.waits_for = handle.actor.perform.remote(_pickled([assignment.job for assignment in taken]))
                handle.deadline = None if limit is None or not taken[0].job.timed else handle.given + limit
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

    def _listen(self, handle: Handle, feed: Feed) -> Answers:
        ref, assignments = handle.waits_for, handle.assignments
        if handle.overdue and not ray.wait([ref], timeout=0)[0]:
            self._drop(handle)
            return feed.lost(assignments, overdue(self._settings.timeout_s or 0.0))
        handle.waits_for, handle.assignments, handle.deadline = None, (), None
        try:
            said = ray.get(ref)
            results = pickle.loads(said) if isinstance(said, bytes) else said  # noqa: S301 - our own worker's
        except ray.exceptions.RayTaskError as error:  # a job could not even be unpickled, or its result not pickled
            results = Failure(type(error.cause).__name__, str(error.cause))
        except ray.exceptions.RayError as error:
            self._revive(handle, error)
            return feed.lost(assignments, died(_first_line(error)), MAX_ATTEMPTS + 1)
        except Exception as error:
            results = Failure("result cannot be read", f"{type(error).__name__}: {error}")
        if not assignments:
            self._greet(results)
            return []
        return self._answers(handle, assignments, results, feed)

    def _answers(self, handle: Handle, given: Sequence[Assignment], results: Any, feed: Feed) -> Answers:
        """To jobs, as far as their worker came with them; it takes back the rest."""
        if results is None:  # Ray had restarted the actor before they were there
            handle.waits_for = self._ping(handle.actor)
            feed.back(given)
            return []
        if isinstance(results, Failure):  # of whichever of them
            if len(given) > 1:
                feed.back(given)
                return []
            results = [results]
        feed.took((time.monotonic() - handle.given) / len(given))
        answers: Answers = []
        for assignment, result in zip(given, results, strict=False):
            if isinstance(result, Outgrown):
                handle.waits_for = self._ping(handle.actor)
                answers += feed.lost([assignment], result.failure)
            else:
                answers.append((assignment.job.id, result))
        feed.back(given[len(results) :])
        return answers

    def _greet(self, problem: Failure | Outgrown | None) -> None:
        """An actor is there.

        Raises:
            AutopruneError: it cannot build the context.
        """
        if isinstance(problem, Outgrown):
            raise AutopruneError(f"a Ray worker cannot start: {problem.failure}")
        if problem is not None:
            raise AutopruneError(
                f"a Ray worker cannot load what it is to work on: {problem.message}. What it needs must be importable "
                "on every machine of the cluster."
            )
        self._failed_starts = 0

    def _drop(self, handle: Handle) -> None:
        """Ray cannot interrupt an actor's call, but restart the actor."""
        ray.kill(handle.actor, no_restart=False)
        handle.assignments, handle.deadline = (), None
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
            enable_task_events=False,
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

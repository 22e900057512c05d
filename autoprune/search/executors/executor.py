"""What an executor is: jobs in, results out, wherever they run."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

from autoprune.core.errors import Failure, InputError
from autoprune.core.registry import Registry


@dataclass(frozen=True)
class Job:
    """One call on a worker: `function(context, *args)`.

    Attributes:
        id: given back with the result; unique within one `Executor.run`.
        function: defined at the top of a module, or a method of a class defined there (`Evaluator.evaluate`), so that a
            worker finds it by name.
        args: picklable.
        timed: whether the executor's time limit holds for it: it is one for evaluations, not for fine-tuning.
        followed: how many jobs of its kind come next without waiting for a result: an executor may then hand several
            to a worker at once, where they are short.
    """

    id: int
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    timed: bool = True
    followed: int = 0


@dataclass(frozen=True)
class ExecutorSettings:
    """Where jobs run.

    Attributes:
        kind: "local" or "ray", or what another package registers under `autoprune.executors`.
        workers: how many jobs run at a time; "local" with one worker runs them in this process,
            unless time or memory are limited: what is to be stopped needs a process of its own.
        threads: of torch in each worker. Fixed, not the machine's number, since it changes results in the last digits.
        timeout_s: a job that takes longer has its worker replaced.
        memory_bytes: a worker that holds more is replaced.
        address: "ray": of a running cluster ("auto" finds it); None starts one on this machine alone.
        cpus_per_worker, gpus_per_worker: "ray": what each worker reserves; fractions of a GPU are allowed.

    Raises:
        InputError: fewer than one worker or thread, or a resource or limit that is no such number.
    """

    kind: str = "local"
    workers: int = 1
    threads: int = 1
    timeout_s: float | None = None
    memory_bytes: int | None = None
    address: str | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"executor: expected {name} >= 1, got {getattr(self, name)}.")
        for name in ("cpus_per_worker", "gpus_per_worker"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InputError(f"executor: expected {name} >= 0, got {getattr(self, name)}.")
        if self.timeout_s is not None and not self.timeout_s > 0.0:
            raise InputError(f"executor: expected timeout_s above 0, got {self.timeout_s}.")
        if self.memory_bytes is not None and not self.memory_bytes > 0:
            raise InputError(f"executor: expected memory_bytes above 0, got {self.memory_bytes}.")


class Executor(Protocol):
    """Runs jobs on workers that each hold their own copy of a context object. Also a context manager that closes.

    What is promised wherever jobs run, and checked by `tests/search/test_executors.py`:

    * every job taken from `jobs` is answered exactly once, in the order in which results come;
    * `jobs` is read lazily, when a worker is free: one item, or as many as `Job.followed` allows. So whoever feeds it
      can stop at any moment. None in it: nothing to do until another result was taken; it comes only while jobs are in
      hand;
    * an exception in a job is a `Failure` of the kind of its class;
    * a worker that dies, takes too long or holds too much memory costs its job one retry, then it is a `Failure` too;
    * leaving the iterator early drops the jobs in hand, and the executor can be used again.
    """

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[int, Any]]:
        """Pairs of job id and result, or `Failure`."""
        ...

    def close(self) -> None:
        """Stop the workers; what was started is ended. May be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *details: object) -> None: ...


ExecutorFactory: TypeAlias = Callable[[Any, ExecutorSettings], Executor]

NONE_IN_HAND = "executor: jobs are to wait for a result, and none is under way"  # whoever feeds jobs broke his promise

EXECUTORS: Registry[ExecutorFactory] = Registry(
    "executor",
    "autoprune.executors",
    {
        "local": "autoprune.search.executors.local:local_executor",
        "ray": "autoprune.search.executors.ray:RayExecutor",
    },
)


def perform(context: Any, job: Job) -> Any:
    """The job's result; a `Failure` where it raised."""
    try:
        return job.function(context, *job.args)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Failure(type(error).__name__, str(error) or "(no message)", f"at {frame.filename}:{frame.lineno}")


def limit_threads(threads: int) -> int | None:
    """Set torch's threads where torch is loaded; returns what was set before.

    A context that computes with torch has imported it by the time it exists; others need not pay for the import.
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "set_num_threads"):
        return None
    before = int(torch.get_num_threads())
    if before != threads:
        torch.set_num_threads(threads)
    return before

"""A ceiling on a worker's memory: its job runs beside a watch on what the process holds.

What is watched is resident memory. Limits that the system enforces (`RLIMIT_AS`, `RLIMIT_DATA`) count address space:
torch, OpenMP and CUDA reserve gigabytes of it that they never touch, and libraries that are refused memory abort.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoprune.core.errors import Failure
from autoprune.core.units import format_count
from autoprune.search.executors.executor import Job, perform

_LOOK_S = 0.02  # a machine fills about 100 MB in that time
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Outgrown:
    """In the place of a result: the worker holds more than it may, and has to go.

    Attributes:
        held_bytes: by its process.
        limit_bytes: that it may hold.
    """

    held_bytes: int
    limit_bytes: int

    @property
    def failure(self) -> Failure:
        """As data to record."""
        held, limit = format_count(self.held_bytes, "B"), format_count(self.limit_bytes, "B")
        return Failure(
            "out of memory",
            f"the worker held {held} of memory, {limit} are allowed",
            "allow more (executor: {memory: ...}) or use smaller batches",
        )


def outgrown(limit_bytes: int | None) -> Outgrown | None:
    """Whether this process holds more than it may."""
    held = 0 if limit_bytes is None else resident_bytes()
    return None if limit_bytes is None or held <= limit_bytes else Outgrown(held, limit_bytes)


def perform_within(context: Any, job: Job, limit_bytes: int | None) -> Any:
    """The job's result, or `Failure`; `Outgrown`, as soon as this process holds more than `limit_bytes`.

    After `Outgrown` the job still runs, in a thread that nothing can stop: the process must end.
    """
    if limit_bytes is None:
        return perform(context, job)
    ended: list[Callable[[], Any]] = []
    thread = threading.Thread(target=_run, args=(context, job, ended), daemon=True)
    thread.start()
    while True:
        thread.join(_LOOK_S)
        if not thread.is_alive():
            return ended[0]()
        found = outgrown(limit_bytes)
        if found is not None:
            return found


def _run(context: Any, job: Job, ended: list[Callable[[], Any]]) -> None:
    """Leave behind how the job ended; what is no `Exception` (the job asks its process to exit) is raised again."""
    try:
        result = perform(context, job)
        ended.append(lambda: result)
    except BaseException as error:
        raised = error

        def again() -> Any:
            raise raised

        ended.append(again)


def resident_bytes() -> int:
    """Memory that this process holds; where the system does not tell, the most that it ever held."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

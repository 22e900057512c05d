"""What kernels and whole models are timed with: runtime, sentinel, journal and clock; and blocks that fit in memory."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from autoprune.core.errors import Failure
from autoprune.hardware.measure import Measurement, Progress, Sentinel
from autoprune.hardware.profiling.journal import Journal, Record
from autoprune.hardware.profiling.settings import ProfileSettings
from autoprune.hardware.runtimes import Runner, Runtime
from autoprune.hardware.runtimes.model import Model

Item = TypeVar("Item")


class Clock:
    """The time that a measurement has taken, with what it took before it was cut off.

    Args:
        budget_s: what it may take in all; None for no end.
        spent_s: what it took before.
    """

    def __init__(self, budget_s: float | None, spent_s: float = 0.0) -> None:
        self._start = time.perf_counter() - spent_s
        self._budget_s = budget_s

    @property
    def seconds(self) -> float:
        """Since the measurement was begun, pauses between its parts left out."""
        return time.perf_counter() - self._start

    def deadline(self, share: float = 1.0) -> float | None:
        """Reading of `time.perf_counter` at which a share of the budget is spent; None where there is no budget."""
        return None if self._budget_s is None else self._start + share * self._budget_s


@dataclass
class Bench:
    """One measurement: what is fixed, and the sentinel that it runs beside."""

    runtime: Runtime
    settings: ProfileSettings
    journal: Journal
    clock: Clock
    progress: Progress | None = None
    sentinel: Sentinel | None = None
    _kept: int = field(default=0, init=False)

    def compile(self, model: Model) -> Runner | Failure:
        """The model on the runtime."""
        return self.runtime.compile(model, self.settings.run)

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell how far a stage is."""
        if self.progress is not None:
            self.progress(stage, done, total)

    def watch(self, sentinel: Sentinel | None, readings: int) -> None:
        """Time beside a sentinel, of which so many readings are in the journal already."""
        self.sentinel, self._kept = sentinel, readings

    def keep(self, kind: str, **fields: object) -> None:
        """Add a finished block to the journal, with the sentinel's readings since the last one."""
        readings = [] if self.sentinel is None else self.sentinel.readings_us
        new, self._kept = readings[self._kept :], len(readings)
        self.journal.append(kind, seconds=round(self.clock.seconds, 3), readings=new, **fields)


@dataclass(frozen=True)
class Limits:
    """When a block is full: any of these is reached. The first item is always taken."""

    count: int
    bytes: float
    seconds: float


@dataclass(frozen=True)
class Block(Generic[Item]):
    """Compiled items that are timed against each other, and those that were refused."""

    compiled: list[tuple[Item, Runner]]
    refused: list[tuple[Item, Failure]]

    def __len__(self) -> int:
        return len(self.compiled) + len(self.refused)


def take_block(
    queue: deque[Item],
    compiled: Callable[[Item], Runner | Failure],
    size_bytes: Callable[[Item], float],
    limits: Limits,
) -> Block[Item]:
    """Compile items from the head of a queue until a limit is reached."""
    block: Block[Item] = Block([], [])
    start, bytes_ = time.perf_counter(), 0.0
    while queue and len(block.compiled) < limits.count:
        size = size_bytes(queue[0])
        if len(block) and (bytes_ + size > limits.bytes or time.perf_counter() - start > limits.seconds):
            break
        item = queue.popleft()
        runner = compiled(item)
        if isinstance(runner, Failure):
            block.refused.append((item, runner))
        else:
            block.compiled.append((item, runner))
            bytes_ += size
    return block


class Pace:
    """How long items take, so that no block is begun that would end late.

    Args:
        deadline: reading of `time.perf_counter`; None for no end.
        done: items that were done before, of which one at least lets the first block be left out.
    """

    def __init__(self, deadline: float | None, done: int) -> None:
        self._deadline = deadline
        self._start = time.perf_counter()
        self._before = done
        self._done = 0

    def count(self, most: int) -> int:
        """How many of `most` items there is time for; all where nothing is done yet."""
        if self._deadline is None or self._done + self._before == 0:
            return most
        now = time.perf_counter()
        if self._done == 0:
            return most if now < self._deadline else 0
        each = max((now - self._start) / self._done, 1e-9)
        return max(0, min(most, int((self._deadline - now) / each)))

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count


def measurement_data(found: Measurement) -> Record:
    """A measurement as JSON data; `records.Measured` reads it."""
    return {**vars(found), "sessions_us": list(found.sessions_us)}


def readings(journal: Journal) -> list[float]:
    """Every reading of the sentinel in a journal."""
    return list(itertools.chain.from_iterable(record.get("readings", []) for record in journal.records))

"""Keeping a measurement on the same processors, where the system lets a process choose them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
STAT = Path("/proc/stat")
TASKS = Path("/proc/self/task")
WATCHED_S = 0.1  # how long the processors are watched for the least busy ones


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Keep this thread, and the threads it starts meanwhile, on as many processors as a runtime has threads.

    Faster processors are taken before slower ones, one of each core before a core's second, and idle ones before busy
    ones. Every thread is let go of again at the end. Nothing happens where the system has no such call, or where all
    processors are wanted.

    Yields:
        The processors that the measurement may use; empty where that is not known.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    before = os.sched_getaffinity(0)
    if len(before) <= threads:
        yield tuple(sorted(before))
        return
    chosen = set(choose(before, threads, _busy(before)))
    try:
        os.sched_setaffinity(0, chosen)
    except OSError:  # forbidden in some sandboxes: measured as it is
        yield tuple(sorted(before))
        return
    try:
        yield tuple(sorted(chosen))
    finally:
        _release(chosen, before)


def choose(allowed: set[int], count: int, busy: dict[int, float], root: Path = CPUS) -> list[int]:
    """The `count` processors to measure on.

    Args:
        allowed: processors that the process may use.
        count: how many.
        busy: processor -> share of the time that it was at work.
        root: the system's folder of processors.
    """

    def rank(cpu: int) -> tuple[float, int, float, int]:
        folder = root / f"cpu{cpu}"
        siblings = _processors(_read(folder / "topology" / "thread_siblings_list"))
        second = sum(other < cpu for other in siblings)
        speed = _read(folder / "cpufreq" / "cpuinfo_max_freq") or _read(folder / "cpu_capacity")
        return (-float(speed or 0), second, busy.get(cpu, 0.0), -cpu)  # the first processor serves most interrupts

    return sorted(allowed, key=rank)[:count]


def _processors(text: str) -> set[int]:
    """`0-1,4` -> {0, 1, 4}."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _busy(cpus: set[int]) -> dict[int, float]:
    first = _ticks()
    if not first:
        return {}
    time.sleep(WATCHED_S)
    second = _ticks()
    return {
        cpu: 1.0 - (second[cpu][0] - first[cpu][0]) / max(second[cpu][1] - first[cpu][1], 1)
        for cpu in cpus
        if cpu in first and cpu in second
    }


def _ticks() -> dict[int, tuple[int, int]]:
    """Processor -> idle ticks and all ticks so far (`man 5 proc_stat`)."""
    found = {}
    for line in _read(STAT).splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            ticks = [int(field) for field in fields[:8]]
            found[int(name[3:])] = (ticks[3] + ticks[4], sum(ticks))  # idle and waiting for disks
    return found


def _release(chosen: set[int], before: set[int]) -> None:
    """Give every thread that was started on the chosen processors the others back."""
    threads = [int(task.name) for task in TASKS.iterdir()] if TASKS.is_dir() else [0]
    for thread in threads:
        with contextlib.suppress(OSError):  # a thread that has ended
            if os.sched_getaffinity(thread) == chosen:
                os.sched_setaffinity(thread, before)

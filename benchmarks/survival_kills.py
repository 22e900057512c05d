"""Kills with -9: of the driver of a whole run, of local workers, of Ray's actors."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from autoprune.search.executors import ExecutorSettings, open_executor
from autoprune.search.executors.pool import MOST_AT_ONCE
from benchmarks.survival_part import Finding, Options, checks, evaluated, problem, searched

ROOT = Path(__file__).resolve().parents[1]
NAP_S = 0.05
MARK = "AUTOPRUNE_SURVIVAL"  # in the environment of drivers, and so of what they start


# ----------------------------------------------------------------------- the driver


def driver_kills(options: Options, workers: int, expected: Path, whole_s: float) -> list[Finding]:
    """A whole run (damage curves, search, fine-tuning, publishing), its driver killed at random moments.

    Moments are drawn from the time that an uninterrupted run takes once it has its folder: the latest, as the machine
    may have other work. A run that is through before enough were killed is followed by another, of the same seed, in
    another folder.

    Args:
        options: how many.
        workers: of the runs.
        expected: an uninterrupted run.
        whole_s: that it took.
    """
    part = f"driver-kills, {workers} worker{'s' if workers > 1 else ''}"
    rng = random.Random(options.seed)
    killed, runs = 0, [options.folder / f"driver-{workers}-0"]
    while killed < options.kills or not _published(runs[-1]):
        if _published(runs[-1]):
            runs.append(options.folder / f"driver-{workers}-{len(runs)}")
        fresh = not runs[-1].exists()
        driver = _Driver(runs[-1], workers, options.changes)
        if killed < options.kills:
            took = driver.kill_after(rng.uniform(0.0, whole_s))
            killed += took is None
            whole_s = took if fresh and took is not None else whole_s
        else:
            driver.wait()
    same = sum((run / "front.csv").read_bytes() == (expected / "front.csv").read_bytes() for run in runs)
    once = sum(_each_once(run) for run in runs)
    stale = sum(path.is_file() for run in runs for path in run.rglob(".*.????????"))
    left = _left_behind()
    return [
        Finding(part, "killed", killed),
        Finding(part, "runs finished", len(runs)),
        Finding(part, "front.csv as without kills, byte by byte", same, f"{len(runs)}", same == len(runs)),
        Finding(part, "runs with every trial once", once, f"{len(runs)}", once == len(runs)),
        Finding(part, "temporary files left", stale, "0", stale == 0),
        Finding(part, "processes left", left, "0", left == 0),
    ]


def left_alone(options: Options) -> tuple[Path, float]:
    """An uninterrupted run with one worker, and the seconds it took."""
    run = options.folder / "driver-expected"
    return run, _Driver(run, 1, options.changes).wait()


class _Driver:
    """A process that runs, or goes on with, a run."""

    def __init__(self, run: Path, workers: int, changes: Mapping[str, Any]) -> None:
        self._run = run
        command = [sys.executable, "-m", "benchmarks.survival_driver", str(run), str(workers), json.dumps(changes)]
        environment = {**os.environ, MARK: str(os.getpid())}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    def wait(self) -> float:
        """Until it ended by itself; seconds since it had its folder.

        Raises:
            RuntimeError: it ended with an error.
        """
        self._has_begun()
        start = time.monotonic()
        _, message = self._process.communicate()
        if self._process.returncode != 0:
            raise RuntimeError(message)
        return time.monotonic() - start

    def kill_after(self, seconds: float) -> float | None:
        """Kill it so long after it had its folder; the seconds that it took where it ended before."""
        self._has_begun()
        start = time.monotonic()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return None
        took = time.monotonic() - start
        self.wait()
        return took

    def _has_begun(self) -> None:
        """Wait until it holds the lock of the folder, or ended."""
        lock = self._run / "search.lock"
        mine = f"process {self._process.pid} "
        while self._process.poll() is None and not (lock.is_file() and lock.read_text().startswith(mine)):
            time.sleep(0.01)


def _left_behind() -> int:
    """Processes of killed drivers that are still there; they are given a moment."""
    mine: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == str(os.getpid()):
                mine.append(process)
        except psutil.Error:
            continue
    return len(psutil.wait_procs(mine, timeout=10.0)[1])


def _published(run: Path) -> bool:
    return (run / "state.json").is_file()


def _each_once(run: Path) -> bool:
    with (run / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers, policies = [row["number"] for row in rows], [row["policy_id"] for row in rows]
    return bool(rows) and len(set(numbers)) == len(rows) == len(set(policies))


# ----------------------------------------------------------------------- workers


def worker_kills(options: Options) -> list[Finding]:
    """A search on four worker processes, of which one is killed again and again."""
    return _killed(options, "worker-kills", ExecutorSettings("local", workers=4), _workers_alive)


def ray_kills(options: Options, address: str | None = None) -> list[Finding]:
    """The same on four actors of a Ray on this machine, or of the cluster at an address."""
    return _killed(options, "ray-kills", ExecutorSettings("ray", workers=4, address=address), _actors_alive)


def _killed(
    options: Options, part: str, settings: ExecutorSettings, alive: Callable[[], list[psutil.Process]]
) -> list[Finding]:
    trials = 40 + 12 * options.kills
    log = options.folder / f"{part}.log"
    expected = searched(problem(), options.folder / f"{part}-expected", trials)
    given = problem(log, NAP_S)
    with open_executor(given.evaluator, settings) as executor:
        with _killer(alive, log, options) as killed:
            found = searched(given, options.folder / part, trials, executor)
        each = MOST_AT_ONCE if settings.kind == "ray" else 1
        return checks(part, found, expected, evaluated(log), len(killed), each)


@contextmanager
def _killer(alive: Callable[[], list[psutil.Process]], log: Path, options: Options) -> Iterator[list[int]]:
    """A thread that kills a random worker after every few evaluations; the list of those killed.

    None that does what another lost: a policy that loses two workers is recorded as failed, as it should be, and the
    search would not be like one that was left alone.
    """
    killed: list[int] = []
    done = threading.Event()
    rng = random.Random(options.seed)

    def kill() -> None:
        wait_for = 4
        while len(killed) < options.kills and not done.wait(rng.uniform(0.0, NAP_S)):
            begun = len(evaluated(log))
            again = _doing_again(log)
            victims = [worker for worker in alive() if worker.pid not in again] if begun >= wait_for else []
            if victims:
                victim = rng.choice(victims)
                victim.kill()
                killed.append(victim.pid)
                wait_for = begun + rng.randint(3, 9)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()


def _doing_again(log: Path) -> set[int]:
    """Processes whose last evaluation was begun before, by another."""
    path = Path(f"{log}.workers")
    lines = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
    begun = Counter(line[1] for line in lines if len(line) == 2)
    last = {int(line[0]): line[1] for line in lines if len(line) == 2}
    return {pid for pid, number in last.items() if begun[number] > 1}


def _workers_alive() -> list[psutil.Process]:
    """Worker processes of this user that `multiprocessing` spawned from here."""
    return [child for child in psutil.Process(os.getpid()).children() if _is(child, "spawn_main")]


def _actors_alive() -> list[psutil.Process]:
    """Actors of the search on this machine: Ray names their processes."""
    return [child for child in psutil.Process(os.getpid()).children(recursive=True) if _is(child, "ray::Actor")]


def _is(process: psutil.Process, what: str) -> bool:
    try:
        return any(what in argument for argument in process.cmdline())
    except psutil.Error:
        return False

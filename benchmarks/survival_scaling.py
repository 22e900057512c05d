"""What many workers bring, and what they cost the driver, with evaluations that sleep."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoprune.search.backend import JOURNAL
from autoprune.search.executors import Executor, ExecutorSettings, Job, open_executor
from autoprune.search.storage import TrialStorage
from benchmarks.survival_nodes import cluster
from benchmarks.survival_part import Finding, Options, problem, searched
from tests.search.jobs import SyntheticEvaluator

LINEAR = 0.9  # share of linear that 8 workers must reach
CORE = 0.1  # share of a core that the driver may take at RATE trials a second
RATE = 50.0
STORED = 5_000  # trials of the run that is opened again
MANY: dict[str, Any] = {"overlap": True, "batch": 64}  # what docs/running.md advises for many workers


def scaling(options: Options) -> list[Finding]:
    """Trials a second and the driver's processor time, by number of workers, local and on a cluster of four nodes."""
    found = [Finding("scaling", "search settings", ", ".join(f"{name}: {value}" for name, value in MANY.items()))]
    for workers in options.workers:
        found += _measured(options, f"local, {workers}", ExecutorSettings("local", workers=workers))
    with cluster(4, 2) as nodes:
        found += _measured(options, "Ray, 4 nodes, 8", ExecutorSettings("ray", workers=8, address=nodes.address))
    return [*found, *stored(options)]


def _measured(options: Options, name: str, settings: ExecutorSettings) -> list[Finding]:
    trials = settings.workers * options.rounds
    given = problem(nap_s=options.seconds)
    run = options.folder / f"scaling-{name.replace(', ', '-').replace(' ', '-')}"
    with _ready(given.evaluator, settings) as executor:
        wall, processor = time.monotonic(), time.process_time()
        found = searched(given, run, trials, executor, **MANY)
        wall, processor = time.monotonic() - wall, time.process_time() - processor
    evaluations = sum(trial.evaluated for trial in found)
    rate = evaluations / wall
    share = rate * options.seconds / settings.workers
    cost = 1e3 * processor / evaluations
    judged = settings.workers == 8
    return [
        Finding("scaling", f"{name} workers: trials a second", round(rate, 2)),
        Finding("scaling", f"{name} workers: share of linear", round(share, 3), f"{LINEAR}" if judged else "",
                share >= LINEAR or not judged),
        Finding("scaling", f"{name} workers: driver, ms of processor a trial", round(cost, 2)),
        Finding("scaling", f"{name} workers: driver's share of a core at {RATE:g} trials a second",
                round(cost * RATE / 1e3, 3), f"{CORE}" if judged else "", cost * RATE / 1e3 < CORE or not judged),
    ]  # fmt: skip


@contextmanager
def _ready(context: SyntheticEvaluator, settings: ExecutorSettings) -> Iterator[Executor]:
    """An executor whose workers have all started: starting them is not what is measured."""
    with open_executor(context, settings) as executor:
        jobs = (Job(place, _nap, (2.0,)) for place in range(settings.workers))
        list(executor.run(jobs))
        yield executor


def _nap(context: object, seconds: float) -> None:
    time.sleep(seconds)


def stored(options: Options) -> list[Finding]:
    """What the journal of many trials takes: on disk, and to open again."""
    given = problem(variables=40)
    run = options.folder / "scaling-stored"
    start = time.process_time()
    searched(given, run, STORED, batch=250)
    writing = time.process_time() - start
    names = tuple(variable.name for variable in given.space.variables)
    start = time.process_time()
    with TrialStorage(run, names, given.space.levels, ("error", "latency_p50"), None) as storage:
        count = len(storage.load())
    reading = time.process_time() - start
    return [
        Finding("scaling", "journal, bytes a trial of 40 variables", round(_size(run) / count)),
        Finding("scaling", f"journal, s to open {count} trials", round(reading, 2)),
        Finding("scaling", f"whole search of {count} trials, ms of processor a trial", round(1e3 * writing / count, 2)),
    ]


def _size(run: Path) -> int:
    return (run / JOURNAL).stat().st_size

"""What a search costs beside its evaluations, at many trials: time a trial, memory, and how both grow."""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.files import write_json
from autoprune.search.executors import open_executor
from autoprune.search.objectives import Bound, Objective
from autoprune.search.space import SearchSpace
from autoprune.search.study import Progress, Seed, StudySettings, run_search
from autoprune.search.variables import Variable
from benchmarks.front_figure import Figure
from benchmarks.front_parts import SCHEMA
from benchmarks.overhead import Instant, Quality

GROUPS, WIDTHS = 200, 12
AT = 5_000  # trials after which bookkeeping is asked
WINDOW = 500  # trials it is the mean of
ASKED_MS, ASKED_MB, ASKED_GROWTH = 5.0, 1024.0, 1.5


class LinearCost:
    """Latency as the sum of all widths."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space

    def values(self, objectives: Any, choices: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """See `Tables`."""
        total = self._space.group_widths(choices).sum(axis=1, dtype=np.float64)
        return np.repeat(total[:, None], len(objectives), axis=1)


@dataclass(frozen=True, eq=False)
class Wide:
    """A search over many groups whose evaluations cost nothing."""

    space: SearchSpace
    objectives: tuple[Objective, ...]
    bounds: tuple[Bound, ...]
    costs: LinearCost
    task: Any


def wide(groups: int = GROUPS, widths: int = WIDTHS) -> Wide:
    """A problem of many groups."""
    sizes = {f"g{i:03d}": 8 * widths for i in range(groups)}
    levels = tuple((8 * (level + 1),) for level in range(widths))
    space = SearchSpace("wide", sizes, tuple(Variable(name, (name,), levels) for name in sizes))
    objectives = (Objective("error", "error", evaluated=True), Objective("latency_p50", "latency_p50", "none"))
    return Wide(space, objectives, (), LinearCost(space), Quality())


def trial_times(problem: Wide, trials: int, folder: Path) -> tuple[npt.NDArray[np.float64], float]:
    """When each trial was finished, in s from the start, and the growth of this process' memory in MB.  # (n,)"""
    space = problem.space
    seeds = [Seed(space.policy(space.uniform(ratio)), "uniform") for ratio in (0.0, 0.2, 0.4, 0.6, 0.8)]
    times: list[float] = []
    before = _memory_mb()
    start = time.perf_counter()

    def note(found: Progress) -> None:
        times.append(time.perf_counter() - start)

    with open_executor(Instant(space.groups)) as executor:
        run_search(
            problem,
            executor,
            StudySettings(trials=trials),
            seeds=seeds,
            folder=folder,
            progress=note,
            evaluate=Instant.evaluate,
        )
    return np.array(times), _memory_mb() - before


def cost(out: Path, trials: int) -> int:
    """Measure, print, and leave `cost.json` for the report; 1 where a bound is missed."""
    with tempfile.TemporaryDirectory() as folder:
        times, memory_mb = trial_times(wide(), trials, Path(folder))
    at = min(AT, len(times) - 1)
    window = min(WINDOW, at)
    bookkeeping_ms = 1e3 * (times[at] - times[at - window]) / window
    half = len(times) // 2
    growth = float((times[-1] - times[half]) / times[half])  # 1 where time is linear in trials
    found = [
        Figure(f"bookkeeping a trial at trial {at}, {GROUPS} groups, ms", float(bookkeeping_ms), ASKED_MS, False),
        Figure(f"memory of {len(times)} trials, MB", float(memory_mb), ASKED_MB, False),
        Figure("time of the second half of a search over the first", growth, ASKED_GROWTH, False),
    ]
    places = np.unique(np.linspace(0, len(times) - 1, 51).astype(np.int64))
    data = {
        "schema": SCHEMA,
        "figures": [asdict(item) for item in found],
        "search_s": [[int(place) + 1, float(times[place])] for place in places],
    }
    write_json(out / "cost.json", data)
    print("\n".join(map(str, found)))
    return 0 if all(item.met for item in found) else 1


def _memory_mb() -> float:
    """The most that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

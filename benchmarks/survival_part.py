"""What the parts of `benchmarks/survival.py` share: a finding, and the search that they all hurt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.search.executors import Executor, open_executor
from autoprune.search.study import Progress, Seed, StudySettings, Trial, run_search
from tests.search.synthetic import SyntheticEvaluator, SyntheticProblem, synthetic_problem


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes:
        part: which part of the benchmark.
        what: was looked at.
        value: found.
        wanted: in words; empty for what is only told.
        met: whether it is so.
    """

    part: str
    what: str
    value: str | float | int
    wanted: str = ""
    met: bool = True


@dataclass(frozen=True)
class Options:
    """How long the parts take.

    Attributes:
        kills: of drivers, workers or actors.
        seconds: an evaluation of the scaling part sleeps.
        rounds: of evaluations that each worker of the scaling part does.
        workers: numbers of workers of the scaling part.
        folder: for what the parts write.
        seed: of the moments at which things are killed.
        changes: to the whole run whose driver is killed (`survival_driver.SEARCH`).
    """

    kills: int
    seconds: float
    rounds: int
    workers: tuple[int, ...]
    folder: Path
    seed: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)


def problem(log: Path | None = None, nap_s: float = 0.0, variables: int = 12) -> SyntheticProblem:
    """A search problem in closed form; its evaluator sleeps, and writes a line for each evaluation that it begins."""
    return synthetic_problem(variables, 6, ("size <= 50",), log=None if log is None else str(log), nap_s=nap_s)


def searched(
    given: SyntheticProblem,
    run: Path,
    trials: int,
    executor: Executor | None = None,
    progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> tuple[Trial, ...]:
    """All trials of a search from three seeds, in this process where no executor is given."""
    space = given.space
    seeds = [Seed(space.policy(space.uniform(ratio)), "uniform") for ratio in (0.0, 0.4, 0.8)]
    wanted = StudySettings(trials=trials, **settings)

    def on(where: Executor) -> tuple[Trial, ...]:
        judge = SyntheticEvaluator.evaluate
        return run_search(given, where, wanted, seeds=seeds, folder=run, progress=progress, evaluate=judge)

    if executor is not None:
        return on(executor)
    with open_executor(given.evaluator) as inside:
        return on(inside)


def evaluated(log: Path) -> list[int]:
    """Numbers of the trials that any process began to evaluate, in order."""
    return [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []


def checks(
    part: str, found: Sequence[Trial], expected: Sequence[Trial], begun: Sequence[int], kills: int, each: int = 1
) -> list[Finding]:
    """What has to hold of a search in which `kills` things were killed, beside one that was left alone.

    Each had up to `each` evaluations in hand.
    """
    numbers = [trial.number for trial in found]
    evaluations = sum(trial.evaluated for trial in found)
    twice = len(begun) - len(set(begun))
    failed = [str(trial.failure) for trial in found if trial.failure is not None]
    return [
        Finding(part, "killed", kills),
        Finding(part, "trials", len(found), "each once", len(set(numbers)) == len(numbers)),
        Finding(part, "evaluations lost", evaluations - len(set(begun)), "0", evaluations == len(set(begun))),
        Finding(part, "begun again", twice, f"no more than in hand, {each} each", twice <= each * kills),
        Finding(part, "recorded as failed", len(failed), "0", not failed),
        Finding(part, "trials as without kills", "yes" if tuple(found) == tuple(expected) else "NO", "yes",
                tuple(found) == tuple(expected)),
    ]  # fmt: skip

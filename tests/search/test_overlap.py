"""Searches that propose a batch while the one before is evaluated: nobody waits, and nothing hangs on who is faster."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from autoprune.core.errors import InputError
from autoprune.search.executors import ExecutorSettings, open_executor
from autoprune.search.study import Later, StudySettings, Trial, run_search
from tests.search.jobs import Uneven
from tests.search.synthetic import SyntheticProblem, synthetic_problem
from tests.search.test_study import Curves, evaluations, search, seeds_of

TRIALS = 60
SETTINGS: dict[str, Any] = {"trials": TRIALS, "batch": 8, "overlap": True}


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def problem(**evaluator: Any) -> SyntheticProblem:
    return synthetic_problem(constraints=("size <= 16",), **evaluator)


def unevenly(
    run: Path, kind: str = "local", workers: int = 3, slow: int = -1, awaited: int = -1, **changes: Any
) -> tuple[Trial, ...]:
    """A search whose trials finish in any order; `evaluations` beside the run tells of each that was begun."""
    given = problem()
    uneven = Uneven(
        given.evaluator.sensitivities,
        given.evaluator.levels,
        log=str(run.with_suffix(".log")),
        slow=slow,
        awaited=awaited,
    )
    arguments: dict[str, Any] = {"seeds": seeds_of(given), "folder": run, "evaluate": Uneven.evaluate_unevenly}
    arguments["later"] = changes.pop("later", None)
    run.with_suffix(".log").touch()
    with open_executor(uneven, ExecutorSettings(kind, workers)) as executor:
        return run_search(given, executor, StudySettings(**{**SETTINGS, **changes}), **arguments)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, ...]:
    return search(problem(), tmp_path_factory.mktemp("expected"), **SETTINGS)


def test_every_policy_once(expected: tuple[Trial, ...]) -> None:
    assert sum(trial.evaluated for trial in expected) == TRIALS
    assert len({trial.policy for trial in expected}) == len(expected)


@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_the_same_with_workers(
    kind: str, expected: tuple[Trial, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "ray":
        request.getfixturevalue("local_ray")
    assert unevenly(tmp_path / "run", kind) == expected
    assert len(evaluations(tmp_path / "run.log")) == TRIALS


@pytest.mark.parametrize("sampler", ["nsga2", "surrogate", "tpe", "archive"])
def test_interrupted_anywhere_it_ends_the_same(tmp_path: Path, sampler: str) -> None:
    settings = {**SETTINGS, "trials": 40, "sampler": sampler}
    whole = search(problem(), tmp_path / "whole", **settings)
    log = tmp_path / "log"
    evaluated = [trial.number for trial in whole if trial.evaluated]
    for number in sorted(random.Random(sampler).sample(evaluated, 3)):
        with pytest.raises(KeyboardInterrupt):
            search(problem(interrupts=(number,), log=str(log)), tmp_path / "run", **settings)
    assert search(problem(log=str(log)), tmp_path / "run", **settings) == whole
    assert len(evaluations(log)) == len(set(evaluations(log))) == 40


def test_interrupted_while_two_batches_are_under_way(tmp_path: Path, expected: tuple[Trial, ...]) -> None:
    """Later trials are recorded, earlier ones are not; a single process goes on."""
    log = tmp_path / "log"
    slow = problem(log=str(log), nap_s=0.01)

    def stop(progress: Any) -> None:
        if progress.done == 29:
            raise KeyboardInterrupt

    with (
        open_executor(slow.evaluator, ExecutorSettings("local", workers=3)) as executor,
        pytest.raises(KeyboardInterrupt),
    ):
        search(slow, tmp_path / "run", executor, progress=stop, **SETTINGS)
    assert search(problem(log=str(log)), tmp_path / "run", **SETTINGS) == expected
    assert len({line.split()[0] for line in evaluations(log)}) == TRIALS
    assert len(evaluations(log)) <= TRIALS + 3  # what was in hand


def test_more_trials_go_on_where_fewer_ended(expected: tuple[Trial, ...], tmp_path: Path) -> None:
    for trials in (1, 7, 25, 40):
        search(problem(), tmp_path, **{**SETTINGS, "trials": trials})
    assert search(problem(), tmp_path, **SETTINGS) == expected


def test_what_is_worked_out_later_and_a_plateau(tmp_path: Path) -> None:
    given = problem()
    curves = Curves(given, tmp_path / "none")
    changes: dict[str, Any] = {"later": Later(12, curves.work_out), "trials": 200, "plateau": 16}
    alone = search(given, tmp_path / "alone", **{**SETTINGS, **changes, "seeds": seeds_of(given)})
    assert 16 < len(alone) < 200
    assert unevenly(tmp_path / "workers", **changes) == alone
    assert search(given, tmp_path / "alone", **{**SETTINGS, **changes, "seeds": seeds_of(given)}) == alone


def test_it_is_part_of_what_a_search_is(tmp_path: Path) -> None:
    search(problem(), tmp_path, trials=4)
    with pytest.raises(InputError, match="expected overlap False of the search stored there, got True"):
        search(problem(), tmp_path, trials=4, overlap=True)


@pytest.mark.parametrize("overlap", [False, True])
def test_the_slowest_of_a_batch_holds_nobody_up(tmp_path: Path, overlap: bool) -> None:
    """Of the batches of eight, one trial of the second waits for the last of the third; without, for its own last."""
    first, last = (9, 23) if overlap else (9, 15)
    given = synthetic_problem()
    log = tmp_path / "log"
    log.touch()
    uneven = Uneven(given.evaluator.sensitivities, given.evaluator.levels, log=str(log), slow=first, awaited=last)
    settings = StudySettings(trials=32, batch=8, overlap=overlap, sampler="random")
    with open_executor(uneven, ExecutorSettings("local", workers=2)) as executor:
        found = run_search(given, executor, settings, folder=tmp_path / "run", evaluate=Uneven.evaluate_unevenly)
    assert [trial.failure for trial in found if trial.failure is not None] == []
    assert len(found) == 32

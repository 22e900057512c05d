"""The search on a problem whose front is known: what is evaluated, what is told, and that nothing depends on where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from autoprune.core.errors import AutopruneError, InputError
from autoprune.pareto.dominance import non_dominated
from autoprune.search.executors import Executor, ExecutorSettings, open_executor
from autoprune.search.objectives import Objective
from autoprune.search.prior import Prior, make_prior
from autoprune.search.samplers.nsga2 import GENERATION_KEY
from autoprune.search.storage import TrialStorage
from autoprune.search.study import Later, Progress, Seed, StudySettings, Trial, run_search
from tests.search.synthetic import SyntheticEvaluator, SyntheticProblem, synthetic_problem


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines do not lose power in these tests, and a busy disk takes longer than everything else."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def seeds_of(problem: SyntheticProblem) -> list[Seed]:
    space = problem.space
    ladder = [Seed(space.policy(space.uniform(ratio)), "uniform") for ratio in (0.0, 0.3, 0.6, 1.0)]
    return [Seed(space.policy(space.dense), "dense"), *ladder, Seed(space.policy(space.narrowest), "allocation")]


def search(
    problem: SyntheticProblem, folder: Path, executor: Executor | None = None, *, trials: int = 60, **settings: Any
) -> tuple[Trial, ...]:
    seeds = settings.pop("seeds", seeds_of(problem))
    progress = settings.pop("progress", None)
    arguments: dict[str, Any] = {
        "seeds": seeds,
        "folder": folder,
        "progress": progress,
        "evaluate": SyntheticEvaluator.evaluate,
        "later": settings.pop("later", None),
    }
    chosen = StudySettings(trials=trials, **settings)
    if executor is not None:
        return run_search(problem, executor, chosen, **arguments)
    with open_executor(problem.evaluator) as inside:
        return run_search(problem, inside, chosen, **arguments)


class Curves:
    """Later seeds and a prior, and when they were asked for."""

    def __init__(self, problem: SyntheticProblem, log: Path) -> None:
        self._problem, self._log = problem, log
        self.asked: list[int] = []  # evaluations done by then

    def work_out(self) -> tuple[list[Seed], Prior]:
        self.asked.append(len(evaluations(self._log)))
        space = self._problem.space
        choices = [space.dense, space.uniform(0.5), space.uniform(0.8)]  # the first is a seed already
        return [Seed(space.policy(choice), "allocation") for choice in choices], make_prior(self._problem)


def values(trials: Sequence[Trial]) -> npt.NDArray[np.float64]:
    return np.array([[t.objectives["error"], t.objectives["latency_p50"]] for t in trials if t.feasible])


def front(trials: Sequence[Trial]) -> set[tuple[float, ...]]:
    rows = values(trials)
    return {tuple(float(x) for x in row) for row in rows[non_dominated(rows)]}


def evaluations(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


class TestWhatIsWorkedOutLater:
    @pytest.mark.parametrize("sampler", ["nsga2", "surrogate"])
    def test_after_the_first_seeds_and_before_anything_else(self, tmp_path: Path, sampler: str) -> None:
        log = tmp_path / "log"
        problem = synthetic_problem(log=log)
        curves = Curves(problem, log)
        opening = seeds_of(problem)[:3]  # the dense one is there twice
        trials = search(problem, tmp_path, seeds=opening, later=Later(12, curves.work_out), sampler=sampler)
        assert curves.asked == [2]
        assert [trial.origin for trial in trials[:5]] == ["dense", "uniform", "allocation", "allocation", "sampler"]
        assert [trial.number for trial in trials[:5]] == [0, 1, 2, 3, 4]
        assert len(trials) == len(set(evaluations(log))) == 60

    @pytest.mark.parametrize("stop", [1, 2, 5, 20])
    def test_interrupted_anywhere_it_ends_the_same(self, tmp_path: Path, stop: int) -> None:
        problem = synthetic_problem()
        curves = Curves(problem, tmp_path / "none")
        later = Later(12, curves.work_out)
        opening = seeds_of(problem)[:3]
        whole = search(problem, tmp_path / "whole", seeds=opening, later=later)
        search(problem, tmp_path / "parts", seeds=opening, later=later, trials=stop)
        asked = len(curves.asked)
        assert asked == (1 if stop <= 2 else 2)  # with no more trials than seeds nothing is worked out
        assert search(problem, tmp_path / "parts", seeds=opening, later=later) == whole


class TestWhatIsSearched:
    def test_every_policy_once_and_the_seeds_first(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        problem = synthetic_problem(log=str(log))
        trials = search(problem, tmp_path / "run", trials=80)
        assert len(trials) == 80
        assert [t.number for t in trials] == list(range(80))
        assert len({t.policy for t in trials}) == 80
        assert len(evaluations(log)) == 80
        assert [t.origin for t in trials[:5]] == ["dense", "uniform", "uniform", "uniform", "sampler"]
        assert trials[0].objectives["error"] == 0.0
        assert trials[3].policy == problem.space.policy(problem.space.narrowest)  # told twice, evaluated once
        for trial in trials:
            assert trial.policy == problem.space.policy(trial.choice)
            assert trial.objectives["error"] == problem.evaluator.error(trial.policy)
            assert trial.metrics == {"accuracy": 1.0 - trial.objectives["error"]}
            assert trial.feasible
            assert trial.evaluated
            assert trial.violation == 0.0

    def test_the_whole_space_when_there_are_trials_enough(self, tmp_path: Path) -> None:
        """More trials than policies: nearly all are found by moving repeats, none twice, and it ends."""
        problem = synthetic_problem(variables=3, levels=3, log=str(tmp_path / "log"))
        trials = search(problem, tmp_path / "run", trials=1000)
        assert len(trials) == 27
        assert len(evaluations(tmp_path / "log")) == 27
        assert front(trials) == problem.front()

    @pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
    def test_it_comes_near_the_known_front(self, tmp_path: Path, sampler: str) -> None:
        problem = synthetic_problem(variables=5, levels=4)
        found = np.array(sorted(front(search(problem, tmp_path / "run", trials=200, sampler=sampler))))
        true = np.array(sorted(problem.front()))
        scale = true.max(axis=0) - true.min(axis=0)
        gaps = [np.max((found - point) / scale, axis=1).min() for point in true]  # additive epsilon to each point
        assert np.mean(gaps) < 0.02
        assert np.max(gaps) < 0.1

    def test_another_seed_is_another_search(self, tmp_path: Path) -> None:
        problem = synthetic_problem()
        one = search(problem, tmp_path / "one", seed=1)
        assert one == search(problem, tmp_path / "again", seed=1)
        assert one != search(problem, tmp_path / "two", seed=2)

    def test_without_seeds(self, tmp_path: Path) -> None:
        trials = search(synthetic_problem(), tmp_path, seeds=[], trials=20)
        assert {t.origin for t in trials} == {"sampler"}

    def test_fewer_trials_than_seeds(self, tmp_path: Path) -> None:
        trials = search(synthetic_problem(), tmp_path, trials=2)
        assert [t.origin for t in trials] == ["dense", "uniform"]

    def test_more_trials_go_on_where_fewer_ended(self, tmp_path: Path) -> None:
        problem = synthetic_problem(log=str(tmp_path / "log"))
        few = search(problem, tmp_path / "run", trials=25, batch=8)
        more = search(problem, tmp_path / "run", trials=60, batch=8)
        assert more[:25] == few
        assert len(evaluations(tmp_path / "log")) == 60
        assert more == search(problem, tmp_path / "other", trials=60, batch=8)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, ...]:
    return search(synthetic_problem(constraints=("size <= 15",)), tmp_path_factory.mktemp("inside"), trials=60)


class TestSameEverywhere:
    @pytest.mark.parametrize(("kind", "workers"), [("local", 2), pytest.param("ray", 1, marks=pytest.mark.ray)])
    def test_same_trials(
        self, kind: str, workers: int, expected: tuple[Trial, ...], tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        if kind == "ray":
            request.getfixturevalue("local_ray")
        problem = synthetic_problem(constraints=("size <= 15",), log=str(tmp_path / "log"), nap_s=0.002)
        with open_executor(problem.evaluator, ExecutorSettings(kind, workers)) as executor:
            found = search(problem, tmp_path / "run", executor, trials=60)
        assert found == expected
        assert front(found) == front(expected)
        assert len(evaluations(tmp_path / "log")) == 60


class TestConstraints:
    def test_infeasible_policies_are_recorded_and_never_evaluated(self, tmp_path: Path) -> None:
        problem = synthetic_problem(constraints=("size <= 12", "latency_p50 <= 40"), log=str(tmp_path / "log"))
        trials = search(problem, tmp_path / "run", trials=60)
        refused = [t for t in trials if not t.evaluated]
        judged = [t for t in trials if t.evaluated]
        assert len(judged) == 60
        assert refused
        assert len(evaluations(tmp_path / "log")) == 60
        for trial in trials:
            size, latency = sum(trial.policy.values()), trial.objectives["latency_p50"]
            expected = max(0.0, size / 12 - 1) + max(0.0, latency / 40 - 1)
            assert trial.violation == pytest.approx(expected)
            assert trial.feasible == (expected == 0.0) == trial.evaluated
            assert ("error" in trial.objectives) == trial.feasible
        assert trials[0].origin == "dense"
        assert not trials[0].feasible
        assert set(front(trials)) & problem.front()

    def test_optuna_knows_of_the_violation(self, tmp_path: Path) -> None:
        problem = synthetic_problem(constraints=("size <= 12",))
        search(problem, tmp_path, trials=20)
        with storage(problem, tmp_path) as stored:
            dense = stored.study.trials[0]
        assert dense.constraints == {"size <= 12 B": pytest.approx(20 / 12 - 1)}
        assert dense.values[0] == float("inf")
        assert stored.study.best_trials
        assert all(next(iter(t.constraints.values())) <= 0.0 for t in stored.study.best_trials)

    def test_a_constraint_that_nothing_meets_is_named(self, tmp_path: Path) -> None:
        problem = synthetic_problem(constraints=("size <= 4",), log=str(tmp_path / "log"))
        with pytest.raises(InputError, match=r"none of \d+ policies meets them; the nearest misses size <= 4 B"):
            search(problem, tmp_path / "run")
        assert evaluations(tmp_path / "log") == []

    def test_a_constraint_that_only_evaluation_tells(self, tmp_path: Path) -> None:
        trials = search(synthetic_problem(constraints=("error <= 0.5",)), tmp_path)
        assert all(t.evaluated for t in trials)
        assert {t.feasible for t in trials} == {True, False}
        for trial in trials:
            assert trial.feasible == (trial.objectives["error"] <= 0.5)
            assert trial.violation == pytest.approx(max(0.0, trial.objectives["error"] / 0.5 - 1))


class TestFailures:
    def test_a_failed_evaluation_is_recorded_and_the_search_goes_on(self, tmp_path: Path) -> None:
        problem = synthetic_problem(fails=(1, 7, 8, 20), nan=(9,))
        trials = search(problem, tmp_path, trials=40)
        assert len(trials) == 40
        failed = {t.number: t.failure for t in trials if t.failure is not None}
        assert set(failed) == {1, 7, 8, 9, 20}
        assert str(failed[7]) == "diverged: loss is inf in trial 7"
        assert str(failed[9]) == "not finite: error is nan"
        for number in failed:
            assert not trials[number].feasible
            assert trials[number].evaluated
            assert list(trials[number].objectives) == ["latency_p50"]
        assert search(problem, tmp_path, trials=40) == trials

    def test_an_evaluator_that_always_fails_the_same_way_stops_it(self, tmp_path: Path) -> None:
        problem = synthetic_problem(fails=tuple(range(99)), log=str(tmp_path / "log"))
        with pytest.raises(AutopruneError, match="first 5 evaluations all failed: diverged: loss is inf in trial 4"):
            search(problem, tmp_path / "run")
        assert len(evaluations(tmp_path / "log")) == 5

    def test_a_mended_cause_lets_it_go_on(self, tmp_path: Path) -> None:
        broken = synthetic_problem(fails=tuple(range(99)))
        with pytest.raises(AutopruneError):
            search(broken, tmp_path / "run")
        mended = search(synthetic_problem(), tmp_path / "run")
        assert mended == search(synthetic_problem(), tmp_path / "other")
        assert search(synthetic_problem(), tmp_path / "run") == mended

    def test_fewer_trials_than_that_all_failing(self, tmp_path: Path) -> None:
        with pytest.raises(AutopruneError, match="all 3 evaluations failed; the first: diverged"):
            search(synthetic_problem(fails=tuple(range(99))), tmp_path, trials=3)

    def test_tables_that_do_not_know(self, tmp_path: Path) -> None:
        problem = synthetic_problem(log=str(tmp_path / "log"))
        costs = problem.costs

        class Holes:
            def values(self, objectives: Sequence[Objective], choices: npt.ArrayLike) -> npt.NDArray[np.float64]:
                found = costs.values(objectives, choices)
                found[np.asarray(choices)[:, 0] == 1] = np.nan
                return found

        object.__setattr__(problem, "costs", Holes())
        trials = search(problem, tmp_path / "run", trials=40)
        unknown = [t for t in trials if t.choice[0] == 1]
        assert unknown
        assert all(str(t.failure).startswith("tables: latency_p50 is nan") and not t.evaluated for t in unknown)
        assert sum(t.evaluated for t in trials) == len(evaluations(tmp_path / "log")) == 40


def storage(problem: SyntheticProblem, folder: Path) -> TrialStorage:
    names = tuple(variable.name for variable in problem.space.variables)
    return TrialStorage(folder, names, problem.space.levels, ("error", "latency_p50"), None)


class TestStorage:
    def test_one_write_a_trial(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Overhead, counted: three records to start with, then one append a trial and nothing else."""
        from optuna.storages.journal import JournalFileBackend

        appended: list[int] = []
        append = JournalFileBackend.append_logs

        def counted(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
            appended.append(len(logs))
            append(self, logs)

        monkeypatch.setattr(JournalFileBackend, "append_logs", counted)
        problem = synthetic_problem(constraints=("size <= 15",))
        trials = search(problem, tmp_path, trials=50)
        assert appended == [1] * (3 + len(trials))
        assert len((tmp_path / "journal.log").read_text().splitlines()) == 3 + len(trials)
        appended.clear()
        search(problem, tmp_path, trials=50)
        assert appended == []  # nothing to do, nothing written

    def test_tables_are_asked_once_a_batch(self, tmp_path: Path) -> None:
        problem = synthetic_problem()
        search(problem, tmp_path, trials=50, batch=10, sampler="nsga2")  # which asks nothing itself
        assert problem.costs.calls == 5

    def test_generations_are_tagged_as_optuna_reads_them(self, tmp_path: Path) -> None:
        """Whoever continues the stored study with Optuna's own NSGA-II finds our generations, seeds among the first."""
        from optuna.samplers import NSGAIISampler

        problem = synthetic_problem()
        search(problem, tmp_path, trials=48, batch=12)
        with storage(problem, tmp_path) as stored:
            tags = Counter(trial.system_attrs[GENERATION_KEY] for trial in stored.study.trials)
            assert tags == {0: 12, 1: 12, 2: 12, 3: 12}
            sampler = NSGAIISampler(population_size=12)
            first = sampler.get_population(stored.study, 0)
            assert [t.user_attrs["origin"] for t in first[:4]] == ["dense", "uniform", "uniform", "uniform"]
            parents = sampler.get_parent_population(stored.study, 1)
            assert "dense" in {t.user_attrs["origin"] for t in parents}
            assert stored.study.metric_names == ["error", "latency_p50"]

    def test_a_database_instead_of_the_journal(self, tmp_path: Path) -> None:
        pytest.importorskip("sqlalchemy")
        problem = synthetic_problem(constraints=("size <= 15",), log=str(tmp_path / "log"))
        url = f"sqlite:///{tmp_path / 'trials.db'}"
        few = search(problem, tmp_path / "run", trials=8, storage=url)
        more = search(problem, tmp_path / "run", trials=14, storage=url)
        assert more[: len(few)] == few
        assert len(evaluations(tmp_path / "log")) == 14
        assert not (tmp_path / "run" / "journal.log").exists()

    def test_a_database_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="run storage nosuch://user@localhost:1/x: expected an Optuna storage"):
            search(synthetic_problem(), tmp_path, storage="nosuch://user:secret@localhost:1/x")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"seed": 5}, "expected seed 0 of the search stored there, got 5"),
            ({"sampler": "random"}, "expected sampler 'surrogate'"),
            ({"constraints": ("size <= 15",)}, "expected constraints"),
            ({"variables": 6}, "expected search space"),
        ],
    )
    def test_another_search_is_refused(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        search(synthetic_problem(), tmp_path, trials=10)
        problem = synthetic_problem(change.get("variables", 5), constraints=change.get("constraints", ()))
        settings = {key: value for key, value in change.items() if key in ("seed", "sampler")}
        with pytest.raises(InputError, match=message):
            search(problem, tmp_path, trials=10, **settings)

    def test_other_objectives_are_refused(self, tmp_path: Path) -> None:
        search(synthetic_problem(), tmp_path, trials=10)
        problem = synthetic_problem()
        with pytest.raises(InputError, match=r"expected 1 objectives, got 2"):
            search(replace(problem, objectives=problem.objectives[:1]), tmp_path, trials=10)

    def test_one_objective(self, tmp_path: Path) -> None:
        problem = synthetic_problem()
        trials = search(replace(problem, objectives=problem.objectives[:1]), tmp_path, trials=30)
        assert [list(t.objectives) for t in trials] == [["error"]] * 30


class TestPlateau:
    def test_a_search_that_finds_nothing_more_ends(self, tmp_path: Path) -> None:
        problem = synthetic_problem(variables=4, levels=4, log=str(tmp_path / "log"))
        few = search(problem, tmp_path / "run", trials=200, batch=16, plateau=16)
        whole = search(problem, tmp_path / "whole", trials=200, batch=16)
        assert 16 < len(few) < len(whole)
        assert few == whole[: len(few)]
        before = len(evaluations(tmp_path / "log"))
        assert search(problem, tmp_path / "run", trials=200, batch=16, plateau=16) == few  # again where it stopped
        assert len(evaluations(tmp_path / "log")) == before
        assert (
            search(problem, tmp_path / "run", trials=200, batch=16, plateau=200) == whole
        )  # and on, where that is asked

    def test_an_interrupted_search_ends_at_the_same_place(self, tmp_path: Path) -> None:
        problem = synthetic_problem(variables=4, levels=4)
        whole = search(problem, tmp_path / "whole", trials=200, batch=16, plateau=16)
        search(problem, tmp_path / "parts", trials=21, batch=16, plateau=16)
        assert search(problem, tmp_path / "parts", trials=200, batch=16, plateau=16) == whole


class TestProgress:
    def test_it_tells_how_far_it_is(self, tmp_path: Path) -> None:
        heard: list[Progress] = []
        problem = synthetic_problem(constraints=("size <= 15",), fails=(9,))
        trials = search(problem, tmp_path, trials=40, batch=10, progress=heard.append)
        assert sorted((p.trial for p in heard), key=lambda trial: trial.number) == list(trials)
        last = heard[-1]
        assert (last.done, last.trials) == (40, 40)
        assert last.failed == 1
        assert last.infeasible == len(trials) - 40
        assert last.front_size == len(front(trials))
        assert last.remaining_s == 0.0
        volumes = [p.hypervolume for p in heard if p.hypervolume is not None]
        assert volumes == sorted(volumes)
        assert heard[0].hypervolume is None
        assert volumes[-1] > volumes[0] > 0.0

    def test_the_time_budget_is_kept(self, tmp_path: Path) -> None:
        import time

        problem = synthetic_problem(nap_s=0.05)
        start = time.monotonic()
        trials = search(problem, tmp_path, trials=10_000, time_budget_s=0.5)
        assert time.monotonic() - start < 10
        assert 1 <= len(trials) <= 11
        full = search(synthetic_problem(), tmp_path, trials=40, batch=None)
        assert full[: len(trials)] == trials


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "trials >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"time_budget_s": 0.0}, "above 0 s"),
        ({"time_budget_s": float("nan")}, "above 0 s"),
        ({"plateau": 0}, "a plateau of at least 1 evaluation, got 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StudySettings(**settings)


def test_a_seed_that_is_not_in_the_space(tmp_path: Path) -> None:
    from autoprune.graph.policy import SparsityPolicy

    with pytest.raises(InputError, match="unknown group 'nosuch'"):
        search(synthetic_problem(), tmp_path, seeds=[Seed(SparsityPolicy({"nosuch": 1}), "allocation")])

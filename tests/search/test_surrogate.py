"""The surrogate-assisted sampler: what it proposes, with and without a prior, and that it earns its keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprune.core.errors import InputError
from autoprune.pareto.hypervolume import hypervolume
from autoprune.search.prior import Prior, make_prior
from autoprune.search.samplers import SamplerSettings, Told
from autoprune.search.samplers.moves import crossed, drawn, moved
from autoprune.search.samplers.surrogate import Surrogate, batch_size, milestone
from autoprune.search.study import Trial
from tests.search.landscape import LandscapeProblem, landscape_problem, search


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def volume(problem: LandscapeProblem, trials: Sequence[Trial]) -> float:
    """Of true errors."""
    rows = [[problem.landscape.error(t.policy), *list(t.objectives.values())[1:]] for t in trials if t.feasible]
    dense = problem.costs.values(problem.objectives[1:], [problem.space.dense])[0]
    return hypervolume(np.array(rows) / np.array([0.9, *dense]), np.ones(1 + len(dense)))


def test_it_moves_the_front_further_than_nsga2(tmp_path: Path) -> None:
    gains = []
    for seed in range(2):
        problem = landscape_problem(16, seed=seed)
        found = {name: search(problem, tmp_path / f"{name}{seed}", 100, name) for name in ("surrogate", "nsga2")}
        gains.append(volume(problem, found["surrogate"]) - volume(problem, found["nsga2"]))
        assert volume(problem, found["surrogate"]) > volume(problem, found["surrogate"][:30])  # seeds are not all
    assert min(gains) > 0.0


def test_of_a_network_that_is_easily_ruined_it_stays_before_the_cliff(tmp_path: Path) -> None:
    """Cutting a fifth makes models guess: a few trials tell that, and where."""
    late: list[float] = []
    for seed in range(1, 4):
        problem = landscape_problem(16, seed=seed, steepness=100.0)
        trials = search(problem, tmp_path / str(seed), 40)
        late += [problem.landscape.error(trial.policy) for trial in trials[16:] if trial.origin == "sampler"]
    assert len(late) >= 60
    assert np.mean(np.array(late) > 0.8) < 0.05


def test_a_resumed_search_proposes_the_same(tmp_path: Path) -> None:
    problem = landscape_problem(8, seed=3)
    whole = search(problem, tmp_path / "whole", 60)
    for trials in (25, 41, 60):
        found = search(problem, tmp_path / "parts", trials, planned=60)
        assert found == whole[:trials]


def test_only_what_the_tables_allow_is_proposed(tmp_path: Path) -> None:
    problem = landscape_problem(10, seed=1, constraints=("latency_p50 <= 700us", "size <= 400KB"))
    trials = search(problem, tmp_path, 60)
    proposed = [trial for trial in trials if trial.origin == "sampler"]
    assert len(proposed) > 30
    assert np.mean([trial.feasible for trial in proposed]) > 0.9  # repeats may be moved past a bound
    assert sum(not trial.feasible for trial in trials if trial.origin == "allocation") == 0


@pytest.mark.parametrize(
    "objectives", [("error",), ("error", "latency_p50", "size"), ("latency_p50", "error"), ("latency_p50", "size")]
)
def test_any_objectives(objectives: tuple[str, ...], tmp_path: Path) -> None:
    problem = landscape_problem(6, seed=1, objectives=objectives)
    trials = search(problem, tmp_path, 40)
    assert len(trials) == len({trial.policy for trial in trials}) == 40
    assert {trial.origin for trial in trials} >= {"dense", "sampler"}


def settings(problem: LandscapeProblem, prior: Prior | None, **fields: Any) -> SamplerSettings:
    given: dict[str, Any] = {"levels": problem.space.levels, "objectives": 2, "trials": 100, "prior": prior, **fields}
    return SamplerSettings(**given)


def told(problem: LandscapeProblem, choices: Sequence[tuple[int, ...]], first: int = 0) -> list[Told]:
    costs = problem.costs.values(problem.objectives[1:], choices)
    errors = [problem.landscape.error(problem.space.policy(choice)) for choice in choices]
    return [
        Told(first + i, choice, (error, *map(float, row)), {})
        for i, (choice, error, row) in enumerate(zip(choices, errors, costs, strict=True))
    ]


def test_before_any_trial_it_follows_the_prior() -> None:
    problem = landscape_problem(8, seed=0)
    posed: Any = problem
    curves = problem.curves()
    choices = Surrogate(settings(problem, make_prior(posed, curves))).ask(12, 0)
    assert len(set(choices)) == 12
    costs = problem.costs.values(problem.objectives[1:], choices)[:, 0]
    assert np.ptp(costs) > 0.4 * problem.costs.values(problem.objectives[1:], [problem.space.dense])[0, 0]
    random = drawn(problem.space.levels, 200, np.random.default_rng(0))
    cheap = problem.costs.values(problem.objectives[1:], random)[:, 0]
    for choice, cost in zip(choices, costs, strict=True):  # no random choice of its cost is expected to be better
        rivals = random[cheap <= cost]
        assert not len(rivals) or curves.predict([choice])[0] <= curves.predict(rivals).min() + 1e-9


def test_without_a_prior_it_learns_all_objectives() -> None:
    problem = landscape_problem(8, seed=0)
    sampler = Surrogate(settings(problem, None, batch=16))
    seen: list[tuple[int, ...]] = []
    volumes = []
    for batch in range(6):
        choices = [choice for choice in sampler.ask(16, batch) if choice not in seen]
        sampler.tell(told(problem, choices, len(seen)))
        seen += choices
        rows = np.array([one.values for one in told(problem, seen)])
        volumes.append(hypervolume(rows / np.array([0.9, 1000.0]), [1.0, 1.0]))
    rng = np.random.default_rng(1)
    random = told(problem, [tuple(map(int, row)) for row in drawn(problem.space.levels, len(seen), rng)])
    assert volumes[-1] > hypervolume(np.array([one.values for one in random]) / np.array([0.9, 1000.0]), [1.0, 1.0])


def test_thousands_of_trials_are_fitted_in_part() -> None:
    problem = landscape_problem(6, seed=0)
    posed: Any = problem
    sampler = Surrogate(settings(problem, make_prior(posed), trials=5000))
    every = list(
        dict.fromkeys(tuple(map(int, row)) for row in drawn(problem.space.levels, 700, np.random.default_rng(0)))
    )
    sampler.tell(told(problem, every))
    some = sampler._known.relevant()
    assert len(some.values) == 256
    front = {tuple(map(int, row)) for row in sampler._known.front().choices}
    assert front <= {tuple(map(int, row)) for row in some.choices}
    fresh = sampler.ask(32, 0)
    assert len(set(fresh)) == 32
    assert not set(fresh) & set(every)


def test_policies_that_several_choices_stand_for_are_proposed_once() -> None:
    """Where the first variable is narrowest the others do not count."""
    problem = landscape_problem(3, levels=3, seed=0)
    posed: Any = problem

    def canonical(choice: tuple[int, ...]) -> tuple[int, ...]:
        return choice if choice[0] else (0, 2, 2)

    sampler = Surrogate(settings(problem, replace(make_prior(posed), canonical=canonical)))
    choices = sampler.ask(8, 0)
    assert all(canonical(choice) == choice for choice in choices)
    assert len(set(choices)) == 8


def test_batches_and_milestones() -> None:
    assert [batch_size(trials) for trials in (1, 200, 500, 1000, 10**6)] == [8, 8, 12, 24, 32]
    found = [milestone(count) for count in range(200)]
    assert found[:8] == [0, 0, 0, 0, 4, 5, 5, 7]
    assert all(one <= count for count, one in enumerate(found))
    assert len(set(found)) < 20


def test_moves_stay_inside_and_near() -> None:
    rng = np.random.default_rng(0)
    levels = (4, 1, 9, 2)
    bases = np.array([[0, 0, 4, 1], [3, 0, 8, 0]])
    rows = moved(bases, levels, 400, rng)
    assert ((rows >= 0) & (rows < np.array(levels))).all()
    apart = np.abs(rows[:, None, :] - bases[None, :, :]).sum(axis=2).min(axis=1)
    assert apart.max() <= 8
    assert (apart > 0).mean() > 0.6
    mixed = crossed(bases, 100, rng)
    assert ((mixed == bases[0]) | (mixed == bases[1])).all()


def test_the_prior_of_another_problem_is_refused() -> None:
    problem, other = landscape_problem(4), landscape_problem(5)
    posed: Any = other
    with pytest.raises(InputError, match=r"expected damage at \(8, 8, 8, 8\) levels, got \(8, 8, 8, 8, 8\)"):
        settings(problem, make_prior(posed, other.curves()))
    prior = make_prior(posed)
    with pytest.raises(InputError, match=r"expected evaluated columns of 2 objectives, got \(2,\)"):
        settings(problem, replace(prior, evaluated=(2,)))

"""Damage curves of a run on a real network: within their budget, resumable loss by loss; how well they predicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from autoprune.artifacts.layout import PREDICTION
from autoprune.core.errors import InputError
from autoprune.core.files import read_json, write_json
from autoprune.graph import DependencyGraph, SparsityPolicy
from autoprune.pipeline.curves import (
    DAMAGE,
    DAMAGE_SCHEMA,
    PREDICTION_SCHEMA,
    curves_budget,
    damage_note,
    run_damage,
    write_prediction,
)
from autoprune.search.damage import damage_budget
from autoprune.search.evaluation import Evaluator
from autoprune.search.executors import Executor, Job, open_executor
from autoprune.search.objectives import parse_objectives
from autoprune.search.space import SearchSpace
from autoprune.search.trial import Trial
from tests.search.landscape import landscape_problem
from tests.search.models import small_graph, small_pruner, small_task


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(small_pruner(small_graph()), small_task())


class Counting:
    """An executor in this process that counts jobs, and is interrupted after some."""

    def __init__(self, evaluator: Evaluator, stop: int = 10**6) -> None:
        self._evaluator = evaluator
        self._stop = stop
        self.jobs: list[Job] = []

    def run(self, jobs: Iterator[Job]) -> Iterator[tuple[int, Any]]:
        with open_executor(self._evaluator) as inside:
            yield from inside.run(self._counted(jobs))

    def _counted(self, jobs: Iterator[Job]) -> Iterator[Job]:
        for job in jobs:
            if len(self.jobs) == self._stop:
                raise KeyboardInterrupt
            self.jobs.append(job)
            yield job


def posed(folder: Path, graph: DependencyGraph) -> Any:
    space = SearchSpace.load({"rules": [{"match": "*"}]}, graph)
    objectives = parse_objectives(["error"], ["error"], [])
    return SimpleNamespace(space=space, task=small_task(), run=folder, objectives=objectives)


def settings(trials: int = 50, points: int = 0) -> Any:
    return SimpleNamespace(trials=trials, damage_points=points)


def silent(stage: str, done: int, total: int) -> None:
    """No progress."""


def test_interrupted_curves_go_on_where_they_were(tmp_path: Path, evaluator: Evaluator) -> None:
    heard: list[tuple[str, int, int]] = []
    asked = settings(points=4)
    problem, graph = posed(tmp_path / "whole", evaluator.pruner.graph), evaluator.pruner.graph
    everything: Any = Counting(evaluator)
    (tmp_path / "whole").mkdir()
    whole = run_damage(problem, asked, everything, lambda *step: heard.append(step), evaluator.pruner)
    budget = curves_budget(problem, asked, evaluator.pruner)
    assert budget is not None
    assert len(everything.jobs) == budget.losses
    assert heard[-1] == ("damage curves", budget.losses, budget.losses)
    stored = read_json(tmp_path / "whole" / DAMAGE, "curves", DAMAGE_SCHEMA)
    assert stored["evaluations"] == pytest.approx(budget.evaluations, abs=1e-3)
    assert stored["budget"]["samples"] == budget.samples
    (note,) = damage_note(tmp_path / "whole")
    assert (
        note == f"damage curves took {budget.losses} losses on 64 samples each: as much as {budget.losses} evaluations"
    )
    assert damage_note(tmp_path) == ()

    (tmp_path / "parts").mkdir()
    part = posed(tmp_path / "parts", graph)
    first: Any = Counting(evaluator, stop=4)
    with pytest.raises(KeyboardInterrupt):
        run_damage(part, asked, first, silent, evaluator.pruner)
    second: Any = Counting(evaluator)
    again = run_damage(part, asked, second, silent, evaluator.pruner)
    assert len(first.jobs) + len(second.jobs) == budget.losses
    for one, other in zip(whole.tables, again.tables, strict=True):
        np.testing.assert_array_equal(one, other)
    third: Any = Counting(evaluator)
    run_damage(part, settings(trials=9999, points=3), third, silent, evaluator.pruner)
    assert third.jobs == []  # what is complete is read back, whatever the budget would be now

    write_json(tmp_path / "parts" / DAMAGE, {"schema": "autoprune.damage/1", "curves": {}})
    fourth: Any = Counting(evaluator)
    run_damage(part, asked, fourth, silent, evaluator.pruner)
    assert len(fourth.jobs) == budget.losses


def test_curves_are_predicted_unless_widths_are_asked_for(tmp_path: Path, evaluator: Evaluator) -> None:
    problem, nothing = posed(tmp_path, evaluator.pruner.graph), cast("Executor", None)
    heard: list[tuple[str, int, int]] = []
    assert curves_budget(problem, settings(), evaluator.pruner) is None
    found = run_damage(problem, settings(), nothing, lambda *step: heard.append(step), evaluator.pruner)
    assert heard == [("damage curves", 0, 1), ("damage curves", 1, 1)]
    assert found.dense_loss is None
    assert found.measured == ((),) * len(problem.space.variables)
    for variable, table in zip(problem.space.variables, found.tables, strict=True):
        (group,) = variable.groups
        damage = evaluator.pruner.damage()[group]
        np.testing.assert_array_equal(table, [damage[width] for (width,) in variable.widths])
        assert (np.diff(table) <= 0.0).all()
        assert table[0] > table[-1] == 0.0
    again = run_damage(problem, settings(points=3), nothing, silent, evaluator.pruner)  # as it was begun
    assert again.measured == found.measured
    assert damage_note(tmp_path) == ()


def test_a_loss_looks_at_so_many_samples(evaluator: Evaluator) -> None:
    """Batches are of 16: 17 samples are two batches, of which norms are re-estimated on 17."""
    policy = SparsityPolicy({"stem": 4})
    whole = small_task()
    for samples, batches in ((17, 2), (16, 1)):
        model = evaluator.pruner.build(policy, samples)
        assert evaluator.loss(policy, samples) == pytest.approx(whole.mean_loss(model, limit=batches), rel=1e-6)
    assert evaluator.loss(policy) == evaluator.loss(policy, 64) == evaluator.loss(policy, 10**6)


class TestBudget:
    @pytest.mark.parametrize("trials", [100, 200, 1000])
    @pytest.mark.parametrize("variables", [6, 20, 60])
    @pytest.mark.parametrize("recalibrated", [0, 500])
    def test_a_twentieth_of_the_trials(self, trials: int, variables: int, recalibrated: int) -> None:
        budget = damage_budget((8,) * variables, trials, 5000, 2, recalibrated=recalibrated)
        fewest = budget.samples == 128  # less would tell nothing
        assert budget.evaluations <= (0.06 if fewest else 0.05) * trials
        assert 128 <= budget.samples <= 1024
        assert budget.losses == 1 + variables * budget.points

    def test_more_trials_buy_more_samples(self) -> None:
        found = [damage_budget((8,) * 40, trials, 2000, 3) for trials in (20, 60, 200, 2000)]
        samples = [budget.samples for budget in found]
        assert samples == sorted(samples)
        assert (samples[0], samples[-1]) == (128, 1024)

    def test_what_the_user_asks_for_is_measured(self) -> None:
        assert damage_budget((8,) * 40, 20, 2000, 5).points == 5
        with pytest.raises(InputError, match="expected at least 1 width a variable, got 0"):
            damage_budget((8,), 20, 2000, 0)

    def test_whole_batches_are_counted(self) -> None:
        budget = damage_budget((2,) * 10, 100, 1000, 4, batch=1000)
        assert budget.samples == 1000
        assert budget.evaluations == budget.losses == 11


def test_prediction_of_a_landscape(tmp_path: Path) -> None:
    problem = landscape_problem(10, seed=1, coupling=1.0)
    rng = np.random.default_rng(0)
    choices = [problem.space.random(rng) for _ in range(90)]
    policies = [problem.space.policy(choice) for choice in choices]
    trials = [
        Trial(i, p, c, {"error": problem.landscape.error(p)}, {}, True, 0.0, "sampler", True, 0.1)
        for i, (p, c) in enumerate(zip(policies, choices, strict=True))
    ]
    trials[40] = replace(trials[40], objectives={})  # failed
    within: Any = SimpleNamespace(space=problem.space, run=tmp_path, objectives=problem.objectives)
    write_prediction(within, problem.curves(), trials)
    found = read_json(tmp_path / PREDICTION, "prediction", PREDICTION_SCHEMA)
    assert found["n"] == 89 - 16
    assert found["kendall_corrected"] > found["kendall_damage"]
    assert 0.5 < found["kendall_damage"] < found["spearman_damage"] < found["spearman_corrected"] < 1.0

    write_prediction(within, problem.curves(), trials[:3])
    few = read_json(tmp_path / PREDICTION, "prediction", PREDICTION_SCHEMA)
    assert (few["n"], few["spearman_damage"], few["spearman_corrected"]) == (0, None, None)

"""Searches that race: who is stopped is dominated, and nothing depends on where or in how many goes it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph, trace
from autoprune.pareto.dominance import non_dominated
from autoprune.pruning.pruner import Pruner
from autoprune.search.evaluation import Evaluation, Evaluator
from autoprune.search.executors import ExecutorSettings, open_executor
from autoprune.search.objectives import Bound, Costs, Objective, parse_objectives
from autoprune.search.space import SearchSpace
from autoprune.search.study import Seed, StudySettings, Trial, run_search
from autoprune.search.trial import Origin
from autoprune.tuning.task import Task
from tests.search.models import Net, example, small_task

TRIALS = 60


@dataclass(frozen=True, eq=False)
class Raced:
    """A small trained network, what it is searched for, and its evaluator."""

    graph: DependencyGraph
    space: SearchSpace
    objectives: tuple[Objective, ...]
    bounds: tuple[Bound, ...]
    costs: Costs
    task: Task
    evaluator: Evaluator


@pytest.fixture(scope="module")
def problem() -> Raced:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, task = Net(), small_task(512)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(4):
        for images, labels in task.train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    graph = trace(model.eval(), example())
    space = SearchSpace.load({"rules": [{"match": "*", "multiple": 1}]}, graph)
    evaluator = Evaluator(Pruner(graph, "obs", task.calibration_batches(2)), task)
    assert evaluator.allow_races([space.policy(space.uniform(0.5))]) is None
    objectives = parse_objectives(["error", "macs"], ["error"], [])
    return Raced(graph, space, objectives, (), Costs(graph, space, {}), task, evaluator)


def search(problem: Raced, folder: Path, workers: int = 1, **arguments: Any) -> tuple[Trial, ...]:
    settings = StudySettings(trials=arguments.pop("trials", TRIALS), sampler="random", batch=10, racing=True)
    origin: Origin = "uniform"
    seeds = [Seed(problem.space.policy(problem.space.uniform(ratio)), origin) for ratio in (0.0, 0.25, 0.5, 0.75)]
    with open_executor(problem.evaluator, ExecutorSettings("local", workers=workers)) as executor:
        return run_search(problem, executor, settings, seeds=seeds, folder=folder, **arguments)


@pytest.fixture(scope="module")
def trials(problem: Raced, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, ...]:
    return search(problem, tmp_path_factory.mktemp("raced"))


def values(trials: tuple[Trial, ...]) -> Any:
    return np.array([[t.objectives["error"], t.objectives["macs"]] for t in trials])


def test_who_is_stopped_is_dominated(problem: Raced, trials: tuple[Trial, ...]) -> None:
    stopped = [t for t in trials if t.raced_out]
    assert len(stopped) >= 8
    assert all(t.number >= 10 for t in stopped)  # the first batch has no rivals
    for trial in stopped:
        assert 0 < trial.raced_out < 512
        whole = problem.evaluator.evaluate(trial.policy)
        assert isinstance(whole, Evaluation)
        better = [t for t in trials if not t.raced_out and t.objectives["macs"] <= trial.objectives["macs"]]
        assert min(t.objectives["error"] for t in better) < whole.value
        assert list(trial.metrics) == ["accuracy"]
        assert trial.metrics["accuracy"] == pytest.approx(1.0 - trial.objectives["error"])
    front = np.flatnonzero(non_dominated(values(trials)))
    assert not any(trials[place].raced_out for place in front)


def test_the_rest_is_judged_as_without_races(problem: Raced, trials: tuple[Trial, ...]) -> None:
    for trial in [t for t in trials if not t.raced_out][:20]:
        whole = problem.evaluator.evaluate(trial.policy)
        assert isinstance(whole, Evaluation)
        assert (trial.objectives["error"], trial.metrics) == (whole.value, whole.metrics)


def test_the_same_with_workers(problem: Raced, trials: tuple[Trial, ...], tmp_path: Path) -> None:
    assert search(problem, tmp_path, workers=2) == trials


def test_the_same_when_interrupted(problem: Raced, trials: tuple[Trial, ...], tmp_path: Path) -> None:
    def stop(progress: Any) -> None:
        if progress.done == 37:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(problem, tmp_path, progress=stop)
    assert search(problem, tmp_path) == trials


def test_more_trials_go_on_with_the_same_races(problem: Raced, trials: tuple[Trial, ...], tmp_path: Path) -> None:
    search(problem, tmp_path, trials=34)
    assert search(problem, tmp_path) == trials


def test_a_search_without_races_does_not_go_on_as_one_with(problem: Raced, tmp_path: Path) -> None:
    search(problem, tmp_path, trials=5)
    settings = StudySettings(trials=5, sampler="random", batch=10)
    with (
        open_executor(problem.evaluator) as executor,
        pytest.raises(InputError, match="expected racing True of the search stored there, got False"),
    ):
        run_search(problem, executor, settings, folder=tmp_path)

"""Fine-tuning at growing fidelity, for real: what is promoted, what is kept; interruptions change nothing."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.graph.policy import SparsityPolicy
from autoprune.pipeline.problem import SearchSettings
from autoprune.pipeline.training import SHORT, Trained, train
from autoprune.pruning.pruner import Pruner
from autoprune.search.evaluation import Evaluator
from autoprune.search.executors import ExecutorSettings, Job, open_executor
from autoprune.search.objectives import Objective
from autoprune.search.trial import Trial
from autoprune.search.tuned import Tuned
from autoprune.tuning.settings import FinetuneSettings
from tests.search.models import small_graph, small_task

GRAPH, TASK = small_graph(), small_task()
LITTLE = FinetuneSettings(epochs=2, lr=1e-3)


def problem(run: Path) -> Any:
    objectives = (
        Objective(TASK.quality, TASK.quality, evaluated=True),
        Objective("latency_p50", "latency_p50", "here"),
    )
    return SimpleNamespace(graph=GRAPH, task=TASK, objectives=objectives, profiles={"here": None}, run=run)


def trials() -> list[Trial]:
    """Six policies, the slower the better."""
    found = []
    for number in range(6):
        policy = SparsityPolicy({g.id: max(1, g.size * (number + 1) // 8) for g in GRAPH.groups.values()})
        values = {TASK.quality: 0.9 - 0.1 * number, "latency_p50": 10.0 * (number + 1)}
        found.append(Trial(number, policy, (number,), values, {}, True, 0.0, "sampler", True, 0.0))
    return found


TRIALS = trials()


class Counting:
    """An executor that counts its jobs and can stop after some of them."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.jobs: list[Job] = []
        self._stop_after = stop_after
        self._inner = open_executor(Evaluator(Pruner(GRAPH, "l1"), TASK), ExecutorSettings())

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        for answer in self._inner.run(self._counted(jobs)):
            yield answer
            if self._stop_after is not None and len(self.jobs) >= self._stop_after:
                raise KeyboardInterrupt

    def _counted(self, jobs: Sequence[Job]) -> Iterator[Job]:
        for job in jobs:
            self.jobs.append(job)
            yield job


def trained(run: Path, stop_after: int | None = None, **changes: Any) -> tuple[Trained, Counting]:
    settings = SearchSettings(**{"members": 2, "finetune": LITTLE, "criterion": "l1", **changes})
    executor = Counting(stop_after)
    found = train(TRIALS, problem(run), settings, executor, lambda *_: None)  # type: ignore[arg-type]
    return found, executor


def states(found: Trained) -> list[Any]:
    return [m.state for m in found.members if isinstance(m, Tuned)]


def equal(first: Trained, second: Trained) -> bool:
    pairs = zip(states(first), states(second), strict=True)
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


def test_without_candidates_members_are_trained_at_once(tmp_path: Path) -> None:
    found, executor = trained(tmp_path)
    assert len(found.members) == len(executor.jobs) == 2
    assert [set(level) for level in found.levels] == [{"none", "full"}] * 2


def test_candidates_are_trained_a_little_and_the_promising_in_full(tmp_path: Path) -> None:
    found, executor = trained(tmp_path, candidates=5, short_epochs=1)
    assert [job.args[1].epochs for job in executor.jobs] == [1] * 5 + [2] * 2
    assert [set(level) for level in found.levels].count({"none", "short", "full"}) == 2
    assert [set(level) for level in found.levels].count({"none", "short"}) == 3
    promoted = [level for level in found.levels if "full" in level]
    for member, level in zip(found.members, promoted, strict=True):
        assert isinstance(member, Tuned)
        assert (member.before, member.metrics) == (level["none"], level["full"])
        assert TASK.objective(member.metrics) <= TASK.objective(level["short"])  # it went on from there
    assert len(list((tmp_path / "tuned" / SHORT).glob("*.json"))) == 5


@pytest.mark.parametrize("stop_after", [2, 6])
def test_interrupted_it_ends_as_it_would_have(stop_after: int, tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole", candidates=5)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", stop_after, candidates=5)
    again, executor = trained(tmp_path / "cut", candidates=5)
    assert len(executor.jobs) == 7 - stop_after
    assert equal(whole, again)
    assert again.levels == whole.levels


def test_other_settings_are_trained_anew(tmp_path: Path) -> None:
    trained(tmp_path)
    assert len(trained(tmp_path)[1].jobs) == 0
    assert len(trained(tmp_path, finetune=LITTLE.model_copy(update={"lr": 2e-3}))[1].jobs) == 2
    assert len(trained(tmp_path, trainer=halve)[1].jobs) == 2


def halve(model: nn.Module, *_: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)


def refuse(model: nn.Module, *_: Any) -> None:
    raise ValueError("not today")


def test_a_users_own_training_in_worker_processes(tmp_path: Path) -> None:
    evaluator = Evaluator(Pruner(GRAPH, "l1"), TASK)
    settings = SearchSettings(members=2, finetune=LITTLE, criterion="l1", trainer=refuse)
    with open_executor(evaluator, ExecutorSettings(workers=2)) as executor:
        found = train(TRIALS, problem(tmp_path), settings, executor, lambda *_: None)
    assert all(isinstance(member, Failure) for member in found.members)
    assert "tests.pipeline.test_training:refuse raised ValueError: not today" in str(found.members[0])
    assert found.levels == ({}, {})


def test_where_every_short_training_fails_that_is_what_comes_back(tmp_path: Path) -> None:
    found, executor = trained(tmp_path, candidates=4, trainer=refuse)
    assert len(executor.jobs) == len(found.members) == 4
    assert all(isinstance(member, Failure) for member in found.members)


def test_fewer_candidates_than_members_are_refused() -> None:
    with pytest.raises(InputError, match="expected candidates of at least as many as members, 8, got 5"):
        SearchSettings(candidates=5)


def test_a_full_disk_is_not_the_members_fault(tmp_path: Path) -> None:
    """As far as a limit on the size of files can stand for one."""
    whole, _ = trained(tmp_path / "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, before[1]))
    try:
        with pytest.raises(
            AutopruneError, match=r"cannot write .*\.checkpoint: File too large\. .* make room, and start"
        ):
            trained(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    again, executor = trained(tmp_path / "run")
    assert len(executor.jobs) == 2
    assert equal(whole, again)

"""Evaluation: the task's own verdict, the same every time and everywhere; failures are data."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.errors import Failure, InputError
from autoprune.graph import DependencyGraph, SparsityPolicy
from autoprune.pruning.pruner import Pruner
from autoprune.search import evaluation
from autoprune.search.evaluation import Evaluation, Evaluator
from autoprune.search.executors import ExecutorSettings, Job, open_executor
from tests.search.models import small_graph, small_pruner, small_task

HALF = SparsityPolicy({"stem": 4, "block1.conv1": 8, "block2.conv1": 4})


@pytest.fixture(scope="module")
def graph() -> DependencyGraph:
    torch.set_num_threads(1)
    return small_graph()


@pytest.fixture(scope="module")
def pruner(graph: DependencyGraph) -> Pruner:
    return small_pruner(graph)


def test_is_the_tasks_own_verdict_on_the_pruned_model(pruner: Pruner) -> None:
    task = small_task()
    found = Evaluator(pruner, task).evaluate(HALF)
    assert isinstance(found, Evaluation)
    expected = task.evaluate(pruner.build(HALF))
    assert found.metrics == expected
    assert found.value == pytest.approx(1.0 - expected["accuracy"])
    assert found.seconds > 0.0


def test_loss_looks_at_the_first_samples(pruner: Pruner) -> None:
    task = small_task()
    model = pruner.build(HALF)
    found = Evaluator(pruner, task, loss_samples=20).loss(HALF)
    images = torch.cat([batch[0] for batch in task.validation][:2])
    labels = torch.cat([batch[1] for batch in task.validation][:2])
    with torch.no_grad():
        assert found == pytest.approx(float(nn.functional.cross_entropy(model(images), labels)), rel=1e-5)
    assert Evaluator(pruner, task).loss(HALF) == pytest.approx(task.mean_loss(model), rel=1e-6)


def test_without_a_loss_the_objective_stands_in(pruner: Pruner) -> None:
    task = replace(small_task(), loss=None)
    found = Evaluator(pruner, task).loss(HALF)
    assert found == pytest.approx(1.0 - task.evaluate(pruner.build(HALF))["accuracy"])


def noisy(model: nn.Module, batches: Iterable[Any]) -> float:
    """A metric that draws from every generator."""
    return float(torch.rand(())) + float(np.random.rand()) + random.random()


def test_repeats_whatever_ran_before_and_leaves_no_trace(pruner: Pruner) -> None:
    evaluator = Evaluator(pruner, replace(small_task(), metrics={"noise": noisy}), threads=1, seed=7)
    torch.manual_seed(1)
    first = evaluator.evaluate(HALF)
    state = torch.get_rng_state()
    torch.rand(5)
    torch.set_num_threads(2)
    try:
        second = evaluator.evaluate(HALF)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert isinstance(first, Evaluation)
    assert isinstance(second, Evaluation)
    assert first.metrics == second.metrics
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


class Reads:
    """A loader that counts how often it is read."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        self.count += 1
        return iter(self.batches)


def test_validation_is_read_once_where_it_fits(pruner: Pruner, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(list(small_task().validation))
    task = replace(small_task(), validation=reads)
    evaluator = Evaluator(pruner, task)
    found = [evaluator.evaluate(HALF), evaluator.evaluate(HALF)]
    evaluator.loss(HALF)
    assert reads.count == 1
    monkeypatch.setattr(evaluation, "CACHE_BYTES", 1)
    careful = Evaluator(pruner, task)
    again = [careful.evaluate(HALF), careful.evaluate(HALF)]
    assert reads.count == 4
    assert {e.value for e in [*found, *again] if isinstance(e, Evaluation)} == {found[0].value}  # type: ignore[union-attr]


class Logged:
    """A loader that notes every reading in a file, whichever process reads."""

    def __init__(self, batches: list[Any], log: Path) -> None:
        self.batches = batches
        self.log = log

    def __iter__(self) -> Iterator[Any]:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return iter(self.batches)


def test_a_worker_reads_validation_once_and_calibration_never(graph: DependencyGraph, tmp_path: Path) -> None:
    batches = list(small_task().validation)
    task = replace(
        small_task(),
        validation=Logged(batches, tmp_path / "validation"),
        calibration=Logged(batches, tmp_path / "calibration"),
    )
    evaluator = Evaluator(Pruner(graph, "obs", task.calibration_batches(2)), task)
    policies = [SparsityPolicy({**HALF, "block1.conv1": width}) for width in range(2, 10)]
    jobs = [Job(place, Evaluator.evaluate, (policy, place)) for place, policy in enumerate(policies)]
    with open_executor(evaluator, ExecutorSettings("local", workers=2)) as executor:
        assert all(isinstance(result, Evaluation) for _, result in executor.run(jobs))
    readers = (tmp_path / "validation").read_text().split()
    assert 1 <= len(readers) == len(set(readers)) <= 2
    assert (tmp_path / "calibration").read_text().split() == [str(os.getpid())]


def test_same_in_another_process(pruner: Pruner, tmp_path: Path) -> None:
    evaluator = Evaluator(pruner, small_task())
    here = evaluator.evaluate(HALF), evaluator.loss(HALF)
    (tmp_path / "evaluator.pickle").write_bytes(pickle.dumps(evaluator))
    code = (
        "import pickle, sys; from autoprune.graph import SparsityPolicy\n"
        "evaluator = pickle.load(open(sys.argv[1], 'rb'))\n"
        f"policy = SparsityPolicy({dict(HALF)!r})\n"
        "print(repr(evaluator.evaluate(policy).value), repr(evaluator.loss(policy)))"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "evaluator.pickle")]
    there = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout
    assert isinstance(here[0], Evaluation)
    assert there.split() == [repr(here[0].value), repr(here[1])]


def broken(model: nn.Module, batches: Iterable[Any]) -> float:
    raise ValueError("metric broke")


def not_a_number(model: nn.Module, batches: Iterable[Any]) -> float:
    return float("nan")


def hungry(model: nn.Module, batches: Iterable[Any]) -> float:
    torch.empty(2**50)
    return 0.0


def test_failures_are_data(pruner: Pruner) -> None:
    def judged(metric: Any) -> Failure:
        found = Evaluator(pruner, replace(small_task(), metrics={"m": metric})).evaluate(HALF, 17)
        assert isinstance(found, Failure)
        return found

    assert "metric broke" in judged(broken).message
    assert judged(not_a_number).kind == "not finite"
    assert judged(not_a_number).message == "trial 17: m is nan"
    unknown = Evaluator(pruner, small_task()).loss({"nothing": 3})
    assert isinstance(unknown, Failure)
    assert unknown.kind == "InputError"
    assert "unknown group 'nothing'" in unknown.message


def test_out_of_memory_says_what_to_do(pruner: Pruner) -> None:
    found = Evaluator(pruner, replace(small_task(), metrics={"m": hungry})).evaluate(HALF)
    assert isinstance(found, Failure)
    assert found.kind == "out of memory"
    assert "smaller batches" in found.hint


def test_empty_validation_is_a_failure(pruner: Pruner) -> None:
    found = Evaluator(pruner, replace(small_task(), validation=[])).evaluate(HALF)
    assert isinstance(found, Failure)
    assert "validation loader is empty" in found.message


def test_misuse_is_refused(pruner: Pruner) -> None:
    with pytest.raises(InputError, match="threads and loss_samples >= 1, got 0"):
        Evaluator(pruner, small_task(), threads=0)

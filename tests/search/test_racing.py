"""Races: the tests' error rate against the truth, their power, and which metrics race at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoprune.graph import SparsityPolicy
from autoprune.search.raceable import find_rules, order_of, run_race
from autoprune.search.racing import LEVEL, CountRace, MeanRace, Race, Rules, upper_tail
from autoprune.tuning.reading import Samples
from autoprune.tuning.task import Task
from tests.search.models import Net, small_task

TOTAL = 1000


@given(st.data())
def test_the_tail_is_that_of_the_hypergeometric_distribution(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 60))
    bad = data.draw(st.integers(0, total))
    seen = data.draw(st.integers(0, total))
    errors = data.draw(st.integers(0, seen))
    ways = sum(math.comb(bad, x) * math.comb(total - bad, seen - x) for x in range(errors, min(bad, seen) + 1))
    exact = ways / math.comb(total, seen)
    found = upper_tail(errors, seen, bad, total)
    assert found == pytest.approx(exact, abs=1e-12) if errors * total > seen * bad else found == 1.0 >= exact


def test_the_tail_of_large_splits() -> None:
    assert upper_tail(5_000, 25_000, 25_000, 50_000) == 1.0
    assert upper_tail(20_000, 25_000, 25_000, 50_000) < 1e-100
    normal = 0.5 * math.erfc(2.0 / math.sqrt(2.0))  # two standard deviations of the mean
    deviation = math.sqrt(25_000 * 0.25 * 0.5)
    assert upper_tail(round(12_500 + 2 * deviation), 25_000, 25_000, 50_000) == pytest.approx(normal, rel=0.05)


def looked_at(race: Race, losses: Any) -> int:
    """Samples of a candidate that a race looks at; all of them where it is not stopped."""
    seen = 0
    for part in race.parts:
        lost = race.lost(float(np.mean(losses[seen : seen + part])), part)
        seen += part
        if lost:
            return seen
    return len(losses)


def stopped(make: Callable[[], Race], losses: Any, times: int, seed: int = 0) -> float:
    """In which share of random orders a candidate is stopped."""
    rng = np.random.default_rng(seed)
    return float(np.mean([looked_at(make(), rng.permutation(losses)) < len(losses) for _ in range(times)]))


@pytest.mark.parametrize("errors", [20, 100, 500, 900])
def test_as_good_as_the_rival_is_stopped_no_oftener_than_said_by_counts(errors: int) -> None:
    losses = np.repeat([1.0, 0.0], [errors, TOTAL - errors])
    rate = stopped(lambda: CountRace(TOTAL, errors / TOTAL), losses, 4000)
    assert rate <= LEVEL + 3 * math.sqrt(LEVEL / 4000)


@pytest.mark.parametrize("shape", ["even", "heavy", "rare"])
def test_as_good_as_the_rival_is_stopped_no_oftener_than_said_by_means(shape: str) -> None:
    rng = np.random.default_rng(1)
    draws = {"even": rng.uniform(0, 1, TOTAL), "heavy": rng.pareto(1.5, TOTAL), "rare": rng.uniform(0, 1, TOTAL) < 0.02}
    losses = draws[shape].astype(float)
    rate = stopped(lambda: MeanRace(TOTAL, float(losses.mean())), losses, 1500)
    assert rate <= LEVEL + 3 * math.sqrt(LEVEL / 1500)


def test_what_is_much_worse_is_stopped_early() -> None:
    rng = np.random.default_rng(2)
    for error, rival, most in ((0.9, 0.1, 0.04), (0.3, 0.1, 0.2), (0.2, 0.1, 0.5)):
        losses = (rng.permutation(TOTAL) < error * TOTAL).astype(float)
        assert looked_at(CountRace(TOTAL, rival), losses) <= most * TOTAL
    poor = rng.gamma(2.0, 0.5, TOTAL)
    assert looked_at(MeanRace(TOTAL, 0.3), poor) <= 0.25 * TOTAL
    assert looked_at(MeanRace(TOTAL, 0.0), poor) <= 0.05 * TOTAL  # certain at once


def test_a_small_split_is_judged_whole() -> None:
    assert CountRace(10, 0.1).parts == ()
    assert MeanRace(20, 0.1).parts == ()
    for total in (64, 500, 1001, 60_000):
        for race in (CountRace(total, 0.1), MeanRace(total, 0.1)):
            assert min(race.parts) >= 8
            assert sum(race.parts) < total


def test_orders_differ_by_policy_and_repeat() -> None:
    one, other = SparsityPolicy({"a": 3}), SparsityPolicy({"a": 4})
    assert torch.equal(order_of(one, 0, 50), order_of(dict(one), 0, 50))
    assert not torch.equal(order_of(one, 0, 50), order_of(other, 0, 50))
    assert not torch.equal(order_of(one, 0, 50), order_of(one, 1, 50))
    assert sorted(order_of(one, 0, 50).tolist()) == list(range(50))


def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def samples_of(task: Task) -> Samples:
    found = Samples.of(list(task.validation), task.inputs_of)
    assert found is not None
    return found


def rules_of(task: Task) -> Rules | str | None:
    samples = samples_of(task)
    order = order_of({"a": 1}, 0, len(samples))
    return find_rules(task, model(), samples, list(task.validation), order)


def pooled(model: nn.Module, batches: Iterable[Any]) -> float:
    """How often an image's own output is the nearest of the pool to a noisy copy's: the fewer, the easier."""
    images = torch.cat([batch[0] for batch in batches])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    distances = torch.cdist(model(images), model(images + 0.3 * noise))
    return float((distances.argmin(1) == torch.arange(len(images))).float().mean())


def always(model: nn.Module, batches: Iterable[Any]) -> float:
    return 1.0


def percent(model: nn.Module, batches: Iterable[Any]) -> float:
    return 100.0 * small_task().judge(model, batches)["accuracy"]


def test_which_metrics_race() -> None:
    task = small_task(512)
    assert rules_of(task) == Rules("counts", 512)
    loss = Task(task.train, task.validation, loss=task.loss)
    assert rules_of(loss) == Rules("means", 512)
    told = rules_of(replace(task, metrics={"recall": pooled}))
    assert isinstance(told, str)
    assert "'recall' of the whole split" in told
    assert "is not the mean of its parts'" in told
    assert rules_of(replace(task, metrics={"agreement": always})) is None
    told = rules_of(replace(task, metrics={"percent": percent}))
    assert isinstance(told, str)
    assert "expected 'percent' to be a share from 0 to 1" in told
    assert rules_of(small_task(16)) == "the validation split has only 16 samples"


@pytest.mark.parametrize("kind", ["accuracy", "loss"])
def test_who_holds_on_has_the_metric_of_the_whole(kind: str) -> None:
    task = small_task(512)
    task = task if kind == "accuracy" else Task(task.train, task.validation, loss=task.loss)
    rules, samples, judged = rules_of(task), samples_of(task), task.evaluate(model())
    assert isinstance(rules, Rules)
    order = order_of({"a": 1}, 0, 512)
    own = task.objective(judged)
    found = run_race(rules, task, model(), samples, order, own)
    assert found is not None
    assert found.samples == 512
    assert found.metric == (judged[kind] if kind == "accuracy" else pytest.approx(judged[kind], rel=1e-6))
    beaten = run_race(rules, task, model(), samples, order, 0.3 * own)
    assert beaten is not None
    assert beaten.samples < 512
    part = task.judge(model(), samples.at(order[: beaten.samples]))[kind]
    assert beaten.metric == pytest.approx(part, rel=1e-6)


def test_values_that_break_the_rules_call_a_race_off() -> None:
    task = small_task(512)
    order = order_of({"a": 1}, 0, 512)
    halves = replace(task, metrics={"accuracy": lambda model, batches: 0.123456})
    assert run_race(Rules("counts", 512), halves, model(), samples_of(task), order, 0.1) is None
    broken = replace(task, metrics={"accuracy": lambda model, batches: math.nan})
    assert run_race(Rules("means", 512), broken, model(), samples_of(task), order, 0.1) is None

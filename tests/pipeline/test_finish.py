"""Which candidates become members, and which members leave the front: on trials and rows made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autoprune.core.errors import AutopruneError, Failure
from autoprune.graph.policy import SparsityPolicy
from autoprune.pipeline.finish import choose, surely_dominated
from autoprune.search.objectives import Objective
from autoprune.search.trial import Trial
from autoprune.tuning.task import Task


def problem(samples: int = 400) -> Any:
    """Error against latency of one group of eight units."""
    batch = (torch.zeros(samples, 2), torch.zeros(samples, dtype=torch.long))
    return SimpleNamespace(
        objectives=(Objective("error", "error", evaluated=True), Objective("latency_p50", "latency_p50", "here")),
        graph=SimpleNamespace(widths=lambda policy: {"a": policy.get("a", 8)}),
        task=Task.classification([batch], [batch]),
        profiles={"here": None},
    )


def trial(number: int, width: int, error: float, latency: float, failure: Failure | None = None) -> Trial:
    values = {"latency_p50": latency} if failure else {"error": error, "latency_p50": latency}
    policy = SparsityPolicy({"a": width})
    return Trial(number, policy, (width,), values, {}, failure is None, 0.0, "sampler", True, 0.0, failure)


def test_members_spread_over_the_front_fastest_first() -> None:
    trials = [trial(i, 1 + i % 7, 0.5 - 0.04 * i, 10.0 * 1.2**i) for i in range(12)]
    dominated = trial(12, 3, 0.9, 500.0)
    chosen = choose([*trials, dominated], problem(), 4)
    latencies = [each.objectives["latency_p50"] for each in chosen]
    assert len(chosen) == 4
    assert latencies == sorted(latencies)
    assert {latencies[0], latencies[-1]} == {10.0, 10.0 * 1.2**11}
    assert dominated not in chosen


def test_the_dense_model_and_failures_are_no_members() -> None:
    found = choose(
        [trial(0, 8, 0.1, 100.0), trial(1, 4, 0.2, 50.0), trial(2, 2, 0, 1, Failure("nan", "x"))], problem(), 5
    )
    assert [each.number for each in found] == [1]


def test_nothing_usable_says_what_went_wrong() -> None:
    with pytest.raises(AutopruneError, match=r"no policy .* Evaluations failed with: nan: loss is nan"):
        choose([trial(0, 4, 0, 1, Failure("nan", "loss is nan"))], problem(), 5)


def row(accuracy: float, predicted: float, measured: float | None = None) -> dict[str, object]:
    found: dict[str, object] = {"accuracy": accuracy, "latency_p50_us": predicted}
    return found if measured is None else found | {"measured_latency_p50_us": measured}


def test_a_member_leaves_only_where_it_is_beaten_beyond_the_noise() -> None:
    # the standard error of an accuracy of 0.9 over 400 samples is 0.015
    slower_and_as_good = [row(0.90, 100.0), row(0.91, 80.0)]
    assert surely_dominated(slower_and_as_good, problem()) == [False, False]
    slower_and_worse = [row(0.90, 100.0), row(0.93, 80.0)]
    assert surely_dominated(slower_and_worse, problem()) == [True, False]
    assert surely_dominated([row(0.90, 80.0), row(0.99, 100.0)], problem()) == [False, False]


def test_measured_latency_counts_where_there_is_one() -> None:
    table = [row(0.90, 50.0, measured=100.0), row(0.95, 80.0, measured=70.0)]
    assert surely_dominated(table, problem()) == [True, False]


def test_more_samples_tell_finer_differences_apart() -> None:
    table = [row(0.90, 100.0), row(0.91, 80.0)]
    assert surely_dominated(table, problem(samples=10_000)) == [True, False]

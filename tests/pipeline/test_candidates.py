"""Which candidates become members, and which members stay on which front: on trials and rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.errors import AutopruneError, Failure
from autoprune.graph.policy import SparsityPolicy
from autoprune.pipeline.candidates import JOINT, choose, fronts, promote, standing
from autoprune.search.objectives import Objective
from autoprune.search.trial import Trial
from autoprune.tuning.task import Task

ERROR = Objective("error", "error", evaluated=True)


def problem(samples: int = 400, profiles: tuple[str, ...] = ("here",)) -> Any:
    """Error against the latency of one group of eight units on each profile."""
    batch = (torch.zeros(samples, 2), torch.zeros(samples, dtype=torch.long))
    several = len(profiles) > 1
    latencies = [Objective(f"latency_p50@{p}" if several else "latency_p50", "latency_p50", p) for p in profiles]
    return SimpleNamespace(
        objectives=(ERROR, *latencies),
        graph=SimpleNamespace(widths=lambda policy: {"a": policy.get("a", 1000)}),
        task=Task.classification([batch], [batch]),
        profiles=dict.fromkeys(profiles),
        noise={},
    )


def trial(number: int, error: float, *latencies: float, failure: Failure | None = None, width: int = 0) -> Trial:
    names = ["latency_p50"] if len(latencies) == 1 else [f"latency_p50@{name}" for name in "abcd"]
    values = dict(zip(names, latencies, strict=False)) | ({} if failure else {"error": error})
    policy = SparsityPolicy({"a": width or 1 + number})
    return Trial(number, policy, (number,), values, {}, failure is None, 0.0, "sampler", True, 0.0, failure)


def numbers(trials: list[Trial]) -> list[int]:
    return [each.number for each in trials]


def test_members_spread_over_the_front_fastest_first() -> None:
    trials = [trial(i, 0.5 - 0.04 * i, 10.0 * 1.2**i) for i in range(12)]
    dominated = trial(12, 0.9, 500.0)
    chosen = choose([*trials, dominated], problem(), 4)
    latencies = [each.objectives["latency_p50"] for each in chosen]
    assert len(chosen) == 4
    assert latencies == sorted(latencies)
    assert {latencies[0], latencies[-1]} == {10.0, 10.0 * 1.2**11}
    assert dominated not in chosen


def test_the_dense_model_and_failures_are_no_members() -> None:
    trials = [trial(0, 0.1, 100.0, width=1000), trial(1, 0.2, 50.0), trial(2, 0, 1, failure=Failure("nan", "x"))]
    assert numbers(choose(trials, problem(), 5)) == [1]


def test_those_that_were_stopped_as_surely_dominated_are_never_chosen() -> None:
    estimated = replace(trial(0, 0.0, 1.0), raced_out=16)  # its error is an estimate from 16 samples
    assert numbers(choose([estimated, trial(1, 0.2, 50.0)], problem(), 5, fill=True)) == [1]


def test_nothing_usable_says_what_went_wrong() -> None:
    with pytest.raises(AutopruneError, match=r"no policy .* Evaluations failed with: nan: loss is nan"):
        choose([trial(0, 0, 1, failure=Failure("nan", "loss is nan"))], problem(), 5)


def test_the_fronts_of_several_devices_and_the_joint_one() -> None:
    assert fronts(problem()) == {JOINT: (0, 1)}
    assert fronts(problem(profiles=("a", "b"))) == {JOINT: (0, 1, 2), "a": (0, 1), "b": (0, 2)}


def test_members_cover_each_devices_front() -> None:
    # Fast on a and slow on b, the other way about, and in between: only the last are far from both single fronts.
    trials = [trial(i, 0.5 - 0.05 * i, 10.0 + i, 100.0 + i) for i in range(5)]
    trials += [trial(10 + i, 0.5 - 0.05 * i, 100.0 + i, 10.0 + i) for i in range(5)]
    trials += [trial(20, 0.4, 30.0, 30.0)]
    two = problem(profiles=("a", "b"))
    chosen = numbers(choose(trials, two, 6))
    assert {0, 10} <= set(chosen)  # the fastest on each
    assert {4, 14} & set(chosen)  # the best
    assert len([n for n in chosen if n < 10]) >= 2
    assert len([n for n in chosen if 10 <= n < 20]) >= 2
    assert 20 in numbers(choose(trials, two, 11))  # on the joint front alone


def test_more_candidates_than_the_front_has_are_filled_from_what_it_dominates() -> None:
    front = [trial(i, 0.5 - 0.1 * i, 10.0 + i) for i in range(3)]
    second = [trial(10 + i, 0.6 - 0.1 * i, 10.5 + i) for i in range(3)]
    third = [trial(20, 0.9, 50.0)]
    trials = [*third, *second, *front]
    assert set(numbers(choose(trials, problem(), 6))) == {0, 1, 2}
    assert set(numbers(choose(trials, problem(), 5, fill=True))) > {0, 1, 2}
    assert 20 not in numbers(choose(trials, problem(), 6, fill=True))
    assert len(choose(trials, problem(), 99, fill=True)) == 7


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12), st.data())
def test_a_choice_holds_each_trial_once_and_is_as_large_as_it_may_be(
    values: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    trials = [trial(i, error / 5, float(a), float(b)) for i, (error, a, b) in enumerate(values)]
    count = data.draw(st.integers(1, 14))
    chosen = numbers(choose(trials, problem(profiles=("a", "b")), count, fill=True))
    assert len(set(chosen)) == len(chosen) == min(count, len(trials))
    assert numbers(choose(trials, problem(profiles=("a", "b")), count, fill=True)) == chosen


def test_promotion_goes_by_what_a_little_training_shows() -> None:
    candidates = [trial(i, 0.5 - 0.01 * i, 10.0 * (1 + i)) for i in range(6)]
    accuracy = [0.50, 0.90, 0.60, 0.95, None, 0.70]  # 1 and 3 make 2 and 5 pointless; 4 failed
    metrics = [None if value is None else {"accuracy": value} for value in accuracy]
    assert promote(candidates, metrics, problem(), 3) == [0, 1, 3]
    assert promote(candidates, metrics, problem(), 4) == [0, 1, 2, 3]
    assert promote(candidates, metrics, problem(), 9) == [0, 1, 2, 3, 5]
    assert promote(candidates, [None] * 6, problem(), 3) == []


def row(accuracy: float, predicted: float, measured: float | None = None) -> dict[str, object]:
    found: dict[str, object] = {"accuracy": accuracy, "latency_p50_us": predicted}
    return found if measured is None else found | {"measured_latency_p50_us": measured}


def test_a_member_leaves_only_where_it_is_beaten_beyond_the_noise() -> None:
    # the standard error of an accuracy of 0.9 over 400 samples is 0.015
    slower_and_as_good = [row(0.90, 100.0), row(0.91, 80.0)]
    assert standing(slower_and_as_good, problem()) == {JOINT: [True, True]}
    slower_and_worse = [row(0.90, 100.0), row(0.93, 80.0)]
    assert standing(slower_and_worse, problem()) == {JOINT: [False, True]}
    assert standing([row(0.90, 80.0), row(0.99, 100.0)], problem()) == {JOINT: [True, True]}


def test_what_two_evaluations_differ_by_is_noise_too() -> None:
    shaky = problem(samples=10_000)
    table = [row(0.90, 100.0), row(0.93, 80.0)]
    assert standing(table, shaky) == {JOINT: [False, True]}
    shaky.noise = {"accuracy": 0.05}
    assert standing(table, shaky) == {JOINT: [True, True]}


def test_measured_latency_counts_where_there_is_one() -> None:
    table = [row(0.90, 50.0, measured=100.0), row(0.95, 80.0, measured=70.0)]
    assert standing(table, problem()) == {JOINT: [False, True]}


def test_more_samples_tell_finer_differences_apart() -> None:
    table = [row(0.90, 100.0), row(0.91, 80.0)]
    assert standing(table, problem(samples=10_000)) == {JOINT: [False, True]}


def test_a_member_stays_for_the_sake_of_one_device() -> None:
    latencies = [(10.0, 90.0), (90.0, 10.0), (30.0, 30.0), (95.0, 95.0)]
    table: list[dict[str, object]] = [
        {"accuracy": share, "latency_p50_us@a": a, "latency_p50_us@b": b}
        for share, (a, b) in zip((0.92, 0.90, 0.91, 0.5), latencies, strict=True)
    ]
    assert standing(table, problem(profiles=("a", "b"), samples=10**6)) == {
        JOINT: [True, True, True, False],
        "a": [True, False, False, False],
        "b": [True, True, True, False],
    }


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=9))
def test_standing_against_comparing_pairs(values: list[tuple[int, int, int]]) -> None:
    table: list[dict[str, object]] = [
        {"accuracy": share / 10, "latency_p50_us@a": float(a), "latency_p50_us@b": float(b)} for share, a, b in values
    ]
    found = standing(table, problem(samples=100, profiles=("a", "b")))
    for name, costs in ((JOINT, (1, 2)), ("a", (1,)), ("b", (2,))):
        for mine, (share, *mine_costs) in enumerate(values):
            noise = float(np.sqrt(share / 10 * (1 - share / 10) / 100))
            beaten = False
            for other, (theirs, *their_costs) in enumerate(values):
                gains = [(theirs - share) / 10 - noise, *(mine_costs[c - 1] - their_costs[c - 1] for c in costs)]
                beaten |= other != mine and min(gains) >= 0 and max(gains) > 0
            # on the edge, rounding decides
            edge = any(abs(abs(theirs - share) / 10 - noise) < 1e-9 for theirs, *_ in values)
            assert edge or found[name][mine] == (not beaten)

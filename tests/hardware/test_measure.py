"""Timing with runners whose times are known, and with real ones for what they return."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch

from autoprune.core.errors import Failure
from autoprune.hardware.measure import (
    Measurement,
    Protocol,
    Sentinel,
    measure_models,
    measure_module,
    run_settings,
    summarise,
    time_runner,
    time_runners,
)
from autoprune.hardware.profile import RuntimeInfo
from autoprune.hardware.runtimes import RunSettings
from tests.hardware.samples import graph_of, header

QUICK = Protocol(sessions=2, minimum_runs=5, maximum_runs=10, target_us=100.0, warmup_runs=2, warmup_us=0.0)


class Clockwork:
    """A runner of known times that remembers how it was run."""

    def __init__(self, *times_us: float, log: list[str] | None = None, name: str = "") -> None:
        self._times = itertools.cycle(times_us)
        self._log, self._name = log if log is not None else [], name
        self.counts: list[int] = []

    def run_us(self, count: int) -> npt.NDArray[np.float64]:
        self.counts.append(count)
        self._log.append(self._name)
        return np.array([next(self._times) for _ in range(count)])


def test_runs_adapt_to_how_short_a_kernel_is() -> None:
    rules = Protocol(minimum_runs=50, maximum_runs=400, target_us=10_000.0, warmup_runs=10, warmup_us=0.0)
    for time_us, expected in ((5.0, 400), (100.0, 100), (1000.0, 50), (19_000.0, 50)):
        runner = Clockwork(time_us)
        assert len(time_runner(runner, rules)) == expected
        assert runner.counts == [3, 7, expected]


def test_slow_models_are_run_less_often() -> None:
    runner = Clockwork(30_000.0)
    time_runner(runner, Protocol())
    assert runner.counts == [3, Protocol().slow_runs]
    assert len(time_runner(Clockwork(30_000.0), Protocol(slow_us=50_000.0))) == 50


def test_warm_up_reaches_its_count_and_its_time() -> None:
    runner = Clockwork(10.0)
    time_runner(runner, Protocol(warmup_runs=10, warmup_us=350.0, target_us=0.0, minimum_runs=1))
    assert runner.counts[:-1] == [3, 7, 10, 10, 10]


def test_sessions_are_interleaved_and_shuffled_by_the_seed() -> None:
    orders = []
    for seed in (0, 0, 1):
        log: list[str] = []
        runners = [Clockwork(10.0, log=log, name=name) for name in "abcdef"]
        rules = Protocol(sessions=3, minimum_runs=1, maximum_runs=1, warmup_runs=1, warmup_us=0.0, seed=seed)
        time_runners(runners, rules)
        sessions = ["".join(log[i : i + 12 : 2]) for i in range(0, 36, 12)]
        assert all(sorted(session) == list("abcdef") for session in sessions)
        orders.append(sessions)
    assert orders[0] == orders[1] != orders[2]
    assert len(set(orders[0])) > 1


def test_summary_is_the_median_session_with_the_spread_of_all() -> None:
    sessions = [np.full(10, 10.0), np.full(10, 30.0), np.full(10, 11.0)]
    found = summarise(sessions)
    assert (found.p50_us, found.p99_us, found.n) == (11.0, 11.0, 30)
    assert found.sessions_us == (10.0, 30.0, 11.0)
    assert found.mean_us == pytest.approx(17.0)
    assert found.us("p90") == 11.0
    doubled = found.scaled(2.0)
    assert (doubled.p50_us, doubled.n, doubled.sessions_us[1]) == (22.0, 30, 60.0)
    assert doubled.mean_us == pytest.approx(34.0)


class Machine:
    """Twice as slow when told so."""

    slow = False


class Part:
    """A kernel on that machine."""

    def __init__(self, time_us: float) -> None:
        self.time_us = time_us

    def run_us(self, count: int) -> npt.NDArray[np.float64]:
        return np.full(count, self.time_us * (2.0 if Machine.slow else 1.0))


def test_a_sentinel_takes_out_what_the_machine_does() -> None:
    """Both are twice as slow in half of the time; the ratio stays."""

    Machine.slow = False
    sentinel = Sentinel(Part(20.0))
    assert sentinel.reference_us == 20.0
    part = Part(7.0)
    [first] = time_runners([part], QUICK, sentinel=sentinel)
    Machine.slow = True
    sentinel.time(part, QUICK)  # the switch happens between two readings: repeated until they agree
    [second] = time_runners([part], QUICK, sentinel=sentinel)
    assert first.p50_us == pytest.approx(7.0)
    assert second.p50_us == pytest.approx(7.0)
    assert 1.0 < sentinel.correction <= 2.0 or sentinel.correction == pytest.approx(2.0)
    assert sentinel.drift > 0


def test_a_measurement_is_gone_on_with_at_the_earlier_reference() -> None:
    Machine.slow = False
    before = Sentinel(Part(20.0))
    Machine.slow = True
    after = Sentinel(Part(20.0), before.reference_us, before.readings_us)
    [found] = time_runners([Part(7.0)], QUICK, sentinel=after)
    Machine.slow = False
    assert found.p50_us == pytest.approx(7.0)
    assert after.reference_us == 20.0
    assert after.readings_us[: len(before.readings_us)] == before.readings_us
    assert after.correction > 1.0


def test_whole_models_keep_the_clocks_time_and_the_pace_beside_it() -> None:
    Machine.slow = False
    sentinel = Sentinel(Part(20.0))
    Machine.slow = True
    [found] = time_runners([Part(7.0)], Protocol(sessions=3, warmup_us=0.0), sentinel=sentinel, scaled=False)
    Machine.slow = False
    assert found.p50_us == pytest.approx(14.0)
    assert found.pace == pytest.approx(2.0)
    assert found.n == 3 * Protocol().runs(14.0)


def test_readings_of_a_slow_sentinel_take_fewer_runs() -> None:
    runner = Clockwork(1_000.0)
    Sentinel(runner)
    assert runner.counts[0] == 50
    assert set(runner.counts[1:]) == {Sentinel.FEWEST_RUNS}


def test_settings_of_a_profile() -> None:
    made = header(
        threads=2, batch=4, precision="int8", layout="NHWC",
        runtime=RuntimeInfo(name="pytorch", version="1", flags={"device": "cuda"}),
    )  # fmt: skip
    assert run_settings(made) == RunSettings(2, 4, "int8", "channels_last", "cuda")
    assert run_settings(header()) == RunSettings()


def test_collection_is_off_while_timing_and_on_after() -> None:
    seen = []

    class Watching(Clockwork):
        def run_us(self, count: int) -> npt.NDArray[np.float64]:
            seen.append(gc.isenabled())
            return super().run_us(count)

    time_runners([Watching(5.0)], QUICK)
    assert not any(seen)
    assert gc.isenabled()

    class Broken(Clockwork):
        def run_us(self, count: int) -> npt.NDArray[np.float64]:
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        time_runners([Broken(5.0)], QUICK)
    assert gc.isenabled()


def test_a_deadline_that_has_passed_leaves_one_session() -> None:
    runner = Clockwork(10.0)
    [found] = time_runners([runner], Protocol(sessions=5, minimum_runs=4, maximum_runs=4), deadline=0.0)
    assert found.n == 4


def test_whole_models_and_failures_keep_their_places() -> None:
    graph = graph_of("Residual")
    steps: list[tuple[str, int, int]] = []
    results = measure_models(
        [graph.module(), b"broken", graph.module(graph.uniform(0.5))],
        protocol=QUICK,
        progress=lambda *step: steps.append(step),
    )
    assert isinstance(results[0], Measurement)
    assert isinstance(results[1], Failure)
    assert isinstance(results[2], Measurement)
    assert results[0].n >= 10
    assert 0 < results[0].p50_us <= results[0].p90_us <= results[0].p95_us <= results[0].p99_us
    assert steps[-1] == ("models", 4, 4)


def test_operators_without_an_emitter_are_a_failure() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.i0(x)

    from autoprune.graph import trace

    found = measure_module(trace(Odd(), torch.randn(2, 3)).module(), protocol=QUICK)
    assert isinstance(found, Failure)
    assert found.kind == "unsupported"
    assert "i0" in found.message


def test_nothing_to_measure() -> None:
    assert measure_models([], protocol=QUICK) == []


def test_whole_models_are_run_equally_often() -> None:
    graph = graph_of("Residual")
    rules = Protocol(sessions=3, minimum_runs=20, maximum_runs=20, warmup_us=0.0)
    dense, small = measure_models([graph.module(), graph.module(graph.uniform(0.9))], protocol=rules)
    assert not isinstance(dense, Failure)
    assert not isinstance(small, Failure)
    assert small.n == dense.n == 60

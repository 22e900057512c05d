"""Timing, so that times can be compared: warmed up, many runs, several shuffled sessions, spread kept.

All candidates of one call are interleaved: in every session each is timed once, in a new order, so that a machine
that drifts drifts for all of them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import Failure
from autoprune.graph.module import TracedModule
from autoprune.hardware.runtimes import RUNTIMES, Runner, RunSettings
from autoprune.hardware.runtimes.model import Model

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Protocol:
    """How often what is run. Counts and times are per candidate and session.

    Attributes:
        sessions: shuffled passes over all candidates.
        minimum_runs, maximum_runs: timed runs; between the two, as many as fit `target_us`.
        target_us: time to spend on the timed runs.
        warmup_runs, warmup_us: both are reached before timing starts.
        seed: of the order.
    """

    sessions: int = 3
    minimum_runs: int = 50
    maximum_runs: int = 400
    target_us: float = 20_000.0
    warmup_runs: int = 10
    warmup_us: float = 5_000.0
    seed: int = 0


MODEL_PROTOCOL = Protocol(sessions=5, target_us=40_000.0, maximum_runs=1000)


@dataclass(frozen=True)
class Measurement:
    """Times of one model or kernel; percentiles are medians over sessions of each session's percentile.

    Attributes:
        p50_us, p90_us, p95_us, p99_us, mean_us, std_us: of one run.
        n: timed runs in all sessions.
        sessions_us: median time of each session, in the order they were taken.
    """

    p50_us: float
    p90_us: float
    p95_us: float
    p99_us: float
    mean_us: float
    std_us: float
    n: int
    sessions_us: tuple[float, ...] = ()

    def scaled(self, factor: float) -> Measurement:
        """All times multiplied."""
        return Measurement(
            p50_us=factor * self.p50_us,
            p90_us=factor * self.p90_us,
            p95_us=factor * self.p95_us,
            p99_us=factor * self.p99_us,
            mean_us=factor * self.mean_us,
            std_us=factor * self.std_us,
            n=self.n,
            sessions_us=tuple(factor * time for time in self.sessions_us),
        )

    def us(self, percentile: str) -> float:
        """The time at "p50", "p90", "p95" or "p99"."""
        return float(getattr(self, f"{percentile}_us"))


def time_runner(runner: Runner, protocol: Protocol) -> npt.NDArray[np.float64]:
    """One session of one candidate: warm-up, then timed runs.  # (n,)"""
    warm = runner.run_us(protocol.warmup_runs)
    spent = float(warm.sum())
    while spent < protocol.warmup_us:
        spent += float(runner.run_us(protocol.warmup_runs).sum())
    one = max(float(np.median(warm)), 0.1)
    wanted = int(protocol.target_us / one)
    return runner.run_us(max(protocol.minimum_runs, min(protocol.maximum_runs, wanted)))


class Sentinel:
    """A kernel timed around every other one, so that a machine that changes its speed is seen and corrected for.

    Shared and power-managed machines switch between speeds a quarter apart within seconds. Times taken beside a
    sentinel are scaled to `reference_us`, what the sentinel took at first; `correction` then leads to its typical time.

    Attributes:
        reference_us: the sentinel's time when it was made.
        readings_us: every time it was read since.
    """

    RUNS = 8
    UNSTEADY = 0.12  # a burst between two readings that differ by more is repeated
    REPEATS = 2

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        runner.run_us(50)
        self.reference_us = float(np.median([self._read_us() for _ in range(9)]))
        self.readings_us: list[float] = [self.reference_us]

    def _read_us(self) -> float:
        return max(float(np.median(self._runner.run_us(self.RUNS))), 0.01)

    @property
    def correction(self) -> float:
        """Median reading over the reference: what all scaled times are to be multiplied by in the end."""
        return float(np.median(self.readings_us)) / self.reference_us

    @property
    def drift(self) -> float:
        """Largest deviation of a reading from the median one, outliers (a twentieth) left out."""
        readings = np.array(self.readings_us) / np.median(self.readings_us)
        return float(np.quantile(np.abs(readings - 1.0), 0.95))

    def time(self, runner: Runner, protocol: Protocol) -> npt.NDArray[np.float64]:
        """A session of one candidate, scaled to the reference.  # (n,)"""
        for _ in range(1 + self.REPEATS):
            before = self.readings_us[-1]
            times = time_runner(runner, protocol)
            after = self._read_us()
            self.readings_us.append(after)
            if abs(after / before - 1.0) <= self.UNSTEADY:
                break
        return times * (2.0 * self.reference_us / (before + after))


def time_runners(
    runners: Sequence[Runner],
    protocol: Protocol,
    progress: Callable[[], None] | None = None,
    sentinel: Sentinel | None = None,
    deadline: float | None = None,
) -> list[Measurement]:
    """Time candidates against each other, in shuffled sessions.

    Args:
        runners: the candidates.
        protocol: how often.
        progress: called after each session of each candidate.
        sentinel: where given, times are scaled to its reference.
        deadline: reading of `time.perf_counter` before which no session but the first may end late.
    """
    random = np.random.default_rng(protocol.seed)
    times: list[list[npt.NDArray[np.float64]]] = [[] for _ in runners]
    timed = time_runner if sentinel is None else sentinel.time
    enabled = gc.isenabled()
    try:
        gc.disable()
        start = time.perf_counter()
        for session in range(protocol.sessions):
            now = time.perf_counter()
            if session and deadline is not None and now + (now - start) / session > deadline:
                break
            for index in random.permutation(len(runners)):
                times[index].append(timed(runners[index], protocol))
                if progress is not None:
                    progress()
    finally:
        if enabled:
            gc.enable()
    return [summarise(sessions) for sessions in times]


def summarise(sessions: Sequence[npt.NDArray[np.float64]]) -> Measurement:
    """What is kept of the runs of one candidate.

    Args:
        sessions: times of each session.  # n_sessions x (n_runs,)
    """
    percentiles = np.array([np.percentile(times, [50, 90, 95, 99]) for times in sessions])
    typical = np.median(percentiles, axis=0)
    together = np.concatenate(list(sessions))
    p50, p90, p95, p99 = (float(value) for value in typical)
    return Measurement(
        p50_us=p50,
        p90_us=p90,
        p95_us=p95,
        p99_us=p99,
        mean_us=float(together.mean()),
        std_us=float(together.std()),
        n=len(together),
        sessions_us=tuple(float(value) for value in percentiles[:, 0]),
    )


def measure_models(
    modules: Sequence[TracedModule | Model | bytes],
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    protocol: Protocol | None = None,
    progress: Progress | None = None,
    deadline: float | None = None,
) -> list[Measurement | Failure]:
    """Time several whole models so that they can be compared: interleaved, in shuffled sessions.

    Args:
        modules: traced modules, `Model`s, or ONNX models as bytes.
        runtime: a registered runtime.
        threads, batch: how they are run.
        protocol: how often; the default takes about a quarter of a second a model.
        progress: called with ("models", done, total) after each model of each session.
        deadline: reading of `time.perf_counter` before which no session but the first may end late.

    Returns:
        In the order of `modules`; a `Failure` where a model could not be written or compiled.

    Raises:
        InputError: an unknown runtime.
    """
    settings = RunSettings(threads, batch)
    chosen = RUNTIMES.get(runtime)()
    rules = protocol or MODEL_PROTOCOL
    results: list[Measurement | Failure] = []
    places, runners = [], []
    for module in modules:
        runner = chosen.compile(_as_model(module), settings)
        if isinstance(runner, Failure):
            results.append(runner)
            continue
        places.append(len(results))
        runners.append(runner)
        results.append(Failure("pending", "not measured"))
    done = _Counter("models", len(runners) * rules.sessions, progress)
    for place, measured in zip(places, time_runners(runners, rules, done, deadline=deadline), strict=True):
        results[place] = measured
    return results


def measure_module(
    module: TracedModule | Model | bytes,
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    protocol: Protocol | None = None,
) -> Measurement | Failure:
    """Time one whole model (see `measure_models`, which compares several fairly)."""
    return measure_models([module], runtime=runtime, threads=threads, batch=batch, protocol=protocol)[0]


def _as_model(module: TracedModule | Model | bytes) -> Model:
    if isinstance(module, Model):
        return module
    return Model.of_onnx(module) if isinstance(module, bytes) else Model.of_module(module)


class _Counter:
    """Counts steps and passes them on."""

    def __init__(self, stage: str, total: int, progress: Progress | None) -> None:
        self._stage, self._total, self._progress, self._done = stage, total, progress, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._stage, self._done, self._total)

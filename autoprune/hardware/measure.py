"""Timing, so that times can be compared: warmed up, many runs, several shuffled sessions, spread kept.

All candidates of one call are interleaved: in every session each is timed once, in a new order, so that a machine
that drifts drifts for all of them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import AutopruneError, Failure, shortened
from autoprune.graph.module import TracedModule
from autoprune.hardware.pinning import pinned
from autoprune.hardware.profile import ProfileHeader
from autoprune.hardware.runtimes import RUNTIMES, Runner, RunSettings
from autoprune.hardware.runtimes.model import Model

Progress = Callable[[str, int, int], None]
Timed = TypeVar("Timed")


@dataclass(frozen=True)
class Protocol:
    """How often what is run. Counts and times are per candidate and session.

    Attributes:
        sessions: shuffled passes over all candidates.
        minimum_runs, maximum_runs: timed runs; between the two, as many as fit `target_us`.
        slow_us, slow_runs: what takes longer than the one is run as often as the other says at least, and warmed up
            by three runs.
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
    slow_us: float = 20_000.0
    slow_runs: int = 20

    def runs(self, one_us: float) -> int:
        """Timed runs of what takes so long."""
        least = self.slow_runs if one_us > self.slow_us else self.minimum_runs
        return max(least, min(self.maximum_runs, int(self.target_us / one_us)))


SLOW_WARMUP = 3  # runs that warm up what takes longer than `slow_us`
LAYOUTS = {"contiguous": "NCHW", "channels_last": "NHWC"}  # a runtime's word -> a profile's
MODEL_PROTOCOL = Protocol(sessions=5, target_us=40_000.0, maximum_runs=1000)


@dataclass(frozen=True)
class Measurement:
    """Times of one model or kernel; percentiles are medians over sessions of each session's percentile.

    Attributes:
        p50_us, p90_us, p95_us, p99_us, mean_us, std_us: of one run.
        n: timed runs in all sessions.
        sessions_us: median time of each session, in the order they were taken.
        pace: what a sentinel took beside it, over what it took at first (later: over what it takes typically): above 1
            the machine was slower than usual. 1 where there was no sentinel.
    """

    p50_us: float
    p90_us: float
    p95_us: float
    p99_us: float
    mean_us: float
    std_us: float
    n: int
    sessions_us: tuple[float, ...] = ()
    pace: float = 1.0

    def scaled(self, factor: float) -> Measurement:
        """All times multiplied."""
        return replace(
            self,
            p50_us=factor * self.p50_us,
            p90_us=factor * self.p90_us,
            p95_us=factor * self.p95_us,
            p99_us=factor * self.p99_us,
            mean_us=factor * self.mean_us,
            std_us=factor * self.std_us,
            sessions_us=tuple(factor * time for time in self.sessions_us),
        )

    def us(self, percentile: str) -> float:
        """The time at "p50", "p90", "p95" or "p99"."""
        return float(getattr(self, f"{percentile}_us"))


def time_runner(runner: Runner, protocol: Protocol) -> npt.NDArray[np.float64]:
    """One session of one candidate: warm-up, then timed runs.  # (n,)"""
    warm = runner.run_us(min(SLOW_WARMUP, protocol.warmup_runs))
    if float(np.median(warm)) <= protocol.slow_us and len(warm) < protocol.warmup_runs:
        warm = np.concatenate([warm, runner.run_us(protocol.warmup_runs - len(warm))])
    spent = float(warm.sum())
    while spent < protocol.warmup_us:
        spent += float(runner.run_us(protocol.warmup_runs).sum())
    return runner.run_us(protocol.runs(max(float(np.median(warm)), 0.1)))


class Guarded:
    """A runner that may fail while it runs (memory, a lost device): then others go on.

    Attributes:
        failure: why; None while it runs. From then on it answers at once, with times that nobody is to keep.
    """

    NOT_KEPT_US = 1e6

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.failure: Failure | None = None

    def run_us(self, count: int) -> npt.NDArray[np.float64]:
        """As `Runner.run_us`."""
        if self.failure is None:
            try:
                return self._runner.run_us(count)
            except Exception as error:  # runtimes raise classes of their own compiled modules
                self.failure = Failure("run", f"failed while it ran: {_told(error)}")
        return np.full(count, self.NOT_KEPT_US)


def time_guarded(
    runners: Sequence[Runner],
    protocol: Protocol,
    progress: Callable[[], None] | None = None,
    sentinel: Sentinel | None = None,
    deadline: float | None = None,
    *,
    scaled: bool = True,
) -> list[Measurement | Failure]:
    """As `time_runners`; a candidate that fails while it runs is a `Failure`, and the others are timed."""
    guarded = [Guarded(runner) for runner in runners]
    times = time_runners(guarded, protocol, progress, sentinel, deadline, scaled=scaled)
    return [one.failure or found for one, found in zip(guarded, times, strict=True)]


def _told(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return shortened(f"{type(error).__name__}: {text}", 300).rstrip(": .")


class Sentinel:
    """A kernel timed around every other one, so that a machine that changes its speed is seen and corrected for.

    Shared and power-managed machines switch between speeds a quarter apart within seconds. Times taken beside a
    sentinel are scaled to `reference_us`, what the sentinel took at first; `correction` then leads to its typical time.

    Args:
        runner: of the kernel.
        reference_us, readings_us: of an earlier part of the same measurement, which is gone on with.

    Attributes:
        reference_us: the sentinel's time when the measurement began.
        readings_us: every time it was read since.
    """

    MOST_RUNS, FEWEST_RUNS = 24, 3  # of a reading; short kernels are read by more runs
    READING_US = 700.0  # what a reading is to take
    UNSTEADY = 0.12  # a burst between two readings that differ by more is repeated
    REPEATS = 2

    def __init__(self, runner: Runner, reference_us: float | None = None, readings_us: Sequence[float] = ()) -> None:
        self._runner = runner
        one_us = max(float(np.median(runner.run_us(50))), 0.01)
        self._runs = max(self.FEWEST_RUNS, min(self.MOST_RUNS, int(self.READING_US / one_us)))
        self.reference_us = reference_us or float(np.median([self._read_us() for _ in range(9)]))
        self.readings_us: list[float] = [*readings_us, self._read_us()]

    def _read_us(self) -> float:
        try:
            return max(float(np.median(self._runner.run_us(self._runs))), 0.01)
        except Exception as error:  # without it no time means anything
            raise AutopruneError(
                f"the runtime fails while it runs what it ran before: {_told(error)}. What is done is kept: look to "
                "the device, and start again to go on."
            ) from error

    @property
    def correction(self) -> float:
        """Median reading over the reference: what all scaled times are to be multiplied by in the end."""
        return float(np.median(self.readings_us)) / self.reference_us

    @property
    def drift(self) -> float:
        """Largest deviation of a reading from the median one, outliers (a twentieth) left out."""
        readings = np.array(self.readings_us) / np.median(self.readings_us)
        return float(np.quantile(np.abs(readings - 1.0), 0.95))

    def beside(self, run: Callable[[], Timed]) -> tuple[Timed, float, bool]:
        """What `run` returns, the pace while it ran, and whether that was the same before and after."""
        before = self.readings_us[-1]
        result = run()
        after = self._read_us()
        self.readings_us.append(after)
        return result, (before + after) / 2.0 / self.reference_us, abs(after / before - 1.0) <= self.UNSTEADY

    def time(self, runner: Runner, protocol: Protocol) -> npt.NDArray[np.float64]:
        """A session of one candidate, scaled to the reference.  # (n,)"""
        for _ in range(1 + self.REPEATS):
            times, pace, steady = self.beside(lambda: time_runner(runner, protocol))
            if steady:
                break
        return times / pace


def time_runners(
    runners: Sequence[Runner],
    protocol: Protocol,
    progress: Callable[[], None] | None = None,
    sentinel: Sentinel | None = None,
    deadline: float | None = None,
    *,
    scaled: bool = True,
) -> list[Measurement]:
    """Time candidates against each other, in shuffled sessions.

    Args:
        runners: the candidates.
        protocol: how often.
        progress: called after each session of each candidate.
        sentinel: timed around every session.
        deadline: reading of `time.perf_counter` before which no session but the first may end late.
        scaled: scale times to the sentinel's reference, and repeat what was timed while it changed; else they stay as
            the clock says and the pace is kept beside them.
    """
    random = np.random.default_rng(protocol.seed)
    times: list[list[npt.NDArray[np.float64]]] = [[] for _ in runners]
    paces: list[list[float]] = [[] for _ in runners]
    enabled = gc.isenabled()
    try:
        gc.disable()
        start = time.perf_counter()
        for session in range(protocol.sessions):
            now = time.perf_counter()
            if session and deadline is not None and now + (now - start) / session > deadline:
                break
            for index in random.permutation(len(runners)):
                found, pace = _session(runners[index], protocol, sentinel, scaled)
                times[index].append(found)
                paces[index].append(pace)
                if progress is not None:
                    progress()
    finally:
        if enabled:
            gc.enable()
    return [
        replace(summarise(sessions), pace=float(np.median(pace))) for sessions, pace in zip(times, paces, strict=True)
    ]


def _session(
    runner: Runner, protocol: Protocol, sentinel: Sentinel | None, scaled: bool
) -> tuple[npt.NDArray[np.float64], float]:
    if sentinel is None:
        return time_runner(runner, protocol), 1.0
    if scaled:
        return sentinel.time(runner, protocol), 1.0
    times, pace, _ = sentinel.beside(lambda: time_runner(runner, protocol))
    return times, pace


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


def run_settings(header: ProfileHeader) -> RunSettings:
    """How the models of a profile were run."""
    return RunSettings(
        threads=header.threads,
        batch=header.batch,
        precision=header.precision,
        layout={name: layout for layout, name in LAYOUTS.items()}.get(header.layout, header.layout),
        device=header.runtime.flags.get("device", "cpu"),
    )


def measure_models(
    modules: Sequence[TracedModule | Model | bytes],
    *,
    runtime: str = "onnxruntime",
    settings: RunSettings | None = None,
    protocol: Protocol | None = None,
    progress: Progress | None = None,
    deadline: float | None = None,
) -> list[Measurement | Failure]:
    """Time several whole models so that they can be compared: interleaved, in shuffled sessions, on fixed processors.

    All of them are in memory at once.

    Args:
        modules: traced modules, `Model`s, or ONNX models as bytes.
        runtime: a registered runtime.
        settings: how they are run; `run_settings` gives those of a profile.
        protocol: how often; the default takes about a quarter of a second a model.
        progress: called with ("models", done, total) after each model of each session.
        deadline: reading of `time.perf_counter` before which no session but the first may end late.

    Returns:
        In the order of `modules`; a `Failure` where a model could not be written or compiled.

    Raises:
        InputError: an unknown runtime.
    """
    run = settings or RunSettings()
    chosen = RUNTIMES.get(runtime)()
    rules = protocol or MODEL_PROTOCOL
    results: list[Measurement | Failure] = []
    places, runners = [], []
    with pinned(run.threads):
        for module in modules:
            runner = chosen.compile(_as_model(module), run)
            if isinstance(runner, Failure):
                results.append(runner)
                continue
            places.append(len(results))
            runners.append(runner)
            results.append(Failure("pending", "not measured"))
        done = _Counter("models", len(runners) * rules.sessions, progress)
        for place, measured in zip(places, time_guarded(runners, rules, done, deadline=deadline), strict=True):
            results[place] = measured
    return results


def measure_module(
    module: TracedModule | Model | bytes,
    *,
    runtime: str = "onnxruntime",
    settings: RunSettings | None = None,
    protocol: Protocol | None = None,
) -> Measurement | Failure:
    """Time one whole model (see `measure_models`, which compares several fairly)."""
    return measure_models([module], runtime=runtime, settings=settings, protocol=protocol)[0]


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

"""The stock tools that kits are run with: what each one reads, and where its times stand in what it prints."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.errors import InputError, unknown_name
from autoprune.hardware.importers.reading import time_us
from autoprune.hardware.importers.rows import NORMAL

PERCENTILES = tuple(NORMAL)
_NUMBER = r"([-+0-9.eE]+|-?nan|-?inf)"


@dataclass(frozen=True)
class SessionTimes:
    """What one log says of its model, in microseconds.

    Attributes:
        n: timed runs.
        mean_us, std_us: over them.
        percentiles_us: "p50", "p90", "p95", "p99".
    """

    n: int
    mean_us: float
    std_us: float
    percentiles_us: dict[str, float]

    @classmethod
    def of_runs(cls, times_us: Sequence[float]) -> SessionTimes:
        """From every run's time."""
        values = np.array(times_us)
        percentiles = np.percentile(values, [50, 90, 95, 99])
        named = dict(zip(PERCENTILES, (float(value) for value in percentiles), strict=True))
        return cls(len(values), float(values.mean()), float(values.std()), named)

    @classmethod
    def of_summary(cls, n: int, mean_us: float, std_us: float, known: dict[str, float]) -> SessionTimes:
        """From what a tool prints: percentiles that it leaves out follow from mean and spread as if normal."""
        found: dict[str, float] = {}
        floor = 0.0
        for name, quantile in NORMAL.items():
            floor = found[name] = max(floor, known.get(name, mean_us + quantile * std_us))
        return cls(n, mean_us, std_us, found)


Parse = Callable[[Sequence[str], str, int], SessionTimes | None]  # lines, place, warm-up runs -> times


@dataclass(frozen=True)
class Tool:
    """A stock tool.

    Attributes:
        program: what runs at the far end.
        writes: suffix of the model files that a kit for it holds: "onnx" or "pte".
        unit: of the times that it prints.
        precisions: that it can be asked for.
        parse: reads what it prints; None where its times are not there.
        converter: what makes its own model files of ONNX, where it needs any.
        kind: of device that it usually runs on.
        run_here: whether it was ever run by this project, or only follows its documentation.
    """

    program: str
    writes: str
    unit: str
    parse: Parse
    precisions: tuple[str, ...] = ("float32",)
    converter: str = ""
    kind: str = "cpu"
    run_here: bool = False


def _runs(lines: Sequence[str], place: str, warmup: int) -> SessionTimes | None:
    """A time a line, in microseconds."""
    times = [time_us(line.strip(), place, 1.0) for line in lines if line.strip()]
    return SessionTimes.of_runs(times) if times else None


_ITERATION = re.compile(rf"Iteration \d+ of \d+: {_NUMBER} ms")
_EXECUTED = re.compile(rf"Model executed successfully (\d+) time\(s\) in {_NUMBER} ms")


def _executor_runner(lines: Sequence[str], place: str, warmup: int) -> SessionTimes | None:
    """Every execution where it prints them, else their mean."""
    times = [time_us(found[1], place, 1e3) for line in lines if (found := _ITERATION.search(line))]
    if len(times) > warmup:
        return SessionTimes.of_runs(times[warmup:])
    for line in lines:
        if found := _EXECUTED.search(line):
            count = int(found[1])
            mean = time_us(found[2], place, 1e3 / max(count, 1))
            return SessionTimes.of_summary(count, mean, 0.0, {})
    return None


_COUNTED = re.compile(rf"count=(\d+) .*?avg={_NUMBER} std={_NUMBER}(?: .*?median={_NUMBER} p95={_NUMBER})?")


def _benchmark_model(lines: Sequence[str], place: str, warmup: int) -> SessionTimes | None:
    """The last of its two lines of statistics: the first is the warm-up. Microseconds."""
    found = [match for line in lines if (match := _COUNTED.search(line))]
    if len(found) < 2:
        return None
    count, mean, std, median, p95 = found[-1].groups()
    known = {} if median is None else {"p50": time_us(median, place, 1.0), "p95": time_us(p95, place, 1.0)}
    spread = 0.0 if float(std) == 0 else time_us(std, place, 1.0)
    return SessionTimes.of_summary(int(count), time_us(mean, place, 1.0), spread, known)


_COMPUTE = re.compile(rf"GPU Compute Time: .*?mean = {_NUMBER} ms, median = {_NUMBER} ms(.*)")
_PERCENTILE = re.compile(rf"percentile\((\d+)%\) = {_NUMBER} ms")


def _trtexec(lines: Sequence[str], place: str, warmup: int) -> SessionTimes | None:
    """Its summary of the time on the device. Milliseconds."""
    for line in lines:
        if found := _COMPUTE.search(line):
            mean, median = (time_us(found[i], place, 1e3) for i in (1, 2))
            known = {f"p{name}": time_us(value, place, 1e3) for name, value in _PERCENTILE.findall(found[3])}
            spread = max(known.get("p90", median) - median, 0.0) / NORMAL["p90"]
            return SessionTimes.of_summary(1, mean, spread, {"p50": median, **known})
    return None


_BENCHED = re.compile(rf"min =\s*{_NUMBER}\s+max =\s*{_NUMBER}\s+avg =\s*{_NUMBER}")


def _benchncnn(lines: Sequence[str], place: str, warmup: int) -> SessionTimes | None:
    """Least, largest and mean time. Milliseconds."""
    for line in lines:
        if found := _BENCHED.search(line):
            low, high, mean = (time_us(part, place, 1e3) for part in found.groups())
            return SessionTimes.of_summary(1, mean, max(high - low, 0.0) / 4.0, {})
    return None


TOOLS = {
    "executorch": Tool("executor_runner", "pte", "ms", _executor_runner),
    "litert": Tool("benchmark_model", "onnx", "us", _benchmark_model, converter="onnx2tf", kind="mobile"),
    "ncnn": Tool("benchncnn", "onnx", "ms", _benchncnn, converter="pnnx", kind="mobile"),
    "onnxruntime": Tool("time_onnx.py", "onnx", "us", _runs, run_here=True),
    "tensorrt": Tool("trtexec", "onnx", "ms", _trtexec, ("float32", "float16"), kind="gpu"),
}


def tool_for(runtime: str, precision: str = "float32") -> Tool:
    """The tool that runs a runtime's models.

    Raises:
        InputError: kits cannot be written for the runtime, or its tool has not the precision.
    """
    if runtime not in TOOLS:
        kinds = ", ".join(f"{name} ({tool.writes})" for name, tool in sorted(TOOLS.items()))
        raise InputError(f"{unknown_name('runtime of a kit', runtime, TOOLS)} What autoprune can write: {kinds}.")
    tool = TOOLS[runtime]
    if precision not in tool.precisions:
        raise InputError(
            f"kit: expected a precision among {', '.join(tool.precisions)} for {runtime}, got '{precision}'."
        )
    return tool


def together(sessions: Sequence[SessionTimes]) -> SessionTimes:
    """Several sessions as one: percentiles are medians over sessions, as `measure.summarise` takes them."""
    counts = np.array([session.n for session in sessions], dtype=np.float64)
    means = np.array([session.mean_us for session in sessions])
    mean = float(np.average(means, weights=counts))
    squares = np.array([session.std_us**2 for session in sessions]) + (means - mean) ** 2
    return SessionTimes(
        n=int(counts.sum()),
        mean_us=mean,
        std_us=math.sqrt(float(np.average(squares, weights=counts))),
        percentiles_us={p: float(np.median([session.percentiles_us[p] for session in sessions])) for p in PERCENTILES},
    )

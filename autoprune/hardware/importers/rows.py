"""From times in a file to rows of a kernel table."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.errors import InputError
from autoprune.graph.fusion import kernel_slots
from autoprune.graph.kernel import Kernel
from autoprune.hardware.estimate import Roofline
from autoprune.hardware.fit import relative_fit
from autoprune.hardware.importers import Timing
from autoprune.hardware.kernel_table import KernelRow

NORMAL = {"p50": 0.0, "p90": 1.2816, "p95": 1.6449, "p99": 2.3263}  # quantiles of the standard normal distribution
OTHER_UNIT = 300.0  # so far from all others, a time is in another unit
LEAST_PART = 0.1  # of a typical time that overhead, flops and bytes are taken to be at least, to begin with
FEWEST = 8  # rows from which a row that stands apart can be told


@dataclass(frozen=True)
class _Work:
    operator: str
    flops: float
    bytes: float


@functools.lru_cache(maxsize=65536)
def _work(kernel: Kernel) -> _Work:
    [slot] = kernel_slots(kernel.program())
    return _Work(slot.operator, float(slot.flops({})), float(slot.bytes({})))


def kernel_rows(timings: Sequence[Timing]) -> tuple[KernelRow, ...]:
    """One row a kernel; where a kernel has several times, their median.

    A time of several kernels together is split over them in the proportions of a roofline that is fitted, an operator
    class at a time, on all times of the file.

    Raises:
        InputError: no times, or one so far from what the others promise that it must be in another unit.
    """
    if not timings:
        raise InputError("import: expected a file with at least one kernel's time, got none.")
    parts: dict[Kernel, list[tuple[Timing, float]]] = {}
    coefficients = _shares_model(timings)
    for timing in timings:
        weights = np.array([_share(coefficients, _work(kernel)) for kernel in timing.kernels])
        for kernel, weight in zip(timing.kernels, weights / weights.sum(), strict=True):
            parts.setdefault(kernel, []).append((timing, float(weight)))
    rows = tuple(_row(kernel, found) for kernel, found in parts.items())
    check_unit(rows, {kernel: found[0][0].place for kernel, found in parts.items()})
    return tuple(sorted(rows, key=lambda row: (row.family, row.sizes)))


def _shares_model(timings: Sequence[Timing]) -> Mapping[str, tuple[float, float, float]]:
    """Operator -> overhead, per flop, per byte; a rough fit that only splits sums.

    Sums alone may not tell the classes apart, so each coefficient is drawn towards that of all classes together, with
    the weight of a tenth of a time.
    """
    if all(len(timing.kernels) == 1 for timing in timings):
        return {}
    times = np.array([timing.mean_us for timing in timings])
    operators = sorted({_work(kernel).operator for timing in timings for kernel in timing.kernels})
    matrix = np.zeros((len(timings), 3 * len(operators)))
    for index, timing in enumerate(timings):
        for kernel in timing.kernels:
            work = _work(kernel)
            first = 3 * operators.index(work.operator)
            matrix[index, first : first + 3] += (1.0, work.flops, work.bytes)
    together = matrix.reshape(len(timings), -1, 3).sum(axis=1)  # (n, 3)
    common = relative_fit(together / together.max(axis=0), times) / together.max(axis=0)
    common = np.maximum(common, LEAST_PART * np.median(times[:, None] / together, axis=0))
    drawn = np.diag(1.0 / np.tile(common, len(operators)))
    weighted = np.concatenate([np.tile(matrix, (10, 1)), drawn])
    solution = relative_fit(weighted, np.concatenate([np.tile(times, 10), np.ones(len(drawn))]))
    return {
        operator: (float(solution[3 * i]), float(solution[3 * i + 1]), float(solution[3 * i + 2]))
        for i, operator in enumerate(operators)
    }


def _share(coefficients: Mapping[str, tuple[float, float, float]], work: _Work) -> float:
    """What a kernel weighs in a sum; never nothing, so that every kernel has a time above zero."""
    overhead, per_flop, per_byte = coefficients.get(work.operator, (1.0, 0.0, 0.0))
    return max(overhead + per_flop * work.flops + per_byte * work.bytes, 1e-6 * work.bytes, 1e-9)


def _row(kernel: Kernel, found: Sequence[tuple[Timing, float]]) -> KernelRow:
    work = _work(kernel)
    means = np.array([timing.mean_us * weight for timing, weight in found])
    mean = float(np.median(means))
    timing, weight = found[int(np.argmin(np.abs(means - mean)))]  # the spread is that of a time near the median
    std = timing.std_us * weight
    times: dict[str, float] = {}
    floor = 0.0
    for name, quantile in NORMAL.items():
        given = timing.percentiles_us.get(name)
        floor = max(floor, mean + quantile * std if given is None else given * weight)
        times[f"{name}_us"] = floor
    return KernelRow(
        family=kernel.family,
        sizes=kernel.sizes,
        operator=work.operator,
        n=sum(timing.n for timing, _ in found),
        mean_us=mean,
        std_us=std,
        flops=work.flops,
        bytes=work.bytes,
        provenance="imported",
        p50_us=times["p50_us"],
        p90_us=times["p90_us"],
        p95_us=times["p95_us"],
        p99_us=times["p99_us"],
    )


def check_unit(rows: Sequence[KernelRow], places: Mapping[Kernel, str]) -> None:
    """Refuse a time in another unit than the rest: hundreds of times what the others promise for its work.

    Args:
        rows: of one file, each with its time.
        places: kernel -> where it stands, for the message.

    Raises:
        InputError: there is such a time.
    """
    if len(rows) < FEWEST:
        return
    roofline = Roofline(rows)
    estimates = np.array(
        [roofline.estimate_us(row.operator, np.array([row.flops]), np.array([row.bytes]))[0] for row in rows]
    )
    times = np.array([row.p50_us for row in rows])
    ratios = times / estimates / float(np.median(times / estimates))
    worst = int(np.argmax(np.abs(np.log(ratios))))
    if max(ratios[worst], 1.0 / ratios[worst]) > OTHER_UNIT:
        row = rows[worst]
        raise InputError(
            f"{places[Kernel(row.family, row.sizes)]}: expected times of one unit, got {row.p50_us:.4g} us where the "
            f"other rows promise about {estimates[worst]:.4g} us. Correct the entry, or remove it."
        )

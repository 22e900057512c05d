"""What is done with a method's front after its search: judged on the test split, timed, fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from autoprune.core.errors import Failure
from autoprune.graph import TracedModule
from autoprune.hardware.measure import Measurement, measure_models, run_settings
from autoprune.search.evaluation import threads_of_torch
from autoprune.tuning.finetune import finetune
from autoprune.tuning.settings import FinetuneSettings
from benchmarks.front_bench import Bench, Evaluated, front, spread
from benchmarks.front_methods import Method

RESAMPLES = 1000
FAST = 2.2  # twice as fast as measured, and the profile's error


def rescored(
    bench: Bench, method: Method, seed: int, evaluated: Sequence[Evaluated], members: int, measure: bool
) -> dict[str, Any]:
    """A front on the test split, and timed beside the dense model.

    Args:
        bench: what was searched.
        method: made the models, and makes them again.
        seed: of the search.
        evaluated: all that it evaluated.
        members: how many of its front, spread evenly over latency.
        measure: time them on this machine.

    Returns:
        "dense" and "members", rows of `_row` with measured latencies where wanted.
    """
    chosen = spread(front(evaluated), members, bench.dense[1])
    modules = [dense_module(bench), *(method.module(bench, seed, item) for item in chosen)]
    rows = [_row(bench, module, item) for module, item in zip(modules, [None, *chosen], strict=True)]
    return _finished(bench, modules, rows, measure)


def tuned(
    bench: Bench,
    method: Method,
    seed: int,
    evaluated: Sequence[Evaluated],
    members: int,
    settings: FinetuneSettings,
    measure: bool,
) -> dict[str, Any]:
    """A spread of a front after fine-tuning, with the dense model as teacher; the settings are every method's.

    Beside the spread, the slowest that is predicted to be `FAST` times as fast as the dense model, as what twice the
    speed costs is asked.

    Returns:
        As `rescored`; members that diverge are left out.
    """
    teacher = dense_module(bench)
    modules: list[TracedModule] = [dense_module(bench)]
    rows = [_row(bench, modules[0], None)]
    found, dense_us = front(evaluated), bench.dense[1]
    twice = [item for item in found if FAST * item.latency_us <= dense_us][-1:]
    chosen = {id(item): item for item in (*spread(found, members, dense_us), *twice)}
    for item in sorted(chosen.values(), key=lambda item: item.latency_us):
        module = method.module(bench, seed, item)
        with threads_of_torch(bench.threads):
            result = finetune(module, bench.task, settings, teacher=teacher)
        if isinstance(result, Failure):
            continue
        module.eval()
        modules.append(module)
        after = float(bench.task.objective(result.metrics))
        rows.append(_row(bench, module, item) | {"tuned_error": after, "tuning_s": result.seconds})
    return _finished(bench, modules, rows, measure)


def dense_module(bench: Bench) -> TracedModule:
    """The dense model, its tensors its own."""
    return bench.graph.module().clone_tensors().eval()


def _row(bench: Bench, module: nn.Module, item: Evaluated | None) -> dict[str, Any]:
    """Errors on both splits and the predicted latency; `None` stands for the dense model."""
    hits = bench.hits(module, "test").double().numpy()
    error, latency_us = bench.dense if item is None else (item.error, item.latency_us)
    return {
        "error": error,
        "latency_us": latency_us,
        "test_error": 1.0 - float(hits.mean()),
        "test_error_std": standard_error(hits, bench.subject.groups),
        "policy": {} if item is None else dict(item.policy),
    }


def standard_error(hits: np.ndarray[Any, Any], groups: np.ndarray[Any, Any] | None, seed: int = 0) -> float:
    """Of a share of hits, by drawing whole groups again and again (single samples where there are none).

    Args:
        hits: 1 or 0.  # (n,)
        groups: what a sample comes from.  # (n,)
        seed: of the draws.
    """
    owners = np.arange(len(hits)) if groups is None else np.unique(groups, return_inverse=True)[1]
    totals, counts = np.bincount(owners, hits), np.bincount(owners)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (RESAMPLES, len(counts)))
    return float((totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1)).std())


def _finished(
    bench: Bench, modules: Sequence[TracedModule], rows: Sequence[dict[str, Any]], measure: bool
) -> dict[str, Any]:
    if measure:
        for row, times in zip(rows, _measured(bench, modules), strict=True):
            row.update(times)
    return {"dense": rows[0], "members": list(rows[1:])}


def _measured(bench: Bench, modules: Sequence[TracedModule]) -> list[Mapping[str, float]]:
    """Each model timed twice in one run: the mean of both medians, and how far they are apart."""
    (profile,) = bench.problem.profiles.values()
    found = measure_models(
        [*modules, *modules], runtime=profile.header.runtime.name, settings=run_settings(profile.header)
    )
    rows: list[Mapping[str, float]] = []
    for first, again in zip(found[: len(modules)], found[len(modules) :], strict=True):
        if isinstance(first, Measurement) and isinstance(again, Measurement):
            mean = (first.p50_us + again.p50_us) / 2
            rows.append({"measured_us": mean, "repeat_error": abs(first.p50_us - again.p50_us) / mean})
        else:
            rows.append({})
    return rows


def settings_of(epochs: int, batches: int | None, seed: int) -> FinetuneSettings:
    """How every method's members are fine-tuned."""
    return FinetuneSettings(epochs=epochs, max_batches=batches, seed=seed)

"""From the logs of a kit to one measurement a model, with the machine's changes of speed seen and taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.hardware.kit.logs import Logs
from autoprune.hardware.kit.manifest import SENTINEL, Manifest
from autoprune.hardware.kit.tools import SessionTimes, together
from autoprune.hardware.measure import Measurement


@dataclass(frozen=True, eq=False)
class Timed:
    """What the models of a kit take.

    Attributes:
        own_us: model id -> its times at the machine's typical speed.
        clock_us: model id -> its times as the clock said, with the pace of the machine beside them.
        refused: model id -> why the tool never ran it.
        drift: largest deviation of the sentinel from its median, outliers (a twentieth) left out.
    """

    own_us: Mapping[str, Measurement]
    clock_us: Mapping[str, Measurement]
    refused: Mapping[str, str]
    drift: float


def timed_models(manifest: Manifest, logs: Logs) -> Timed:
    """Every model with at least one log; sessions together as `measure.summarise` takes them."""
    paces, drift = _paces(manifest, logs)
    found: dict[str, list[tuple[SessionTimes, float]]] = {}
    refused: dict[str, str] = {}
    for log, model in manifest.order:
        if log in logs.times:
            found.setdefault(model, []).append((logs.times[log], paces[log]))
        elif log in logs.refused:
            refused.setdefault(model, logs.refused[log])
    clock, own = {}, {}
    for model, sessions in found.items():
        pace = float(np.median([pace for _, pace in sessions]))
        clock[model] = replace(_measurement([times for times, _ in sessions]), pace=pace)
        own[model] = _measurement([_scaled(times, 1.0 / pace) for times, pace in sessions])
    return Timed(own, clock, {model: why for model, why in refused.items() if model not in found}, drift)


def _paces(manifest: Manifest, logs: Logs) -> tuple[dict[str, float], float]:
    """Log -> how slow the machine was (1 is typical), by the sentinels before and after it; and their drift."""
    readings = [(i, logs.times[log].percentiles_us["p50"]) for i, (log, model) in enumerate(manifest.order)
                if model == SENTINEL and log in logs.times]  # fmt: skip
    if not readings:
        return {log: 1.0 for log, _ in manifest.order}, 0.0
    places, times = np.array([i for i, _ in readings]), np.array([time for _, time in readings])
    relative = times / np.median(times)
    after = np.searchsorted(places, np.arange(len(manifest.order)))
    last = len(places) - 1
    pace = (relative[np.clip(after - 1, 0, last)] + relative[np.clip(after, 0, last)]) / 2.0
    named = {log: float(value) for (log, _), value in zip(manifest.order, pace, strict=True)}
    return named, float(np.quantile(np.abs(relative - 1.0), 0.95))


def _scaled(times: SessionTimes, factor: float) -> SessionTimes:
    percentiles = {name: factor * value for name, value in times.percentiles_us.items()}
    return SessionTimes(times.n, factor * times.mean_us, factor * times.std_us, percentiles)


def _measurement(sessions: Sequence[SessionTimes]) -> Measurement:
    whole = together(sessions)
    return Measurement(
        **{f"{name}_us": value for name, value in whole.percentiles_us.items()},
        mean_us=whole.mean_us,
        std_us=whole.std_us,
        n=whole.n,
        sessions_us=tuple(session.percentiles_us["p50"] for session in sessions),
    )

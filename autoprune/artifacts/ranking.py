"""`ranking.json`: whether the cheap stages of a search rank models as the dear ones do, said in every run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autoprune.artifacts.choice import number
from autoprune.artifacts.layout import DENSE, PREDICTION, RANKING
from autoprune.artifacts.records import ComparisonRecord, RankingRecord, RunRecord
from autoprune.core.errors import InputError, shortened
from autoprune.core.files import read_json
from autoprune.pareto.correlation import kendall_tau, mean_relative_error, paired, spearman_rho

if TYPE_CHECKING:
    from autoprune.artifacts.front import Front
    from autoprune.artifacts.table import Cell

Kind = Literal["fidelity", "split", "latency", "damage"]
LEVELS = ("none", "short", "full")
PERCENTILES = ("p50", "p90", "p95", "p99")

_NAMES = {"none": "no fine-tuning", "short": "short fine-tuning", "full": "full fine-tuning"}


def compare(
    kind: Kind, what: str, stages: tuple[str, str], first: Sequence[float], second: Sequence[float]
) -> ComparisonRecord | None:
    """Two series of values of the same models, in the same order; None where fewer than two models have both.

    Args:
        kind: of comparison; latencies get their mean relative error too.
        what: the metric or latency.
        stages: what the two series are called.
        first, second: NaN where a model has no value.
    """
    kept = paired(first, second)
    if len(kept[0]) < 2:
        return None
    return ComparisonRecord(
        kind=kind,
        what=what,
        first=stages[0],
        second=stages[1],
        models=len(kept[0]),
        kendall=_known(kendall_tau(*kept)),
        spearman=_known(spearman_rho(*kept)),
        error=_known(mean_relative_error(*kept)) if kind == "latency" else None,
    )


def compare_fidelities(
    metrics: Sequence[str], levels: Sequence[Mapping[str, Mapping[str, float]]]
) -> list[ComparisonRecord]:
    """Each metric at each two amounts of training.

    Args:
        metrics: of the task.
        levels: for each model, level (`none`, `short`, `full`) -> metric -> value; levels that it has not reached are
            left out.
    """
    pairs = [(one, other) for place, one in enumerate(LEVELS) for other in LEVELS[place + 1 :]]
    found = []
    for metric in metrics:
        for one, other in pairs:
            first, second = ([level.get(name, {}).get(metric, math.nan) for level in levels] for name in (one, other))
            found.append(compare("fidelity", metric, (_NAMES[one], _NAMES[other]), first, second))
    return [comparison for comparison in found if comparison is not None]


def compare_rows(rows: Sequence[Mapping[str, Cell]], record: RunRecord) -> list[ComparisonRecord]:
    """What rows of the front tell: validation against test among members, predicted against measured of all models."""
    members = [row for row in rows if row.get("member") != DENSE]
    found = []
    for metric in record.metrics:
        first, second = ([number(row.get(name)) for row in members] for name in (metric, f"test_{metric}"))
        found.append(compare("split", metric, ("validation", "test"), first, second))
    for profile in record.profiles if len(record.profiles) > 1 else ("",):
        at = f"@{profile}" if profile else ""
        for percentile in PERCENTILES:
            column = f"latency_{percentile}_us{at}"
            first, second = ([number(row.get(name)) for row in rows] for name in (column, f"measured_{column}"))
            found.append(compare("latency", f"latency_{percentile}{at}", ("predicted", "measured"), first, second))
    return [comparison for comparison in found if comparison is not None]


def compare_damage(run: Path, metric: str) -> list[ComparisonRecord]:
    """What the search found of its damage curves: their ranking of trials before, and after it was corrected by them.

    Raises:
        InputError: `prediction.json` cannot be read, or holds something other than numbers.
    """
    path = run / PREDICTION
    if not path.is_file():
        return []
    data = read_json(path, "prediction")
    models = data.get("n")
    if not isinstance(models, int) or models < 0:
        raise InputError(f"prediction {path}: n: expected a count of trials, got {shortened(repr(models))}.")
    found = []
    for stage, kendall, spearman in (
        ("damage curves", "kendall_damage", "spearman_damage"),
        ("corrected damage curves", "kendall_corrected", "spearman_corrected"),
    ):
        values = [_correlation(path, name, data.get(name)) for name in (kendall, spearman)]
        if any(value is not None for value in values):
            found.append(
                ComparisonRecord(
                    kind="damage", what=metric, first=stage, second="trials", models=models, kendall=values[0],
                    spearman=values[1],
                )
            )  # fmt: skip
    return found


def write_ranking(run: Path, comparisons: Sequence[ComparisonRecord]) -> None:
    """Write `ranking.json`, atomically.

    Raises:
        InputError: the folder cannot be written.
    """
    RankingRecord(comparisons=tuple(comparisons)).write(run / RANKING)


def read_ranking(front: Front) -> tuple[ComparisonRecord, ...]:
    """The comparisons of a run; of a run that has no `ranking.json`, those that its front tells.

    Raises:
        InputError: a file of them cannot be read or does not fit.
    """
    path = front.run / RANKING
    if path.is_file():
        return _concerning(RankingRecord.read(path).comparisons, front.record)
    trained = [
        {"none": {m: number(row.get(f"before_{m}")) for m in metrics}, "full": {m: number(row.get(m)) for m in metrics}}
        for metrics in [front.record.metrics]
        for row in front.rows
        if row.get("member") != DENSE
    ]
    fidelities = compare_fidelities(front.record.metrics, trained)
    damage = compare_damage(front.run, front.record.metrics[0])
    return (*fidelities, *compare_rows(front.rows, front.record), *damage)


def _concerning(comparisons: Sequence[ComparisonRecord], record: RunRecord) -> tuple[ComparisonRecord, ...]:
    """Those that a record speaks of: a device's own front leaves out the latencies of others."""
    if len(record.profiles) != 1:
        return tuple(comparisons)
    return tuple(c for c in comparisons if c.what.partition("@")[2] in ("", *record.profiles))


def summary(comparisons: Sequence[ComparisonRecord]) -> str:
    """The comparisons in one line; empty where there are none.

    Of several percentiles and metrics the first of each kind stands for all; fidelities and devices are all named.
    """
    parts: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for comparison in comparisons:
        key = (comparison.kind, comparison.first, comparison.second, comparison.what.partition("@")[2])
        if key in seen or (comparison.kendall is None and comparison.spearman is None):
            continue
        seen.add(key)
        parts.append(_said(comparison))
    return f"ranks alike (Kendall's tau): {'; '.join(parts)}" if parts else ""


def _said(comparison: ComparisonRecord) -> str:
    is_latency = comparison.kind == "latency"
    stages = f"{comparison.what} {comparison.first}" if is_latency else comparison.first
    tau = (
        f"{comparison.kendall:.2f}" if comparison.kendall is not None else f"{comparison.spearman:.2f} (Spearman's rho)"
    )
    off = f", {comparison.error:.1%} off" if comparison.error is not None else ""
    return f"{stages} and {comparison.second} {tau} of {comparison.models}{off}"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _correlation(path: Path, name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1.0 + 1e-9:
        raise InputError(
            f"prediction {path}: {name}: expected a correlation from -1 to 1 or nothing, got {shortened(repr(value))}."
        )
    return float(value)

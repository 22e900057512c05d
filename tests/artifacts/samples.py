"""A small made-up run, written with the same functions that a search uses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from autoprune.artifacts.layout import FRONT, METRICS, RECIPE, RUN, TRIALS, member_folder
from autoprune.artifacts.records import ExportRecord, FailureRecord, GroupRecord, MetricsRecord, Recipe, RunRecord
from autoprune.artifacts.table import Row, clean_row, write_table

GROUPS = {f"layer{stage}.{block}.conv1": 16 * 2**stage for stage in range(3) for block in range(3)}


def row(name: str, keep: float, measured: bool = True, suffix: str = "") -> Row:
    """A front row whose costs follow from the share of units kept."""
    predicted = 1000.0 * (0.15 + 0.85 * keep**1.5)
    real = predicted * (1.0 + 0.06 * math.sin(40.0 * keep))
    dense = 1000.0 * (1.0 + 0.06 * math.sin(40.0))
    accuracy = 0.98 - 0.09 * (1.0 - keep) ** 3
    cells: dict[str, object] = {
        "member": name,
        "accuracy": accuracy,
        "test_accuracy": accuracy - 0.004,
        "before_accuracy": accuracy - 0.05 * (1.0 - keep),
        "params": int(270_000 * keep**2),
        "macs": int(40e6 * keep**2),
        "size_bytes": int(1_080_000 * keep**2),
        "peak_memory_bytes": int(131072 * keep),
        "policy_id": f"{int(keep * 1e6):016x}",
        f"share_measured{suffix}": 0.5 + 0.3 * keep,
        f"share_interpolated{suffix}": 0.4 - 0.3 * keep,
        f"share_estimated{suffix}": 0.1,
        f"speedup{suffix}": dense / real,
        f"latency_p50_low_us{suffix}": 0.93 * predicted,
        f"latency_p50_high_us{suffix}": 1.08 * predicted,
        "onnx_bytes": int(1_100_000 * keep**2),
    }
    for percentile, factor in (("p50", 1.0), ("p90", 1.1), ("p95", 1.15), ("p99", 1.4)):
        cells[f"latency_{percentile}_us{suffix}"] = factor * predicted
        cells[f"measured_latency_{percentile}_us{suffix}"] = factor * real if measured else None
    return clean_row(cells)


def trials(count: int, suffix: str = "") -> list[Row]:
    """Rows of evaluated policies around the front."""
    random = np.random.default_rng(0)
    rows = []
    for number, keep in enumerate(random.uniform(0.1, 1.0, count)):
        accuracy = 0.975 - 0.1 * (1.0 - keep) ** 3 - 0.6 * random.beta(1, 6) * (1 - keep)
        latency = 1000.0 * (0.15 + 0.85 * keep**1.5) * random.uniform(1.0, 1.2)
        rows.append(
            clean_row(
                {"number": number, "origin": "sampler", "feasible": True, "accuracy": accuracy}
                | {f"latency_{p}_us{suffix}": f * latency for p, f in (("p50", 1.0), ("p95", 1.15))}
            )
        )
    return rows


def write_sample(
    run: Path,
    members: int = 6,
    metric: str = "accuracy",
    names: tuple[str, ...] = (),
    profiles: tuple[str, ...] = ("cpu",),
) -> Path:
    """Write a run folder without models: records, front, trials and recipes."""
    suffix = f"@{profiles[0]}" if len(profiles) > 1 else ""
    keeps = np.linspace(0.25, 0.9, members).tolist()
    labels = names or tuple(f"member-{index}" for index in range(1, members + 1))
    rows = [
        row("dense", 1.0, suffix=suffix),
        *(row(name, keep, suffix=suffix) for name, keep in zip(labels, keeps, strict=True)),
    ]
    for other in profiles[1:]:
        for cells in rows:
            cells |= {f"latency_p50_us@{other}": 3.0 * float(cells[f"latency_p50_us{suffix}"] or 0)}
    rows = [{name.replace("accuracy", metric): cell for name, cell in cells.items()} for cells in rows]
    RunRecord(
        name=run.name, metrics=(metric,), profiles=profiles, seed=3,
        groups=tuple(GroupRecord(id=group, size=size) for group, size in GROUPS.items()),
        versions={"torch": "2.13.0", "python": "3.11"}, hashes={"model": "0123456789abcdef"},
        config={"space": "cnn", "search": {"trials": 200}}, constraints=("latency_p99 <= 8ms",),
    ).write(run / RUN)  # fmt: skip
    write_table(run / FRONT, rows, (metric,))
    faint = [{name.replace("accuracy", metric): cell for name, cell in cells.items()} for cells in trials(200, suffix)]
    write_table(run / TRIALS, faint, (metric,))
    random = np.random.default_rng(1)
    for cells, keep in zip(rows[1:], keeps, strict=True):
        folder = member_folder(run, str(cells["member"]))
        policy = {
            group: max(1, round(size * min(1.0, keep * random.uniform(0.6, 1.4)))) for group, size in GROUPS.items()
        }
        Recipe(member=folder.name, policy=policy, criterion="obs").write(folder / RECIPE)
        MetricsRecord(
            member=folder.name, row=cells,
            exports={"onnx": ExportRecord(file="model.onnx", bytes=1234, sha256="00", difference=1e-6)},
            failures={"pt2": FailureRecord(kind="export", message="refused <here>")} if cells is rows[1] else {},
        ).write(folder / METRICS)  # fmt: skip
    return run

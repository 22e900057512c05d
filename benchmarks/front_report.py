"""Tables, the figures that are asked and one JSON, of the front benchmark's parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.core.errors import InputError
from autoprune.core.files import canonical_json, read_json, write_json
from autoprune.pareto.correlation import kendall_tau
from benchmarks.front_bench import Floats, curve, volume
from benchmarks.front_figure import Figure
from benchmarks.front_methods import METHODS, PEERS
from benchmarks.front_parts import SCHEMA, evaluated
from benchmarks.front_picture import draw

OURS = "ours"
ASKED_BEFORE, ASKED_AFTER, ASKED_SHARE = 1.15, 1.05, 0.1
ASKED_EVALUATING = 0.95
ASKED_LOSS, ASKED_SPEEDUP = 0.005, 2.0  # ResNet-20 after fine-tuning
RESULT = "autoprune.benchmark-front-report/1"


class TaskParts:
    """All parts of one task.

    Args:
        folder: of the task.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.parts: dict[tuple[str, int, str], dict[str, Any]] = {}
        for path in sorted(folder.glob("*.json")):
            data = read_json(path, "part", SCHEMA)
            if data.get("applies", True):
                self.parts[data["method"], data["seed"], data["kind"]] = data
        searches = [data for (_, _, kind), data in self.parts.items() if not kind]
        conditions = {canonical_json([data["options"], data["profile"]]) for data in searches}
        if len(conditions) > 1:
            raise InputError(
                f"{folder}: expected searches that had equal evaluations, data and profile, got "
                f"{' and '.join(sorted(conditions))}. Delete those that are not wanted."
            )
        self.seeds = sorted({seed for _, seed, _ in self.parts})
        self.curves: dict[str, dict[int, Floats]] = {}
        for (method, seed, kind), data in self.parts.items():
            if not kind:
                dense = (data["dense"]["error"], data["dense"]["latency_us"])
                self.curves.setdefault(method, {})[seed] = curve(evaluated(data), dense, data["reference"])
        self.curves = {name: self.curves[name] for name in METHODS if name in self.curves}

    def final(self, method: str) -> dict[int, float]:
        """Seed -> hypervolume at the end."""
        return {seed: float(rows[-1, 1]) for seed, rows in sorted(self.curves.get(method, {}).items())}

    def volumes(self, method: str, kind: str, column: str = "latency_us") -> dict[int, float]:
        """Seed -> hypervolume of (test error, latency) of a rescored or tuned front, the dense model in it.

        Args:
            method: whose.
            kind: "rescored" or "tuned".
            column: "latency_us" (predicted) or "measured_us"; its reference is the dense model's.
        """
        found = {}
        for seed in self.seeds:
            part = self.parts.get((method, seed, kind))
            searched = self.parts.get((method, seed, ""))
            if part is None or searched is None or column not in part["dense"]:
                continue
            rows = [row for row in (part["dense"], *part["members"]) if column in row]
            points = [(row["test_error"], row[column]) for row in rows]
            found[seed] = volume(points, (searched["reference"][0], part["dense"][column]))
        return found


def mean(values: Mapping[int, float]) -> float:
    """Over seeds; NaN where there are none."""
    return float(np.mean(list(values.values()))) if values else math.nan


def best_peer(found: Mapping[str, Mapping[int, float]]) -> str | None:
    """The peer with the highest mean."""
    peers = {name: mean(values) for name, values in found.items() if name in PEERS and values}
    return max(peers, key=lambda name: peers[name]) if peers else None


def needed(parts: TaskParts, peer: str) -> list[tuple[float, float, float]]:
    """Seed by seed: what ours spent until the peer's final hypervolume, what the peer spent, what it was given."""
    rows = []
    for seed, theirs in parts.curves[peer].items():
        ours = parts.curves.get(OURS, {}).get(seed)
        if ours is not None:
            reached = ours[ours[:, 1] >= theirs[-1, 1] - 1e-12, 0]
            given = float(parts.parts[peer, seed, ""]["options"]["trials"])
            rows.append((float(reached[0]) if len(reached) else math.inf, float(theirs[-1, 0]), given))
    return rows


def over(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """The ratio of means over the seeds that both have; None where there are none."""
    seeds = [seed for seed in ours if seed in theirs]
    below = sum(theirs[seed] for seed in seeds)
    return sum(ours[seed] for seed in seeds) / below if below > 0.0 else None


def figures(parts: TaskParts) -> list[Figure]:
    """What is asked on a task."""
    final = {name: parts.final(name) for name in parts.curves}
    ours, peer = final.get(OURS, {}), best_peer(final)
    rows = needed(parts, peer) if peer else []
    own = float(np.mean([mine / theirs for mine, theirs, _ in rows])) if rows else None
    given = float(np.mean([mine / given for mine, _, given in rows])) if rows else None
    least = [over({seed: ours[seed]}, {seed: theirs}) for name in final if name in PEERS
             for seed, theirs in final[name].items() if seed in ours]  # fmt: skip
    after = {name: parts.volumes(name, "tuned") for name in parts.curves}
    later = best_peer(after)
    found = [
        Figure(f"hypervolume over that of {peer}", over(ours, final[peer]) if peer else None, ASKED_BEFORE),
        Figure(f"evaluations until that of {peer}, share of its own", own, ASKED_SHARE, False),
        Figure(f"evaluations until that of {peer}, share of what it was given", given, ASKED_SHARE, False),
        Figure("least hypervolume over any of theirs, any seed", min(filter(None, least), default=None), 1.0),
        Figure("evaluation's share of a search's time", evaluating(parts), ASKED_EVALUATING),
    ]
    if any(after.values()):
        value = over(after.get(OURS, {}), after[later]) if later else None
        found.append(Figure(f"fine-tuned, hypervolume over that of {later}", value, ASKED_AFTER))
    if parts.name == "resnet20":
        found.append(Figure(f"error gained at {ASKED_SPEEDUP:g}x measured", points_lost(parts), ASKED_LOSS, False))
    return [replace(figure, name=f"{parts.name}: {figure.name}") for figure in found]


def evaluating(parts: TaskParts) -> float | None:
    """Time in trials and damage curves over that of our searches, all seeds together."""
    own = [data["figures"] for (name, _, kind), data in parts.parts.items() if name == OURS and not kind]
    spent = sum(each["evaluating trials, s"] + each.get("damage curves, s", 0.0) for each in own)
    whole = sum(each["search, s"] for each in own)
    return spent / whole if whole else None


def points_lost(parts: TaskParts) -> float | None:
    """Test error of our best fine-tuned member that is fast enough, less the dense model's; mean over seeds."""
    found = []
    for seed in parts.seeds:
        part = parts.parts.get((OURS, seed, "tuned"))
        if part is not None and "measured_us" in part["dense"]:
            dense = part["dense"]
            fast = [row["test_error"] for row in part["members"]
                    if dense["measured_us"] >= ASKED_SPEEDUP * row.get("measured_us", math.inf)]  # fmt: skip
            found.append(min(fast, default=math.inf) - dense["test_error"])
    return float(np.mean(found)) if found else None


def table(parts: TaskParts) -> str:
    """A row a method: hypervolume as searched, on the test split, measured, fine-tuned; evaluations and times."""
    heads = ("validation", "test", "measured", "fine-tuned")
    lines = [f"{parts.name}, seeds {', '.join(map(str, parts.seeds))}: hypervolume, mean ± half the range"]
    lines.append(f"{'':26}" + "".join(f"{head:>16}" for head in heads) + f"{'evaluations':>13}{'setup s':>9}{'s':>7}")
    order = sorted(parts.curves, key=lambda name: -mean(parts.final(name)))
    for name in order:
        cells = [
            parts.final(name),
            parts.volumes(name, "rescored"),
            parts.volumes(name, "rescored", "measured_us"),
            parts.volumes(name, "tuned"),
        ]
        whole = [data for (method, _, kind), data in parts.parts.items() if method == name and not kind]
        spent = float(np.mean([rows[-1, 0] for rows in parts.curves[name].values()]))
        setup, wall = (float(np.mean([data[key] for data in whole])) for key in ("setup_s", "wall_s"))
        mark = "" if name in PEERS else " *"
        texts = "".join(f"{_cell(values):>16}" for values in cells)
        lines.append(f"{name + mark:26}{texts}{spent:13.0f}{setup:9.1f}{wall:7.0f}")
    return "\n".join([*lines, "* not among what a user would otherwise run", *notes(parts)])


def notes(parts: TaskParts) -> list[str]:
    """Rank correlations and repeat errors, and what our searches say of themselves."""
    lines = []
    timed = [(row, part["dense"]) for (_, _, kind), part in parts.parts.items() if kind == "rescored"
             for row in part["members"] if "measured_us" in row and "measured_us" in part["dense"]]  # fmt: skip
    if timed:
        predicted = [row["latency_us"] / dense["latency_us"] for row, dense in timed]
        measured = [row["measured_us"] / dense["measured_us"] for row, dense in timed]
        apart = float(np.median([row["repeat_error"] for row, _ in timed]))
        lines.append(
            f"predicted and measured latency over the dense one, {len(timed)} members: tau "
            f"{kendall_tau(predicted, measured):.3f}, median error "
            f"{float(np.median(np.abs(np.array(predicted) / np.array(measured) - 1))):.1%}; "
            f"repeated, they are {apart:.1%} apart"
        )
    trained = [row for (_, _, kind), part in parts.parts.items() if kind == "tuned" for row in part["members"]]
    if trained:
        tau = kendall_tau([row["error"] for row in trained], [row["tuned_error"] for row in trained])
        lines.append(f"error before and after fine-tuning, {len(trained)} members: tau {tau:.3f}")
    for seed in parts.seeds:
        own = parts.parts.get((OURS, seed, ""), {}).get("figures", {})
        if own:
            lines.append(f"ours, seed {seed}: " + ", ".join(f"{name} {value:.3g}" for name, value in own.items()))
    return lines


def report(folder: Path) -> int:
    """Print tables and figures, write `front.json` and the picture; 1 where something asked is missed.

    Raises:
        InputError: no parts in the folder.
    """
    tasks = [TaskParts(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    tasks = [task for task in tasks if task.curves]
    if not tasks:
        raise InputError(f"{folder}: expected parts of the benchmark, got none. Start with `front.py run`.")
    asked: list[Figure] = []
    for task in tasks:
        print(table(task), end="\n\n")
        asked += figures(task)
    cost = folder / "cost.json"
    if cost.is_file():
        asked += [Figure(**item) for item in read_json(cost, "cost", SCHEMA)["figures"]]
    print("\n".join(map(str, asked)))
    data = {
        "schema": RESULT,
        "figures": [{**asdict(figure), "value": _finite(figure.value), "met": figure.met} for figure in asked],
        "tasks": {task.name: _data(task) for task in tasks},
    }
    write_json(folder / "front.json", data)
    print(draw(tasks, folder / "front"))
    return 1 if any(figure.met is False for figure in asked) else 0


def _data(task: TaskParts) -> dict[str, Any]:
    return {
        name: {
            "hypervolume": task.final(name),
            "test": task.volumes(name, "rescored"),
            "measured": task.volumes(name, "rescored", "measured_us"),
            "tuned": task.volumes(name, "tuned"),
            "curve": {seed: rows.tolist() for seed, rows in task.curves[name].items()},
        }
        for name in task.curves
    }


def _cell(values: Mapping[int, float]) -> str:
    found: Sequence[float] = list(values.values())
    return f"{np.mean(found):.4f} ±{np.ptp(found) / 2:.4f}" if found else "-"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

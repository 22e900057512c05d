"""From searched candidates to published members: fine-tuning, measurement, the front, the test split, the files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from autoprune.artifacts.bundle import make_recipe, write_front, write_member, write_trials
from autoprune.artifacts.layout import DENSE
from autoprune.artifacts.report import write_report
from autoprune.artifacts.weights import write_tensors
from autoprune.core.errors import AutopruneError, Failure
from autoprune.core.files import canonical_json, digest, read_json, write_json
from autoprune.graph.macs import fvcore_macs
from autoprune.graph.module import TracedModule
from autoprune.graph.policy import SparsityPolicy
from autoprune.hardware.cost import table_cost
from autoprune.hardware.devices import DEVICES
from autoprune.hardware.measure import Measurement, measure_models, run_settings
from autoprune.pareto.dominance import non_dominated
from autoprune.pipeline.problem import Problem, Progress, SearchSettings, versions
from autoprune.search.executors import Executor, Job
from autoprune.search.tuned import Tuned, tune
from autoprune.tuning.batches import batch_size

if TYPE_CHECKING:
    from autoprune.hardware.profile import HardwareProfile
    from autoprune.pruning.pruner import Pruner
    from autoprune.search.study import Trial

TUNED_SCHEMA = "autoprune.tuned/1"
_PERCENTILES = ("p50", "p90", "p95", "p99")


@dataclass(frozen=True, eq=False)
class Finished:
    """One model of the front-to-be.

    Attributes:
        name: of the member.
        module: ready to deploy.
        policy: its widths.
        metrics: on the validation split.
        before: the same before fine-tuning; empty for the dense model.
    """

    name: str
    module: TracedModule
    policy: SparsityPolicy
    metrics: Mapping[str, float]
    before: Mapping[str, float]


# ----------------------------------------------------------------------- which and in which order


def choose(trials: Sequence[Trial], problem: Problem, members: int) -> list[Trial]:
    """A spread of the searched front: the ends first, then always the one farthest from those chosen.

    Distances are between the logarithms of what the tables say and between the ranks of the quality, scaled to one.
    """
    names = [objective.name for objective in problem.objectives]
    dense = SparsityPolicy(problem.graph.widths({}))
    usable = [t for t in trials if t.feasible and t.failure is None and t.policy != dense]
    if not usable:
        reasons = sorted({str(trial.failure) for trial in trials if trial.failure is not None})
        why = f" Evaluations failed with: {'; '.join(reasons[:3])}." if reasons else ""
        raise AutopruneError(f"the search found no policy that meets the constraints and could be evaluated.{why}")
    values = np.array([[trial.objectives[name] for name in names] for trial in usable])
    front = np.flatnonzero(non_dominated(values))
    front = front[np.unique(values[front], axis=0, return_index=True)[1]]
    scaled = np.stack([_scaled(values[front, c], o.evaluated) for c, o in enumerate(problem.objectives)], axis=1)
    chosen = _farthest(scaled, min(members, len(front)))
    return sorted((usable[front[i]] for i in chosen), key=lambda t: _speed_key(t, problem))


def _speed_key(trial: Trial, problem: Problem) -> tuple[Any, ...]:
    costs = [trial.objectives[o.name] for o in problem.objectives if not o.evaluated]
    return (*costs, trial.number)


def _scaled(column: np.ndarray[Any, Any], evaluated: bool) -> np.ndarray[Any, Any]:
    """0 to 1 along the front; quality by rank, since its differences shrink when members are trained."""
    if evaluated:
        values = np.unique(column, return_inverse=True)[1].astype(np.float64)
    else:
        values = np.log(np.maximum(column, 1e-12))
    span = values.max() - values.min()
    return np.asarray((values - values.min()) / span if span > 0 else np.zeros_like(values))


def _farthest(points: np.ndarray[Any, Any], count: int) -> list[int]:
    chosen = [int(np.argmin(points[:, -1]))]
    while len(chosen) < count:
        gaps = np.linalg.norm(points[:, None, :] - points[None, chosen, :], axis=2).min(axis=1)
        chosen.append(int(np.argmax(gaps)))
    return chosen


# ----------------------------------------------------------------------- fine-tuning


def tune_all(
    policies: Sequence[SparsityPolicy],
    problem: Problem,
    settings: SearchSettings,
    executor: Executor,
    progress: Progress,
) -> list[Tuned | Failure]:
    """Fine-tune candidates on the executor; what an earlier run of the same settings finished is read back."""
    folder = problem.run / "tuned"
    key = digest(canonical_json([settings.finetune.model_dump(mode="json"), settings.criterion, settings.seed]))
    found: list[Tuned | Failure | None] = [_read_tuned(folder, policy, key) for policy in policies]
    open_places = [place for place, result in enumerate(found) if result is None]
    done = len(policies) - len(open_places)
    progress("fine-tune members", done, len(policies))
    # Absolute: a worker of Ray has a working directory of its own.
    checkpoints = [folder.absolute() / f"{policies[place].id}.checkpoint" for place in open_places]
    jobs = [
        Job(place, tune, (policies[place], settings.finetune, str(checkpoint)), timed=False)
        for place, checkpoint in zip(open_places, checkpoints, strict=True)
    ]
    if jobs:
        folder.mkdir(parents=True, exist_ok=True)
        for place, result in executor.run(jobs):
            found[place] = result
            if isinstance(result, Tuned):
                _write_tuned(folder, result, key)
            done += 1
            progress("fine-tune members", done, len(policies))
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)
    return [result if result is not None else Failure("missing", "no result came back") for result in found]


def _write_tuned(folder: Path, result: Tuned, key: str) -> None:
    write_tensors(folder / f"{result.policy.id}.safetensors", result.state)
    record = {
        "schema": TUNED_SCHEMA,
        "key": key,
        "policy": dict(result.policy),
        "metrics": result.metrics,
        "before": result.before,
        "losses": list(result.losses),
        "seconds": result.seconds,
    }
    write_json(folder / f"{result.policy.id}.json", record)


def _read_tuned(folder: Path, policy: SparsityPolicy, key: str) -> Tuned | None:
    """What was finished before, or None where it was not, or with other settings, or cannot be read."""
    path = folder / f"{policy.id}.json"
    if not path.is_file():
        return None
    try:
        data = read_json(path, "fine-tuned member", TUNED_SCHEMA)
        if data["key"] != key or SparsityPolicy(data["policy"]) != policy:
            return None
        state = load_file(folder / f"{policy.id}.safetensors")
        metrics = {name: float(value) for name, value in data["metrics"].items()}
        before = {name: float(value) for name, value in data["before"].items()}
        return Tuned(policy, state, metrics, before, tuple(map(float, data["losses"])), float(data["seconds"]))
    except (AutopruneError, KeyError, TypeError, ValueError, AttributeError, OSError, SafetensorError):
        return None


def finished(tuned: Sequence[Tuned | Failure], problem: Problem) -> list[Finished]:
    """The members as modules, named `m1`, `m2`, ... from the fastest predicted; failures are left out.

    Raises:
        AutopruneError: all of them failed; names the reasons.
    """
    sound = [result for result in tuned if isinstance(result, Tuned)]
    if not sound:
        raise AutopruneError(f"no member could be fine-tuned: {'; '.join(sorted({str(result) for result in tuned}))}.")
    return [
        Finished(
            f"m{number}",
            problem.graph.rebuild(result.policy, result.state).eval(),
            result.policy,
            result.metrics,
            result.before,
        )
        for number, result in enumerate(sound, start=1)
    ]


def dense_member(problem: Problem) -> Finished:
    """The dense model as a row of the front."""
    policy = SparsityPolicy(problem.graph.widths({}))
    return Finished(DENSE, problem.graph.module().clone_tensors().eval(), policy, problem.dense_metrics, {})


# ----------------------------------------------------------------------- measurement


def at_hand(profile: HardwareProfile) -> bool:
    """Whether a profile's device is this machine: same processor and extensions, and the profile was measured."""
    header = profile.header
    if header.provenance != "measured":
        return False
    here = DEVICES.get("local")().describe()
    return (here.processor, here.features) == (header.device.processor, header.device.features)


def measure_all(
    models: Sequence[Finished], problem: Problem, progress: Progress
) -> dict[str, list[Measurement | Failure]]:
    """Each profile whose device is this machine -> measurements of all models, interleaved in one run."""
    found = {}
    for name, profile in problem.profiles.items():
        if at_hand(profile):
            found[name] = measure_models(
                [model.module for model in models],
                runtime=profile.header.runtime.name,
                settings=run_settings(profile.header),
                progress=lambda _, done, total: progress("measure members", done, total),
            )
    return found


# ----------------------------------------------------------------------- rows


def rows(
    models: Sequence[Finished], problem: Problem, measured: Mapping[str, Sequence[Measurement | Failure]]
) -> list[dict[str, object]]:
    """One row a model with everything but the test metrics; the first model is the dense one."""
    found = [_row(model, problem) for model in models]
    for name, results in measured.items():
        suffix = _suffix(problem, name)
        for row, result in zip(found, results, strict=True):
            if isinstance(result, Measurement):
                for percentile in _PERCENTILES:
                    row[f"measured_latency_{percentile}_us{suffix}"] = result.us(percentile)
    for name in problem.profiles:
        suffix = _suffix(problem, name)
        for row in found:
            row[f"speedup{suffix}"] = _speedup(found[0], row, suffix)
    return found


def _suffix(problem: Problem, profile: str) -> str:
    return f"@{profile}" if len(problem.profiles) > 1 else ""


def _row(model: Finished, problem: Problem) -> dict[str, object]:
    row: dict[str, object] = {"member": model.name, **model.metrics}
    row |= {f"before_{name}": value for name, value in model.before.items()}
    for name, table in problem.tables.items():
        suffix = _suffix(problem, name)
        cost = table_cost(table, model.policy)
        row |= {f"latency_{p}_us{suffix}": cost.latency_us[p] for p in _PERCENTILES}
        low, high = cost.interval_us["p50"]
        row |= {f"latency_p50_low_us{suffix}": low, f"latency_p50_high_us{suffix}": high}
        row |= {f"share_{kind}{suffix}": share for kind, share in cost.shares.items()}
        row[f"throughput_per_s{suffix}"] = cost.throughput_per_s
        if cost.energy_uj is not None:
            row[f"energy_uj{suffix}"] = cost.energy_uj
        row |= {"params": cost.params, "size_bytes": cost.weight_bytes, "peak_memory_bytes": cost.peak_memory_bytes}
    examples = tuple(tensor[:1] for tensor in problem.graph.example_inputs)
    row["macs"] = fvcore_macs(model.module, examples)
    row["policy_id"] = model.policy.id
    return row


def _speedup(dense: Mapping[str, object], row: Mapping[str, object], suffix: str) -> float:
    for column in (f"measured_latency_p50_us{suffix}", f"latency_p50_us{suffix}"):
        if column in dense and column in row:
            return float(dense[column]) / float(row[column])  # type: ignore[arg-type]
    return math.nan


# ----------------------------------------------------------------------- front


def surely_dominated(table: Sequence[Mapping[str, object]], problem: Problem) -> list[bool]:
    """Which rows another beats beyond the noise: nowhere more costly, and better by more than it in quality.

    The noise of an accuracy is its binomial standard error over the validation samples; other metrics are taken as
    exact. Costs are the measured ones where there are any.
    """
    values = np.array([[_objective(row, problem, o.name) for o in problem.objectives] for row in table], dtype=float)
    samples = validation_size(problem) if problem.task.judges_classes else 0
    noise = np.array([_standard_error(row, samples) for row in table])
    result = []
    for mine in range(len(table)):
        beaten = False
        for other in range(len(table)):
            if other == mine:
                continue
            margins = np.array([noise[mine] if o.evaluated else 0.0 for o in problem.objectives])
            gains = values[mine] - values[other]
            beaten |= bool((gains >= margins).all() and (gains > margins).any())
        result.append(beaten)
    return result


def _objective(row: Mapping[str, object], problem: Problem, name: str) -> float:
    task = problem.task
    if name == task.quality:
        return task.objective({metric: float(row[metric]) for metric in task.metrics})  # type: ignore[arg-type]
    objective = next(o for o in problem.objectives if o.name == name)
    if objective.evaluated:
        value = float(row[name])  # type: ignore[arg-type]
        return value if name in task.minimize else -value
    measured = row.get(f"measured_{objective.column}")
    return float(measured if measured is not None else row[objective.column])  # type: ignore[arg-type]


def _standard_error(row: Mapping[str, object], samples: int) -> float:
    """Of an accuracy over that many samples; 0 where the quality is no accuracy (no samples are given)."""
    if not samples:
        return 0.0
    share = float(row["accuracy"])  # type: ignore[arg-type]
    return math.sqrt(max(share * (1.0 - share), 0.0) / samples)


def validation_size(problem: Problem) -> int:
    """Samples in the validation split."""
    return sum(batch_size(problem.task.inputs_of(batch)) for batch in problem.task.validation)


# ----------------------------------------------------------------------- publish


def publish(
    models: Sequence[Finished],
    table: list[dict[str, object]],
    problem: Problem,
    settings: SearchSettings,
    pruner: Pruner,
    progress: Progress,
) -> None:
    """Judge the front on the test split, once; write members, `front.csv` and the report."""
    metrics = list(problem.task.metrics)
    for place, (model, row) in enumerate(zip(models, table, strict=True)):
        if problem.task.test is not None:
            judged = problem.task.evaluate(_as_trained(model, problem), split="test")
            row |= {f"test_{name}": value for name, value in judged.items()}
        recipe = make_recipe(
            model.name,
            problem.graph,
            model.policy,
            pruner.orders,
            criterion=settings.criterion,
            finetune=settings.finetune.model_dump(mode="json") if model.name != DENSE else {},
            versions=versions(),
            seed=settings.seed,
        )
        published = write_member(problem.run, recipe, model.module, row)
        if "onnx" in published.exports:
            row["onnx_bytes"] = published.exports["onnx"].bytes
        progress("publish members", place + 1, len(models))
    write_front(problem.run, table, metrics)
    write_report(problem.run)


def _as_trained(model: Finished, problem: Problem) -> torch.nn.Module:
    return problem.model if model.name == DENSE else model.module


def record_trials(trials: Sequence[Trial], problem: Problem) -> None:
    """Write `trials.csv`."""
    widths = problem.space.group_widths([trial.choice for trial in trials])
    latency = {name: table.latency_us(widths) for name, table in problem.tables.items()}
    table: list[dict[str, object]] = []
    for place, trial in enumerate(trials):
        row: dict[str, object] = {"number": trial.number, "origin": trial.origin, "feasible": int(trial.feasible)}
        row |= trial.metrics
        for name, times in latency.items():
            row |= {f"latency_{p}_us{_suffix(problem, name)}": float(times[p][place]) for p in ("p50", "p95")}
        row |= {"policy_id": trial.policy.id, "policy": trial.policy.json, "seconds": trial.seconds}
        row["failure"] = str(trial.failure) if trial.failure is not None else None
        table.append(row)
    write_trials(problem.run, table, list(problem.task.metrics))


__all__ = [
    "Finished", "at_hand", "choose", "dense_member", "finished", "measure_all", "publish", "record_trials", "rows",
    "surely_dominated", "tune_all",
]  # fmt: skip

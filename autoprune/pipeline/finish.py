"""From fine-tuned candidates to published members: measurement, the front, the test split, the files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from autoprune.artifacts.bundle import make_recipe, write_front, write_member, write_trials
from autoprune.artifacts.device import ON_FRONT
from autoprune.artifacts.layout import DENSE, RUN
from autoprune.artifacts.ranking import compare_damage, compare_fidelities, compare_rows, write_ranking
from autoprune.artifacts.records import RunRecord
from autoprune.artifacts.report import write_report
from autoprune.artifacts.table import clean_row
from autoprune.core.errors import AutopruneError, Failure
from autoprune.graph.macs import fvcore_macs
from autoprune.graph.module import TracedModule
from autoprune.graph.policy import SparsityPolicy
from autoprune.hardware.cost import table_cost
from autoprune.hardware.devices import DEVICES
from autoprune.hardware.measure import Measurement, measure_models, run_settings
from autoprune.pipeline.candidates import JOINT, standing
from autoprune.pipeline.problem import Problem, Progress, SearchSettings, versions
from autoprune.search.tuned import Tuned

if TYPE_CHECKING:
    from autoprune.hardware.profile import HardwareProfile
    from autoprune.pipeline.training import Trained
    from autoprune.pruning.pruner import Pruner
    from autoprune.search.trial import Trial

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


def finish(trained: Trained, problem: Problem, settings: SearchSettings, pruner: Pruner, progress: Progress) -> None:
    """Measure what was trained, keep what is on a front, and publish it.

    Raises:
        AutopruneError: nothing was trained with success.
    """
    models = [dense_member(problem), *finished(trained.members, problem)]
    measured = measure_all(models, problem, progress) if settings.measure else {}
    table = rows(models, problem, measured)
    on = standing(table, problem)
    kept = [place for place in range(len(models)) if place == 0 or any(places[place] for places in on.values())]
    for name, places in on.items():
        if name != JOINT:
            for row, good in zip(table, places, strict=True):
                row[f"{ON_FRONT}@{name}"] = int(good)
    shown = [table[place] for place in kept]
    publish([models[place] for place in kept], shown, problem, settings, pruner, progress)
    write_front(problem.run, shown, list(problem.task.metrics))
    write_comparisons(table, trained, problem)
    write_report(problem.run)


def write_comparisons(table: Sequence[Mapping[str, object]], trained: Trained, problem: Problem) -> None:
    """Write `ranking.json`: of everything that was trained and measured, also what left the front."""
    record = RunRecord.read(problem.run / RUN)
    found = compare_fidelities(record.metrics, trained.levels)
    found += compare_rows([clean_row(row) for row in table], record)
    write_ranking(problem.run, [*found, *compare_damage(problem.run, record.metrics[0])])


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


# ----------------------------------------------------------------------- publish


def publish(
    models: Sequence[Finished],
    table: list[dict[str, object]],
    problem: Problem,
    settings: SearchSettings,
    pruner: Pruner,
    progress: Progress,
) -> None:
    """Judge members on the test split, once, and write their folders."""
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
            finetune=settings.training if model.name != DENSE else {},
            versions=versions(),
            seed=settings.seed,
        )
        published = write_member(problem.run, recipe, model.module, row)
        if "onnx" in published.exports:
            row["onnx_bytes"] = published.exports["onnx"].bytes
        progress("publish members", place + 1, len(models))


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
        row["raced_out"] = trial.raced_out
        row["failure"] = str(trial.failure) if trial.failure is not None else None
        table.append(row)
    write_trials(problem.run, table, list(problem.task.metrics))


__all__ = [
    "Finished",
    "at_hand",
    "dense_member",
    "finish",
    "finished",
    "measure_all",
    "publish",
    "record_trials",
    "rows",
]

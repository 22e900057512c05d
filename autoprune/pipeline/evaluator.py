"""The evaluator of a search: its pruner, its precision and its races, and what is worth knowing of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from autoprune.artifacts.layout import RUN
from autoprune.artifacts.records import RunRecord
from autoprune.pipeline.candidates import validation_size
from autoprune.pruning.pruner import Pruner
from autoprune.search.evaluation import Evaluator
from autoprune.tuning.batches import device_of
from autoprune.tuning.layout import autocast
from autoprune.tuning.optimizer import autocast_dtype

if TYPE_CHECKING:
    from pathlib import Path

    from autoprune.pipeline.problem import Problem, SearchSettings

_TRIED = (0.5, 0.25, 0.75)  # uniform ratios of the models that tell whether the metric can be raced by


def make_evaluator(problem: Problem, settings: SearchSettings) -> tuple[Evaluator, tuple[str, ...]]:
    """What judges policies, and notes.

    Raises:
        InputError: as `Pruner`.
    """
    data = problem.task.calibration_data(seed=settings.seed)
    pruner = Pruner(problem.graph, settings.criterion, data.inputs, seed=settings.seed, loss=data.loss)
    dtype, said = evaluation_dtype(problem, settings.precision)
    threads = settings.executor.threads
    evaluator = Evaluator(pruner, problem.task, threads=threads, seed=settings.seed, dtype=dtype)
    notes = [*pruner.notes, *said]
    reason = _not_raced(problem, evaluator) if settings.racing else None
    if reason is not None:
        notes.append(f"racing is off, so every policy is judged on the whole validation split: {reason}")
    return evaluator, tuple(notes)


def _not_raced(problem: Problem, evaluator: Evaluator) -> str | None:
    """Let the evaluator race; or why it cannot."""
    task = problem.task
    evaluated = [objective.name for objective in problem.objectives if objective.evaluated]
    if evaluated != [task.quality]:
        return f"it needs the objective '{task.quality}' and no other that is evaluated, got {', '.join(evaluated)}"
    if problem.noise.get(task.metric, 0.0) > 0.0:
        return f"'{task.metric}' is not the same twice"
    space = problem.space
    return evaluator.allow_races([space.policy(space.uniform(ratio)) for ratio in _TRIED])


def evaluation_dtype(problem: Problem, precision: str) -> tuple[torch.dtype | None, tuple[str, ...]]:
    """What candidates are judged in: decided by setting, device and the dense model's metric, never by the clock."""
    device = device_of(problem.model)
    dtype = autocast_dtype({"float32": "off", "bfloat16": "bf16"}.get(precision, "auto"), device)
    if dtype is None:
        lacking = f"candidates are judged in float32: {device.type} here does not compute in bfloat16"
        return None, (lacking,) if precision == "auto" else ()
    task = problem.task
    with autocast(device, dtype):
        found = task.evaluate(problem.model)[task.metric]
    dense = problem.dense_metrics[task.metric]
    if not abs(found - dense) <= _tolerance(problem):
        gap = f"bfloat16 changes '{task.metric}' of the dense model from {dense:.6g} to {found:.6g}"
        return (None, (f"candidates are judged in float32: {gap}",)) if precision == "auto" else (dtype, (gap,))
    return dtype, ("candidates are judged in bfloat16",)


def _tolerance(problem: Problem) -> float:
    """What the metric of the dense model may change by: its standard error where it is an accuracy, else 0.1 %."""
    task, value = problem.task, problem.dense_metrics[problem.task.metric]
    if task.judges_classes:
        return math.sqrt(value * (1.0 - value) / validation_size(problem))
    return max(1e-3 * abs(value), problem.noise.get(task.metric, 0.0))


def add_notes(run: Path, notes: tuple[str, ...]) -> None:
    """Have `run.json`, and so the report and the command line, say them too; those already there stay."""
    record = RunRecord.read(run / RUN)
    together = tuple(dict.fromkeys((*record.notes, *notes)))
    if together != record.notes:
        record.model_copy(update={"notes": together}).write(run / RUN)

"""Damage curves of a run, predicted or measured within a budget, losses kept once known; how well they predict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.artifacts.layout import PREDICTION
from autoprune.core.errors import Failure, InputError
from autoprune.core.files import read_json, write_json
from autoprune.graph.policy import SparsityPolicy
from autoprune.pareto.correlation import kendall_tau, paired, spearman_rho
from autoprune.search.damage import DamageBudget, DamageCurves, damage_budget, damage_curves, predicted_curves
from autoprune.search.evaluation import Evaluator
from autoprune.search.executors import Executor, Job
from autoprune.search.quality_model import Damage, foretold
from autoprune.tuning.batches import batch_size

if TYPE_CHECKING:
    from autoprune.pipeline.problem import Problem, Progress, SearchSettings
    from autoprune.pruning import Pruner
    from autoprune.search.trial import Trial
    from autoprune.tuning.task import Task

DAMAGE = "damage.json"
DAMAGE_SCHEMA = "autoprune.damage/2"
PREDICTION_SCHEMA = "autoprune.prediction/1"
_MOST_COMPARED = 2000  # trials: Kendall's tau compares all pairs


def run_damage(
    problem: Problem, settings: SearchSettings, executor: Executor, progress: Progress, pruner: Pruner
) -> DamageCurves:
    """The damage curves; what an earlier call measured is read back, be it all of them or a part.

    `damage.json` holds the losses, what they cost (`evaluations`: in units of a trial, with the samples that `pruner`
    re-estimates batch norms on and the whole validation split to judge by), and at last the curves.
    """
    path = problem.run / DAMAGE
    stored = _stored(path)
    if "curves" in stored:
        try:
            return DamageCurves.from_data(stored["curves"], problem.space)
        except InputError:
            stored = {}  # of another space: measured anew
    budget = curves_budget(problem, settings, pruner)
    if budget is None:
        progress("damage curves", 0, 1)
        curves = predicted_curves(problem.space, pruner.damage())
        progress("damage curves", 1, 1)
        write_json(path, {"schema": DAMAGE_SCHEMA, "evaluations": 0.0, "curves": curves.to_data()})
        return curves
    kept = stored.get("losses", {}) if stored.get("budget") == asdict(budget) else {}
    log = _Losses(path, budget, {str(name): float(loss) for name, loss in kept.items()})

    def losses(policies: Sequence[SparsityPolicy]) -> Sequence[float | Failure]:
        missing = {place: policy for place, policy in enumerate(policies) if policy.id not in log.known}
        jobs = [Job(place, Evaluator.loss, (policy, budget.samples)) for place, policy in missing.items()]
        progress("damage curves", len(log.known), budget.losses)
        failed: dict[int, Failure] = {}
        for place, loss in executor.run(jobs):
            if isinstance(loss, Failure):
                failed[place] = loss
            else:
                log.add(policies[place], float(loss))
            progress("damage curves", len(log.known) + len(failed), budget.losses)
        return [failed[place] if place in failed else log.known[policy.id] for place, policy in enumerate(policies)]

    curves = damage_curves(problem.space, losses, budget.points)
    log.write(curves)
    return curves


def damage_note(run: Path) -> tuple[str, ...]:
    """What the curves of a run cost, as its record says it."""
    stored = _stored(run / DAMAGE)
    budget = stored.get("budget", {})
    if not {"losses", "samples"} <= set(budget) or "evaluations" not in stored:
        return ()
    return (
        f"damage curves took {budget['losses']} losses on {budget['samples']} samples each: as much as "
        f"{stored['evaluations']:.3g} evaluations",
    )


def curves_budget(problem: Problem, settings: SearchSettings, pruner: Pruner) -> DamageBudget | None:
    """What the curves of a run may cost; None where they are predicted."""
    if settings.damage_points == 0:
        return None
    samples, batch = _validation_samples(problem.task)
    return damage_budget(
        problem.space.levels, settings.trials, samples, settings.damage_points, batch, pruner.recalibrated
    )


class _Losses:
    """Losses by policy, on disk after each: what was measured before an interrupt is not measured again."""

    def __init__(self, path: Path, budget: DamageBudget, known: dict[str, float]) -> None:
        self._path = path
        self._budget = budget
        self.known = known

    def add(self, policy: SparsityPolicy, loss: float) -> None:
        self.known[policy.id] = loss
        self.write(None)

    def write(self, curves: DamageCurves | None) -> None:
        cost = self._budget.evaluations * len(self.known) / self._budget.losses
        data: dict[str, Any] = {"schema": DAMAGE_SCHEMA, "budget": asdict(self._budget), "evaluations": round(cost, 3)}
        if curves is None:
            data["losses"] = {name: loss for name, loss in self.known.items() if math.isfinite(loss)}
        else:
            data["curves"] = curves.to_data()
        write_json(self._path, data)


def _stored(path: Path) -> Mapping[str, Any]:
    """What an earlier call wrote; nothing where that is missing, cut off or of an older version."""
    if not path.is_file():
        return {}
    try:
        found = read_json(path, "damage curves", DAMAGE_SCHEMA)
    except InputError:
        return {}
    sound = isinstance(found.get("losses", {}), dict) and isinstance(found.get("curves", {}), dict)
    return found if sound else {}


def _validation_samples(task: Task) -> tuple[int, int]:
    """Samples of the validation split, and of its first batch."""
    sizes = [batch_size(task.inputs_of(batch)) for batch in task.validation]
    return sum(sizes), max(sizes[:1], default=1)


def write_prediction(problem: Problem, curves: DamageCurves, trials: Sequence[Trial]) -> None:
    """`prediction.json`: how well quality was predicted, by damage curves alone and corrected by earlier trials.

    Rank correlations of predicted and measured quality over the same trials, each predicted from those before its
    batch; null where there are too few, or where they do not differ.
    """
    evaluated = [objective.name for objective in problem.objectives if objective.evaluated]
    if not evaluated:
        return
    known = [trial for trial in sorted(trials, key=lambda t: t.number) if evaluated[0] in trial.objectives]
    choices = np.array([trial.choice for trial in known], dtype=np.int64).reshape(len(known), len(problem.space.levels))
    measured = np.array([trial.objectives[evaluated[0]] for trial in known], dtype=np.float64)
    corrected = foretold(Damage(problem.space.levels, curves.tables), choices, measured)
    told = np.flatnonzero(np.isfinite(corrected))
    told = told[np.unique(np.linspace(0, max(len(told) - 1, 0), min(len(told), _MOST_COMPARED)).astype(np.int64))]
    damage = paired(curves.predict(choices[told]).tolist(), measured[told].tolist())
    after = paired(corrected[told].tolist(), measured[told].tolist())
    write_json(
        problem.run / PREDICTION,
        {
            "schema": PREDICTION_SCHEMA,
            "spearman_damage": _or_none(spearman_rho(*damage)),
            "kendall_damage": _or_none(kendall_tau(*damage)),
            "spearman_corrected": _or_none(spearman_rho(*after)),
            "kendall_corrected": _or_none(kendall_tau(*after)),
            "n": len(told),
        },
    )


def _or_none(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None

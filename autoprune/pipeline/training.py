"""Fine-tuning at growing fidelity: many candidates a little, then the most promising spread of them in full.

Successive halving (Jamieson and Talwalkar 2016) on a front: what is promoted is a spread, not the best by one number.
Training in full goes on from what the short one left. Everything that is finished is kept, so that an interrupted run
ends as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from autoprune.artifacts.weights import expected_shapes, read_tensors, write_tensors
from autoprune.core.errors import AutopruneError, Failure, NoRoomError
from autoprune.core.files import canonical_json, digest, read_json, write_json
from autoprune.core.settings import validated
from autoprune.graph.policy import SparsityPolicy
from autoprune.pipeline.candidates import choose, promote
from autoprune.search.executors import Executor, Job
from autoprune.search.tuned import Tuned, tune
from autoprune.tuning.custom import trainer_name
from autoprune.tuning.settings import FinetuneSettings

if TYPE_CHECKING:
    import torch

    from autoprune.graph.graph import DependencyGraph
    from autoprune.pipeline.problem import Problem, Progress, SearchSettings
    from autoprune.search.trial import Trial

TUNED_SCHEMA = "autoprune.tuned/1"
FOLDER = "tuned"
SHORT = "short"

Levels = Mapping[str, Mapping[str, float]]

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Record(BaseModel):
    """What is kept of a fine-tuned model beside its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(alias="schema")
    key: str
    policy: dict[str, StrictInt]
    metrics: dict[str, _Number]
    before: dict[str, _Number]
    losses: tuple[_Number, ...]
    seconds: _Number


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gave.

    Attributes:
        members: the candidates trained in full, the fastest first.
        levels: of every candidate, `none`, `short`, `full` -> metrics on validation, as far as it came.
    """

    members: tuple[Tuned | Failure, ...]
    levels: tuple[Levels, ...]


def train(
    trials: Sequence[Trial], problem: Problem, settings: SearchSettings, executor: Executor, progress: Progress
) -> Trained:
    """Fine-tune a spread of the searched front.

    Raises:
        AutopruneError: no trial is feasible and was evaluated, or the disk is full.
    """
    stages = _Stages(problem, settings, executor, progress)
    if not settings.halves:
        chosen = choose(trials, problem, settings.members)
        full = stages.run("fine-tune members", [trial.policy for trial in chosen], settings.finetune)
        return Trained(tuple(full), tuple(_levels(None, result) for result in full))
    candidates = choose(trials, problem, settings.candidates or settings.members, fill=True)
    little = settings.finetune.model_copy(update={"epochs": settings.short_epochs})
    short = stages.run("fine-tune candidates", [trial.policy for trial in candidates], little, SHORT)
    known = [result.metrics if isinstance(result, Tuned) else None for result in short]
    promoted = promote(candidates, known, problem, settings.members)
    if not promoted:
        return Trained(tuple(short), ())
    starts = [result.state if isinstance(result, Tuned) else {} for result in (short[place] for place in promoted)]
    policies = [candidates[place].policy for place in promoted]
    full = stages.run("fine-tune members", policies, settings.finetune, "", starts)
    after = dict(zip(promoted, full, strict=True))
    levels = [_levels(result, after.get(place)) for place, result in enumerate(short)]
    return Trained(tuple(_since_pruning(short[p], r) for p, r in after.items()), tuple(levels))


def _since_pruning(short: Tuned | Failure, full: Tuned | Failure) -> Tuned | Failure:
    """The member with what it was before any training, not before the last."""
    if isinstance(short, Tuned) and isinstance(full, Tuned):
        return replace(full, before=short.before)
    return full


def _levels(short: Tuned | Failure | None, full: Tuned | Failure | None) -> Levels:
    found: dict[str, Mapping[str, float]] = {}
    if isinstance(short, Tuned):
        found |= {"none": short.before, "short": short.metrics}
    if isinstance(full, Tuned):
        found |= {"full": full.metrics} if short is not None else {"none": full.before, "full": full.metrics}
    return found


class _Stages:
    """Runs stages of training on the executor; what an earlier run of the same settings finished is read back."""

    def __init__(self, problem: Problem, settings: SearchSettings, executor: Executor, progress: Progress) -> None:
        self._problem = problem
        self._folder = problem.run / FOLDER
        self._settings = settings
        self._executor = executor
        self._progress = progress

    def run(
        self,
        what: str,
        policies: Sequence[SparsityPolicy],
        training: FinetuneSettings,
        folder: str = "",
        starts: Sequence[dict[str, torch.Tensor]] | None = None,
    ) -> list[Tuned | Failure]:
        """Train each policy's model.

        Args:
            what: the stage, as progress calls it.
            policies: to train.
            training: how.
            folder: within that of all stages, where this one keeps what is finished.
            starts: tensors that each goes on from; without them, from what pruning gives.
        """
        kept = self._folder / folder
        key = self._key(training, starts is not None)
        found: list[Tuned | Failure | None] = [
            read_tuned(kept, policy, key, self._problem.graph, self._problem.task.metrics) for policy in policies
        ]
        places = [place for place, result in enumerate(found) if result is None]
        done = len(policies) - len(places)
        self._progress(what, done, len(policies))
        # Absolute, as a worker of Ray has a working directory of its own.
        checkpoints = {place: kept.absolute() / f"{policies[place].id}.checkpoint" for place in places}
        if places:
            kept.mkdir(parents=True, exist_ok=True)
        jobs = [
            Job(
                place,
                tune,
                (policies[place], training, str(path), starts[place] if starts else None, self._trainer),
                timed=False,  # the limit is that of an evaluation
            )
            for place, path in checkpoints.items()
        ]
        for place, result in self._executor.run(jobs) if jobs else ():
            if isinstance(result, Failure) and result.kind == NoRoomError.__name__:
                raise NoRoomError(f"fine-tuning {policies[place].id}: {result.message}")
            found[place] = result
            if isinstance(result, Tuned):
                write_tuned(kept, result, key)
            done += 1
            self._progress(what, done, len(policies))
        for checkpoint in checkpoints.values():
            checkpoint.unlink(missing_ok=True)
        return [result if result is not None else Failure("missing", "no result came back") for result in found]

    @property
    def _trainer(self) -> Any:
        return self._settings.trainer

    def _key(self, training: FinetuneSettings, goes_on: bool) -> str:
        """What a result depends on besides the policy: a full training that goes on, on the short one too."""
        settings = self._settings
        parts: list[Any] = [training.model_dump(mode="json"), settings.criterion, settings.seed]
        if self._trainer is not None:
            parts.append(trainer_name(self._trainer))
        if goes_on:
            parts.append(settings.short_epochs)
        return digest(canonical_json(parts))


def read_tuned(
    folder: Path, policy: SparsityPolicy, key: str, graph: DependencyGraph, metrics: Collection[str]
) -> Tuned | None:
    """What was finished before; None where it was not, or with other settings, or where its files do not fit.

    Args:
        folder: of the stage.
        policy: whose model.
        key: of the settings, as it was written with.
        graph: of the dense model.
        metrics: names of the task's.
    """
    path = folder / f"{policy.id}.json"
    if not path.is_file():
        return None
    try:
        record = validated(_Record, read_json(path, "fine-tuned member", TUNED_SCHEMA), f"fine-tuned member {path}")
        known = record.metrics.keys() == record.before.keys() == set(metrics)
        if record.key != key or record.policy != dict(policy) or not known:
            return None
        expected = expected_shapes(graph.program, graph.widths(graph.check(policy)))
        state = read_tensors(path.with_suffix(".safetensors"), expected)
    except AutopruneError:
        return None
    return Tuned(policy, state, record.metrics, record.before, record.losses, record.seconds)


def write_tuned(folder: Path, result: Tuned, key: str) -> None:
    """Keep what is finished: its tensors, then the record that says so."""
    if not all(map(math.isfinite, (*result.metrics.values(), *result.before.values(), *result.losses))):
        return  # JSON has no such numbers; it would be trained again
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

"""A run's trials as they are stored: one Optuna trial each, written once, whole, when it is finished."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self, cast, get_args

from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from autoprune.core.errors import Failure, InputError, shortened
from autoprune.search.backend import open_study, writing
from autoprune.search.lock import FolderLock
from autoprune.search.samplers.memory import quiet
from autoprune.search.samplers.nsga2 import GENERATION_KEY
from autoprune.search.trial import Choice, Origin

_SETTINGS_KEY = "autoprune:settings"


@dataclass(frozen=True)
class Record:
    """A finished trial as it is stored.

    Attributes:
        number: of the trial in the search; Optuna's own numbers follow the order in which trials finished.
        batch: which batch it was proposed in.
        choice: levels.
        values: objectives in order, inf for what was not evaluated since the trial is infeasible; None where it failed.
        violations: by constraint.
        origin, evaluated, metrics, seconds, failure, raced_out: as in `Trial`.
    """

    number: int
    batch: int
    choice: Choice
    origin: Origin
    values: tuple[float, ...] | None
    violations: dict[str, float]
    evaluated: bool
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    failure: Failure | None = None
    raced_out: int = 0

    @property
    def sound(self) -> bool:
        """Whether its quality is known and it meets all constraints."""
        known = self.evaluated and self.failure is None and not self.raced_out
        return known and all(value <= 0.0 for value in self.violations.values())


class TrialStorage:
    """The trials of one run.

    Args:
        folder: of the run; made when missing.
        names: of the variables.
        levels: of the variables.
        objectives: names; all are minimised.
        url: of a database instead of the journal in the folder (`postgresql://...`, `sqlite:///...`).
        lock: of the folder, where the caller holds it already and goes on to; else it is taken here.

    Raises:
        InputError: the folder is in use or cannot be written, the database cannot be reached, or what is stored is no
            such search.
    """

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...],
        levels: tuple[int, ...],
        objectives: tuple[str, ...],
        url: str | None,
        lock: FolderLock | None = None,
    ) -> None:
        self._names = names
        self._levels = levels
        self._objectives = len(objectives)
        self._url = url
        self._distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, count - 1) for name, count in zip(names, levels, strict=True)
        }
        self._closing = ExitStack()
        try:
            if lock is None:
                self._closing.enter_context(FolderLock(folder))
            with quiet():
                self.study = open_study(folder, objectives, url, self._closing)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """End connections, and let other processes in."""
        self._closing.close()

    def settings(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """What the run was started with; `wanted` when it starts now."""
        with writing(self._url):
            found = self.study.user_attrs.get(_SETTINGS_KEY)
            if found is None:
                self.study.set_user_attr(_SETTINGS_KEY, dict(wanted))
                return dict(wanted)
        if not isinstance(found, dict):
            raise InputError(f"run storage: expected settings, got {type(found).__name__}. It is no run of autoprune.")
        return found

    def add(self, record: Record) -> None:
        """Store a finished trial: one record, on disk when this returns.

        Raises:
            AutopruneError: it cannot be written (the disk is full, the database is gone).
        """
        attributes: dict[str, Any] = {
            "number": record.number,
            "origin": record.origin,
            "evaluated": record.evaluated,
            "seconds": round(record.seconds, 6),
            "metrics": record.metrics,
        }
        if record.failure is not None:
            attributes["failure"] = [record.failure.kind, record.failure.message, record.failure.hint]
        if record.raced_out:
            attributes["raced_out"] = record.raced_out
        now = datetime.now()
        trial = FrozenTrial(  # `create_trial` looks at each distribution once more, for older kinds of them
            number=-1,
            trial_id=-1,
            state=TrialState.FAIL if record.values is None else TrialState.COMPLETE,
            value=None,
            values=record.values,
            datetime_start=now,
            datetime_complete=now,
            params=dict(zip(self._names, record.choice, strict=True)),
            distributions=self._distributions,
            user_attrs=attributes,
            system_attrs={GENERATION_KEY: record.batch},
            intermediate_values={},
        )
        for name, violation in record.violations.items():
            trial.set_constraint(name, violation)
        with writing(self._url):
            self.study.add_trial(trial)

    def load(self) -> list[Record]:
        """All finished trials, in order of number. A number stored twice counts as it was stored last.

        Raises:
            InputError: a trial that is not one of this search.
        """
        records = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
            record = self._record(trial)
            records[record.number] = record
        return [records[number] for number in sorted(records)]

    def _record(self, trial: FrozenTrial) -> Record:
        attributes = trial.user_attrs
        try:
            failure = Failure(*map(str, attributes["failure"])) if "failure" in attributes else None
            record = Record(
                number=int(attributes["number"]),
                batch=int(trial.system_attrs[GENERATION_KEY]),
                choice=tuple(int(trial.params[name]) for name in self._names),
                values=tuple(float(value) for value in trial.values) if trial.values is not None else None,
                violations={key: float(value) for key, value in trial.constraints.items()},
                origin=_origin(attributes["origin"]),
                evaluated=bool(attributes["evaluated"]),
                metrics={str(name): float(value) for name, value in attributes["metrics"].items()},
                seconds=float(attributes["seconds"]),
                failure=failure,
                raced_out=int(attributes.get("raced_out", 0)),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise InputError(
                f"run storage: trial {trial.number} is not one of this search ({type(error).__name__}: {error}). "
                "Use another run folder."
            ) from error
        self._check(trial.number, record)
        return record

    def _check(self, number: int, record: Record) -> None:
        """That a search can go on from it: NaN would neither dominate nor be dominated, and violate nothing.

        Raises:
            InputError: it is outside of the search space, or its numbers are none that a search stores.
        """
        within = all(0 <= level < count for level, count in zip(record.choice, self._levels, strict=True))
        if record.number < 0 or not within:
            raise InputError(f"run storage: trial {number} is outside of the search space. Use another run folder.")
        counted = 0 if record.failure is not None else self._objectives
        values = record.values or ()
        known = all(map(math.isfinite, values)) if record.evaluated else all(value > -math.inf for value in values)
        if len(values) != counted or not known:
            raise InputError(
                f"run storage: expected {counted} objectives of trial {number}, finite where it was evaluated, got "
                f"{shortened(str(record.values))}. Use another run folder."
            )
        if any(map(math.isnan, record.violations.values())) or not 0.0 <= record.seconds < math.inf:
            raise InputError(
                f"run storage: expected violations and seconds of trial {number} as numbers, got "
                f"{shortened(str(record.violations))} and {record.seconds}. Use another run folder."
            )


def _origin(name: object) -> Origin:
    for known in get_args(Origin):
        if name == known:
            return cast(Origin, known)
    raise ValueError(f"unknown origin {name!r}")

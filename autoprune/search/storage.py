"""Where a run's trials are kept: an Optuna study, in a journal file in the run folder or in a database.

Each finished trial is written once, whole. A journal survives a writer killed at any moment: a torn last record is cut
off when it is opened next, and locks left behind are recognised.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self, cast, get_args

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.search.samplers.memory import quiet
from autoprune.search.samplers.nsga2 import GENERATION_KEY
from autoprune.search.trial import Choice, Origin

JOURNAL = "journal.log"
LOCK = "search.lock"
STUDY_NAME = "autoprune"
_SETTINGS_KEY = "autoprune:settings"
_LOCK_GRACE_S = 5  # for a lock on the journal left by somebody who was killed (the dashboard writes there too)


@dataclass(frozen=True)
class Record:
    """A finished trial as it is stored.

    Attributes:
        number: of the trial in the search; Optuna's own numbers follow the order in which trials finished.
        batch: which batch it was proposed in.
        choice: levels.
        values: objectives in order, inf for what was not evaluated since the trial is infeasible; None where it failed.
        violations: by constraint.
        origin, evaluated, metrics, seconds, failure: as in `Trial`.
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


class FolderLock:
    """One search at a time in a run folder. The system lets go of it however its holder ends.

    Raises:
        InputError: another process holds it (which), or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"run folder {folder}: expected a folder that can be written, got {error.strerror}. Choose another."
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read(200).strip() or "another process"
            self._file.close()
            raise InputError(
                f"run folder {folder}: a search is running in it already ({holder}). Wait for it, stop it, or choose "
                "another folder."
            ) from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let others in."""
        self._file.close()


class TrialStorage:
    """The trials of one run.

    Args:
        folder: of the run; made when missing.
        names: of the variables.
        levels: of the variables.
        objectives: names; all are minimised.
        url: of a database instead of the journal in the folder (`postgresql://...`, `sqlite:///...`).

    Raises:
        InputError: the folder is in use or cannot be written, or what is stored is not a journal.
    """

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...],
        levels: tuple[int, ...],
        objectives: tuple[str, ...],
        url: str | None,
    ) -> None:
        self._names = names
        self._levels = levels
        self._distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, count - 1) for name, count in zip(names, levels, strict=True)
        }
        self._lock = FolderLock(folder)
        try:
            with quiet():
                self.study = self._open(folder, objectives, url)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes in."""
        self._lock.release()

    def settings(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """What the run was started with; `wanted` when it starts now."""
        found = self.study.user_attrs.get(_SETTINGS_KEY)
        if found is None:
            with _writing():
                self.study.set_user_attr(_SETTINGS_KEY, dict(wanted))
            return dict(wanted)
        if not isinstance(found, dict):
            raise InputError(f"run storage: expected settings, got {type(found).__name__}. It is no run of autoprune.")
        return found

    def add(self, record: Record) -> None:
        """Store a finished trial: one record, on disk when this returns.

        Raises:
            AutopruneError: it cannot be written (the disk is full).
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
        trial = optuna.trial.create_trial(
            state=TrialState.FAIL if record.values is None else TrialState.COMPLETE,
            values=record.values,
            params=dict(zip(self._names, record.choice, strict=True)),
            distributions=self._distributions,
            user_attrs=attributes,
            system_attrs={GENERATION_KEY: record.batch},
            constraints=record.violations,
        )
        with _writing():
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
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"run storage: trial {trial.number} is not one of this search ({type(error).__name__}: {error}). "
                "Use another run folder."
            ) from error
        within = all(0 <= level < count for level, count in zip(record.choice, self._levels, strict=True))
        if record.number < 0 or not within:
            raise InputError(
                f"run storage: trial {trial.number} is outside of the search space. Use another run folder."
            )
        return record

    def _open(self, folder: Path, objectives: tuple[str, ...], url: str | None) -> optuna.Study:
        what = url.rsplit("@", 1)[-1] if url else str(folder / JOURNAL)  # without a password
        try:
            storage = RDBStorage(url) if url else _journal(folder / JOURNAL)
            if STUDY_NAME in optuna.get_all_study_names(storage):
                study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
            else:
                minimised = [StudyDirection.MINIMIZE] * len(objectives)
                study = optuna.create_study(storage=storage, study_name=STUDY_NAME, directions=minimised)
            if study.metric_names is None:
                study.set_metric_names(list(objectives))
        except InputError:
            raise
        except Exception as error:  # Optuna and database drivers raise what they like
            raise InputError(
                f"run storage {what}: expected an Optuna storage, got {type(error).__name__}: {error}. "
                "Move it away, or use another run folder."
            ) from error
        if len(study.directions) != len(objectives):
            raise InputError(
                f"run storage {what}: expected {len(objectives)} objectives, got {len(study.directions)}. It belongs "
                "to another search; use another run folder."
            )
        return study


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AutopruneError(
            f"cannot store trials: {error.strerror or error}. What was stored before is safe: make room, and start the "
            "same search again to go on."
        ) from error


def _origin(name: object) -> Origin:
    for known in get_args(Origin):
        if name == known:
            return cast(Origin, known)
    raise ValueError(f"unknown origin {name!r}")


def _journal(path: Path) -> BaseStorage:
    """The journal, repaired. Only to be opened under the folder's lock."""
    path = path.resolve()  # Optuna's lock is a link to the path: a relative one would point nowhere, and never expire
    if path.exists():
        repair(path)
    _remove_stale_lock(path)
    return JournalStorage(JournalFileBackend(str(path), JournalFileSymlinkLock(str(path), grace_period=_LOCK_GRACE_S)))


def repair(path: Path) -> int:
    """Cut off what a writer that was killed left of its last record; returns how many bytes that were.

    Only the last line can be torn: every record is written with its line break in one call.
    """
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    last = data[data.rfind(b"\n", 0, max(0, end - 1)) + 1 : end]
    if last:
        try:
            json.loads(last)
        except ValueError:
            end -= len(last)
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    return len(data) - end


def _remove_stale_lock(path: Path) -> None:
    """A search killed while it wrote leaves the journal's lock; the folder is ours, so no search holds it."""
    Path(f"{path}.lock").unlink(missing_ok=True)

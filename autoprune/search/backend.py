"""Where a run's trials lie: in a journal file in the run folder, or in a database that is named by URL.

A journal survives a writer killed at any moment: a torn last record is cut off when it is opened next, and locks left
behind are recognised. A database may hold many runs: each is a study of its own there, and `storage.json` in the run
folder says which. A password is never written, nor shown.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection

from autoprune.core.errors import AutopruneError, InputError, shortened
from autoprune.core.files import digest, read_bytes, read_json, write_json
from autoprune.core.units import format_count
from autoprune.search.journal import TrialJournal
from autoprune.search.lock import FolderLock, held_already, this_process

JOURNAL = "journal.log"
MAX_JOURNAL_BYTES = 2 * 10**9  # it is read whole: 370,000 trials of 40 variables, several minutes to open
PLACE = "storage.json"
PLACE_SCHEMA = "autoprune.storage/1"
STUDY_NAME = "autoprune"
_LOCK_GRACE_S = 5  # for a lock on the journal left by somebody who was killed (the dashboard writes there too)
_HOLDER_KEY = "autoprune:holder"


def open_study(folder: Path, objectives: tuple[str, ...], url: str | None, closing: ExitStack) -> optuna.Study:
    """The run's study, made where there is none. Only to be called under the folder's lock.

    Args:
        folder: of the run.
        objectives: names; all are minimised.
        url: of a database (`postgresql://...`, `sqlite:///...`); the journal in the folder where None.
        closing: gets what ends its connections.

    Raises:
        InputError: what is stored is no study of this run, the database cannot be reached or its driver is missing,
            or the run began with another storage.
    """
    _check_began_with(folder, url)
    what = shown(url) if url else str(folder / JOURNAL)
    try:
        study = (
            _database_study(folder, objectives, url, closing) if url else _journal_study(folder / JOURNAL, objectives)
        )
        if study.metric_names is None:
            study.set_metric_names(list(objectives))
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"run storage {what}: expected an installed driver for {urlsplit(url or '').scheme}, got none. For "
            "PostgreSQL: pip install 'autoprune[postgresql]'."
        ) from error
    except Exception as error:  # Optuna and database drivers raise what they like
        raise InputError(
            f"run storage {what}: expected an Optuna storage, got {type(error).__name__}: {_reason(error, url)}. "
            + ("Look whether it can be reached, and by that user." if url else "Move it away, or use another folder.")
        ) from error
    if len(study.directions) != len(objectives):
        raise InputError(
            f"run storage {what}: expected {len(objectives)} objectives, got {len(study.directions)}. It belongs "
            "to another search; use another run folder."
        )
    return study


@contextmanager
def writing(url: str | None) -> Iterator[None]:
    """Around what writes to a storage.

    Raises:
        AutopruneError: it could not be written (the disk is full, the database is gone).
    """
    try:
        yield
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _reason(error, url)
        where = f" in {shown(url)}" if url else ""
        raise AutopruneError(
            f"cannot store trials{where}: {reason}. What was stored before is safe: "
            f"{'mend the database' if url else 'make room'}, and start the same search again to go on."
        ) from error


def shown(url: str) -> str:
    """A database's URL without its password, and without options, which may hold one too."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the database"
    user, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"


def _reason(error: BaseException, url: str | None) -> str:
    """The innermost cause's first line, without what is secret in the URL."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__
    for secret in _secrets(url):
        text = text.replace(secret, "***")
    return text


def _secrets(url: str | None) -> list[str]:
    """The password as it stands in a URL and as it is meant, and the values of options."""
    if url is None:
        return []
    user = url.partition("://")[2].rpartition("@")[0]
    found = [user.partition(":")[2], *re.findall(r"=([^&#]+)", url.partition("?")[2])]
    return [form for secret in found if secret for form in (secret, unquote(secret))]


# ----------------------------------------------------------------------- databases


def _check_began_with(folder: Path, url: str | None) -> None:
    """A run keeps its kind of storage: trials in another one would be lost from sight, and evaluated again."""
    journal = (folder / JOURNAL).is_file()
    if url is not None and journal:
        raise InputError(
            f"run {folder}: expected its trials in {JOURNAL}, where they were stored when it began, got {shown(url)}. "
            "Leave the storage out, or use another run folder."
        )
    if url is None and not journal and (folder / PLACE).is_file():
        raise InputError(
            f"run {folder}: expected the storage that it began with, {_place(folder)[1]}, got none. Name it again "
            "(search: {storage: ...}), or use another run folder."
        )


def _place(folder: Path) -> tuple[str, str]:
    """Which study of which database a run is."""
    data = read_json(folder / PLACE, "storage of the run", PLACE_SCHEMA)
    study, url = data.get("study"), data.get("url")
    if not isinstance(study, str) or not isinstance(url, str):
        raise InputError(f"storage of the run {folder / PLACE}: expected a study and a URL. Use another run folder.")
    return study, shortened(url, 300)


def _database_study(folder: Path, objectives: tuple[str, ...], url: str, closing: ExitStack) -> optuna.Study:
    """The study that `storage.json` names; a new one, which it names from now on, where there is no such file."""
    storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    closing.callback(storage.engine.dispose)
    closing.callback(storage.remove_session)
    if (folder / PLACE).is_file():
        name, place = _place(folder)
        if name not in optuna.get_all_study_names(storage):
            raise InputError(
                f"run {folder}: expected its study '{shortened(name, 300)}' in {shown(url)}, got a database without "
                f"it; it was in {place}. Name the database that holds it, or use another run folder."
            )
        study = optuna.load_study(study_name=name, storage=storage)
        closing.enter_context(_only_writer(study, storage, url))
        return study
    name = f"{folder.resolve().name[:200]}-{secrets.token_hex(4)}"
    study = _new_study(storage, name, objectives)
    write_json(folder / PLACE, {"schema": PLACE_SCHEMA, "study": name, "url": shown(url)})
    closing.enter_context(_only_writer(study, storage, url))
    return study


@contextmanager
def _only_writer(study: optuna.Study, storage: RDBStorage, url: str) -> Iterator[None]:
    """Hold the lock of a study: the folder's own does not tell of a copy of the folder, which names the same study.

    PostgreSQL's is its session's, so that the server lets go of it however its holder ends, and soon asks after one
    that is silent. SQLite's is a file beside the database; other databases have none.

    Raises:
        InputError: another process holds it (which, on which machine and since when).
    """
    from sqlalchemy import text

    what = f"run storage {shown(url)}, study '{study.study_name}'"
    key, engine = digest(study.study_name), storage.engine
    if engine.dialect.name == "sqlite" and engine.url.database not in (None, "", ":memory:"):
        database = Path(str(engine.url.database)).resolve()
        with FolderLock(database.parent, f".{database.name}.{key}.lock", what):
            yield
        return
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session:
        for name, value in (("idle", 30), ("interval", 10), ("count", 3)):
            session.execute(text(f"SET tcp_keepalives_{name} = {value}"))
        try:
            held = text("SELECT pg_try_advisory_lock(CAST(:key AS BIGINT))")
            if not session.execute(held, {"key": int(key, 16) - 2**63}).scalar():
                raise held_already(what, str(study.user_attrs.get(_HOLDER_KEY, "")))
            study.set_user_attr(_HOLDER_KEY, this_process())
            yield
        finally:
            session.invalidate()  # given back to the pool, it would keep the lock


def _new_study(storage: BaseStorage, name: str, objectives: tuple[str, ...]) -> optuna.Study:
    return optuna.create_study(storage=storage, study_name=name, directions=[StudyDirection.MINIMIZE] * len(objectives))


# ----------------------------------------------------------------------- the journal


def _journal_study(path: Path, objectives: tuple[str, ...]) -> optuna.Study:
    path = path.resolve()  # Optuna's lock is a link to the path: a relative one would point nowhere, and never expire
    if path.exists():
        repair(path)
    _remove_stale_lock(path)
    lock = JournalFileSymlinkLock(str(path), grace_period=_LOCK_GRACE_S)
    storage = TrialJournal(JournalFileBackend(str(path), lock))
    if STUDY_NAME in optuna.get_all_study_names(storage):
        return optuna.load_study(study_name=STUDY_NAME, storage=storage)
    return _new_study(storage, STUDY_NAME, objectives)


def repair(path: Path) -> int:
    """Cut off what a writer that was killed left of its last record; returns how many bytes that were.

    Only the last line can be torn: every record is written with its line break in one call.

    Raises:
        InputError: more than that is damaged (Optuna would take it for a record that is being written), or it is larger
            than `MAX_JOURNAL_BYTES`.
    """
    size = path.stat().st_size
    if size > MAX_JOURNAL_BYTES:
        most, got = format_count(MAX_JOURNAL_BYTES, "B"), format_count(size, "B")
        raise InputError(
            f"run storage {path}: expected at most {most}, got {got}. For so many trials use another run folder, with "
            "a database (search: {storage: ...})."
        )
    data = read_bytes(path, "run storage", MAX_JOURNAL_BYTES)
    end = data.rfind(b"\n") + 1
    if not _is_whole(last := _last_line(data, end)):
        end -= len(last)
        if not _is_whole(_last_line(data, end)):
            raise InputError(
                f"run storage {path}: expected records of JSON, a line each, got several that are none. Move it away, "
                "or use another run folder."
            )
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    return len(data) - end


def _last_line(data: bytes, end: int) -> bytes:
    """The last line of so many bytes, with its line break."""
    return data[data.rfind(b"\n", 0, max(0, end - 1)) + 1 : end]


def _is_whole(line: bytes) -> bool:
    try:
        return not line or json.loads(line) is not None
    except (ValueError, RecursionError):
        return False


def _remove_stale_lock(path: Path) -> None:
    """A search killed while it wrote leaves the journal's lock; the folder is ours, so no search holds it."""
    Path(f"{path}.lock").unlink(missing_ok=True)

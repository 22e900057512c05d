"""The journal of a profile while it is measured: what is done stays done, however the process ends.

One JSON object a line. The first says what is measured and how; each further one holds a block of times that are
finished, and is on the disk before the next block begins. A last line that was torn when the process was killed is
cut off.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field

from autoprune.core.errors import InputError, shortened
from autoprune.core.files import canonical_json, parse_json, read_text
from autoprune.core.settings import validated

SCHEMA = "autoprune.profiling/1"
MAX_BYTES = 64 * 2**20  # 150,000 kernels
MAX_LINES = 500_000
MAX_QUANTUM = 4096
Record = dict[str, Any]
Us = Annotated[float, Field(strict=True, ge=0, le=3600e6)]  # nothing that is timed takes an hour
Seconds = Annotated[float, Field(strict=True, ge=0, le=1e9)]


class _First(BaseModel):
    """What any measurement says first."""

    model_config = ConfigDict(extra="allow")

    quantum: Annotated[int, Field(strict=True, ge=1, le=MAX_QUANTUM)] = 1


class _Further(BaseModel):
    """What any further line has, whatever its kind."""

    model_config = ConfigDict(extra="allow")

    kind: Annotated[str, Field(strict=True)]
    seconds: Seconds = 0.0
    readings: Annotated[tuple[Annotated[Us, Field(gt=0)], ...], FailFast()] = ()


class Journal:
    """What is done of one measurement. Use it in a `with`.

    Args:
        path: of the file, made when missing; None keeps nothing.

    Attributes:
        session: what is measured and how, of the first line; None where nothing is done yet.
        records: the further lines.

    Raises:
        InputError: no such journal, a line before the last that does not parse, a folder that cannot be written, or
            another process that writes it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.session: Record | None = None
        self.records: list[Record] = []
        if path is None:
            return
        self._file = _opened(path)
        try:
            lines, whole = _lines(path)
        except InputError:
            self._file.close()
            raise
        self._file.truncate(whole)
        if lines:
            self.session, *self.records = lines

    def begin(self, session: Mapping[str, Any]) -> None:
        """Start with the first line, or check that it says the same.

        Raises:
            InputError: it says something else; the message names what.
        """
        wanted = json.loads(canonical_json({"schema": SCHEMA, **session}))
        if self.session is None:
            self.session = wanted
            self._write(wanted)
            return
        differences = list(_differences("", self.session, wanted))
        if differences:
            raise InputError(
                f"journal {self._path}: expected the measurement that it was begun with, got another: "
                f"{'; '.join(differences[:6])}. Give the same settings to go on with it, remove the file to begin "
                "anew, or measure under another name."
            )

    def append(self, kind: str, **fields: Any) -> None:
        """Add a finished block; it is on the disk when this returns."""
        record = {"kind": kind, **fields}
        self.records.append(record)
        self._write(record)

    def of_kind(self, kind: str) -> list[Record]:
        """The records of a kind, in order."""
        return [record for record in self.records if record.get("kind") == kind]

    @property
    def place(self) -> str:
        """What to call it in messages."""
        return f"journal {self._path}" if self._path is not None else "journal"

    @property
    def seconds(self) -> float:
        """How long the measurement took until the last record."""
        return max((float(record.get("seconds", 0.0)) for record in self.records), default=0.0)

    def _write(self, record: Record) -> None:
        if self._file is None:
            return
        self._file.write(canonical_json(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._path is not None:
            if self.session is None:  # nothing was begun: nothing to go on with
                self._path.unlink(missing_ok=True)
            self._file.close()


def _opened(path: Path) -> IO[bytes]:
    if path.exists() and not path.is_file():
        raise InputError(f"journal {path}: expected a file, got a folder, device or pipe.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Choose a folder you may write to."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InputError(
            f"journal {path}: another process is measuring into it. Wait for it, stop it, or measure under "
            "another name."
        ) from error
    return file


def _lines(path: Path) -> tuple[list[Record], int]:
    """The lines that are whole, and how many bytes they take."""
    text = read_text(path, "journal", MAX_BYTES)
    if text.count("\n") > MAX_LINES:
        raise InputError(f"journal {path}: expected at most {MAX_LINES} lines, got more. Remove it to begin anew.")
    found: list[Record] = []
    whole = 0
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), start=1):
        record: object = None
        with contextlib.suppress(InputError):
            record = parse_json(line, f"journal {path}, line {number}")
        end = whole + len(line.encode())
        if not isinstance(record, dict) or not line.endswith("\n"):
            if end < len(text.encode()):
                raise InputError(
                    f"journal {path}, line {number}: expected a JSON object, got '{shortened(line, 60)}'. Remove the "
                    "file to begin anew."
                )
            break
        found.append(record)
        whole = end
    if found and found[0].get("schema") != SCHEMA:
        raise InputError(
            f"journal {path}: expected schema '{SCHEMA}', got '{shortened(str(found[0].get('schema')))}'. It was not "
            "written by this version of autoprune; remove the file, or measure under another name."
        )
    for number, record in enumerate(found, start=1):
        validated(_First if number == 1 else _Further, record, f"journal {path}, line {number}")
    return found, whole


def _differences(place: str, before: object, now: object) -> Iterator[str]:
    """`threads 2, now 1` for everything in which two sessions differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(f"{place}.{key}" if place else key, before.get(key), now.get(key))
    elif before != now:
        yield f"{shortened(place)} {shortened(str(before))}, now {shortened(str(now))}"

"""Versioned JSON files: bounded reads, atomic writes, unknown schema versions refused."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from autoprune.core.errors import InputError

MAX_JSON_BYTES = 64 * 1024 * 1024


def read_text(path: Path, what: str, max_bytes: int = MAX_JSON_BYTES) -> str:
    """The text of a user's file.

    Raises:
        InputError: missing, unreadable, larger than `max_bytes` or not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise InputError(f"{what} {path}: expected at most {max_bytes} bytes, got {size}.")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path}: expected UTF-8 text, got byte {error.start} that is not.") from error


def read_json(path: Path, what: str, schema: str | None = None) -> dict[str, Any]:
    """A JSON object from a file; with `schema`, its key "schema" must say exactly that.

    Raises:
        InputError: unreadable, not a JSON object, or of another schema version.
    """
    text = read_text(path, what)
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{what} {path}: expected JSON, got a file that does not parse ({error}).") from error
    if not isinstance(data, dict):
        raise InputError(f"{what} {path}: expected a JSON object, got {type(data).__name__}.")
    if schema is not None and data.get("schema") != schema:
        raise InputError(
            f"{what} {path}: expected schema '{schema}', got {data.get('schema')!r}. "
            "It was written by another version of autoprune; use that version, or write the file anew."
        )
    return data


def canonical_json(data: object) -> str:
    """JSON with sorted keys and no spaces: equal data, equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(text: str | bytes, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of a text."""
    raw = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(raw).hexdigest()[:length]


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that takes `path`'s place when the block ends: readers see the old one or the new one.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"cannot write {path}: {why}. Choose a folder you may write to.") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as `replacing` does."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, data: object) -> None:
    """Write JSON, indented and with sorted keys, atomically (see `write_text`)."""
    write_text(path, json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n")

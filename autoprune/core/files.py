"""Versioned JSON files: bounded reads, atomic writes, unknown schema versions refused."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from autoprune.core.errors import InputError, NoRoomError, shortened

MAX_JSON_BYTES = 32 * 1024 * 1024
MAX_JSON_ITEMS = 2_000_000  # a list of empty lists takes thirty times its text in memory
BRACKET = 8  # items that a list or object counts as: so much longer it takes to make
MAX_DIGITS = 19  # of a whole number: what fits 64 bits
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def read_bytes(path: Path, what: str, max_bytes: int) -> bytes:
    """The bytes of a user's file.

    Raises:
        InputError: missing, unreadable, no plain file (a pipe would be waited for), or larger than `max_bytes`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            got = "a folder" if path.is_dir() else "a device or pipe"
            raise InputError(f"{what} {path}: expected a file, got {got}.")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)  # a file may grow after its size was asked for
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"cannot read {what} {shortened(str(path), 300)}: {error.strerror or error}.") from error
    except ValueError as error:  # a zero byte, half a surrogate pair
        raise InputError(f"cannot read {what} {shortened(repr(str(path)), 300)}: no file has such a name.") from error
    if len(data) > max_bytes:
        raise InputError(f"{what} {path}: expected at most {max_bytes} bytes, got {size}.")
    return data


def read_text(path: Path, what: str, max_bytes: int = MAX_JSON_BYTES) -> str:
    """The text of a user's file, its line ends as they are.

    Raises:
        InputError: see `read_bytes`; or not UTF-8.
    """
    try:
        return read_bytes(path, what, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path}: expected UTF-8 text, got byte {error.start} that is not.") from error


def parse_json(text: str, place: str, fault: str = "") -> Any:
    """A JSON value that somebody else may have written.

    Args:
        text: of at most a few megabytes.
        place: where it stands, for messages.
        fault: what to do where it does not parse, for messages.

    Raises:
        InputError: not JSON, nested too deeply, with NaN, infinity, a key twice, a whole number of more than
            `MAX_DIGITS` digits, or more than `MAX_JSON_ITEMS` items.
    """
    items = text.count(",") + BRACKET * (text.count("[") + text.count("{"))
    if items > MAX_JSON_ITEMS:
        raise InputError(f"{place}: expected at most {MAX_JSON_ITEMS} items, got about {items}.")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}: expected JSON, got text that does not parse (line {error.lineno}: {error.msg}). {fault}".rstrip()
        ) from error
    except RecursionError as error:
        raise InputError(f"{place}: expected JSON of a few levels, got some that is nested too deeply.") from error
    except ValueError as error:
        raise InputError(f"{place}: {error} Correct or remove the entry.") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"expected finite numbers, got {name}.")


def _number(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"expected finite numbers, got {shortened(digits)}.")
    return value


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS + 1:
        raise ValueError(f"expected whole numbers of at most {MAX_DIGITS} digits, got {shortened(digits)}.")
    return int(digits)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"expected each key once, got '{shortened(twice)}' twice.")
    return found


_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_repeats, parse_float=_number, parse_int=_whole, parse_constant=_no_constant
)


def read_json(path: Path, what: str, schema: str | None = None, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object from a file; with `schema`, its key "schema" must say exactly that.

    Raises:
        InputError: unreadable, not a JSON object (see `parse_json`), or of another schema version.
    """
    data = parse_json(read_text(path, what, max_bytes), f"{what} {path}")
    if not isinstance(data, dict):
        raise InputError(f"{what} {path}: expected a JSON object, got {type(data).__name__}.")
    if schema is not None and data.get("schema") != schema:
        raise InputError(
            f"{what} {path}: expected schema '{schema}', got {shortened(repr(data.get('schema')))}. "
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
        NoRoomError: the disk is full or fails, or became read-only.
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
        if error.errno in _NO_ROOM:
            raise NoRoomError(
                f"cannot write {path}: {why}. What was written before is safe: make room, and start the same command "
                "again to go on."
            ) from error
        raise InputError(f"cannot write {path}: {why}. Choose a folder you may write to.") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as `replacing` does."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, data: object) -> None:
    """Write JSON, indented and with sorted keys, atomically (see `write_text`)."""
    write_text(path, json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n")

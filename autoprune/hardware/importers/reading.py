"""Reading other people's files: bounded, without aliases, NaN, repeated keys or deep nesting; one clear error each."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoprune.core.errors import InputError
from autoprune.core.files import read_text
from autoprune.core.settings import parse_yaml

MAX_BYTES = 32 * 1024 * 1024
MAX_YAML_BYTES = 4 * 1024 * 1024  # half a minute of parsing
MAX_CELL = 4096
LONGEST_US = 3600e6  # an hour; nobody's kernel takes that


def read_json_file(path: Path, what: str) -> Any:
    """Any JSON value from a file.

    Raises:
        InputError: unreadable, too large, truncated, nested too deeply, or with NaN, Infinity or a key twice.
    """
    text = read_text(path, what, MAX_BYTES)
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{what} {path}: expected JSON, got text that does not parse (line {error.lineno}: {error.msg}). "
            "The file may be cut off; export it again."
        ) from error
    except RecursionError as error:
        raise InputError(f"{what} {path}: expected a {what}, got JSON nested too deeply to be one.") from error
    except ValueError as error:
        raise InputError(f"{what} {path}: {error} Correct or remove the entry.") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"expected finite numbers, got {name}.")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"expected each key once, got '{twice[:80]}' twice.")
    return found


def read_yaml_table(path: Path, what: str) -> dict[str, Any]:
    """A YAML mapping of up to `MAX_YAML_BYTES` (see `autoprune.core.settings.parse_yaml`)."""
    return parse_yaml(read_text(path, what, MAX_YAML_BYTES), f"{what} {path}", MAX_YAML_BYTES)


def csv_records(text: str, what: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every record that is not empty, cells stripped.

    Raises:
        InputError: not CSV, or a cell longer than `MAX_CELL`.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        for record in reader:
            cells = [cell.strip() for cell in record]
            if any(len(cell) > MAX_CELL for cell in cells):
                raise InputError(
                    f"{what}, line {reader.line_num}: expected cells of at most {MAX_CELL} characters, "
                    "got a longer one."
                )
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(
            f"{what}, line {reader.line_num}: expected CSV, got text that does not parse ({error}). "
            "The file may be cut off; export it again."
        ) from error


def time_us(value: object, place: str, scale: float) -> float:
    """A time in microseconds from a number in units of `scale` microseconds.

    Raises:
        InputError: not a finite number above zero, or over an hour.
    """
    number = _number(value)
    if number is None or number <= 0:
        raise InputError(f"{place}: expected a time above zero, got {value!r}. Correct or remove the entry.")
    if number * scale > LONGEST_US:
        raise InputError(f"{place}: expected a kernel's time, got {value!r}, over an hour. Check the unit.")
    return number * scale


def not_negative(value: object, place: str) -> float:
    """A finite number of at least zero.

    Raises:
        InputError: anything else.
    """
    number = _number(value)
    if number is None or number < 0:
        raise InputError(f"{place}: expected a finite number >= 0, got {value!r}. Correct or remove the entry.")
    return number


def whole(value: object, place: str, least: int = 1, most: int = 1_000_000) -> int:
    """A whole number in a range.

    Raises:
        InputError: anything else.
    """
    number = _number(value)
    if number is None or not number.is_integer() or not least <= number <= most:
        raise InputError(f"{place}: expected a whole number from {least} to {most}, got {value!r}.")
    return int(number)


def _number(value: object) -> float | None:
    """A finite number, from a number or its text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None

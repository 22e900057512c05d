"""Reading other people's files: bounded, without aliases, NaN, repeated keys or deep nesting; one clear error each."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoprune.core.errors import InputError, shortened
from autoprune.core.files import parse_json, read_text
from autoprune.core.settings import parse_yaml

MAX_BYTES = 32 * 1024 * 1024
MAX_YAML_BYTES = 4 * 1024 * 1024
MAX_CELL = 4096
MAX_CELLS = 1024  # of one record
MAX_ENTRIES = 100_000  # times in one file
LARGEST = 1e12
SHORTEST_US, LONGEST_US = 1e-6, 3600e6  # a picosecond and an hour; nobody's kernel takes either


def read_json_file(path: Path, what: str) -> Any:
    """Any JSON value from a file.

    Raises:
        InputError: unreadable, too large, truncated, nested too deeply, or with NaN, Infinity or a key twice.
    """
    place = f"{what} {path}"
    return parse_json(read_text(path, what, MAX_BYTES), place, "The file may be cut off; export it again.")


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
        for count, record in enumerate(reader):
            cells = [cell.strip() for cell in record]
            longest = max(map(len, cells), default=0)
            if longest > MAX_CELL or len(cells) > MAX_CELLS or count > MAX_ENTRIES:
                raise InputError(
                    f"{what}, line {reader.line_num}: expected at most {MAX_ENTRIES} records of {MAX_CELLS} "
                    f"cells of at most {MAX_CELL} characters, got a longer one."
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
    if number is None or number * scale < SHORTEST_US:
        raise InputError(f"{place}: expected a time above zero, got {_told(value)}. Correct or remove the entry.")
    if number * scale > LONGEST_US:
        raise InputError(f"{place}: expected a kernel's time, got {_told(value)}, over an hour. Check the unit.")
    return number * scale


def check_count(count: int, place: str) -> None:
    """Refuse files of more entries than anybody has measured.

    Raises:
        InputError: more than `MAX_ENTRIES`.
    """
    if count > MAX_ENTRIES:
        raise InputError(f"{place}: expected at most {MAX_ENTRIES} times, got {count}. Import it in parts.")


def not_negative(value: object, place: str) -> float:
    """A finite number of at least zero, up to `LARGEST`.

    Raises:
        InputError: anything else.
    """
    number = _number(value)
    if number is None or not 0 <= number <= LARGEST:
        raise InputError(f"{place}: expected a finite number >= 0, got {_told(value)}. Correct or remove the entry.")
    return number


def whole(value: object, place: str, least: int = 1, most: int = 1_000_000) -> int:
    """A whole number in a range.

    Raises:
        InputError: anything else.
    """
    number = _number(value)
    if number is None or not number.is_integer() or not least <= number <= most:
        raise InputError(f"{place}: expected a whole number from {least} to {most}, got {_told(value)}.")
    return int(number)


def _told(value: object) -> str:
    return shortened(repr(value))


def _number(value: object) -> float | None:
    """A finite number, from a number or its text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None

"""Tables of a run as CSV (`front.csv`, `trials.csv`): the round trip is exact, the bytes follow from the values."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from autoprune.core.errors import InputError, shortened
from autoprune.core.files import read_text, write_text

Cell: TypeAlias = str | int | float | None
Row: TypeAlias = dict[str, Cell]

TEXT_COLUMNS = frozenset({"member", "policy_id", "policy", "origin", "failure", "note"})
"""Columns that hold text; all others hold numbers."""

_BASE_ORDER = ("member", "number", "origin", "feasible")
_COST_ORDER = (
    "latency_p50_us", "latency_p50_low_us", "latency_p50_high_us", "latency_p90_us", "latency_p95_us",
    "latency_p99_us", "measured_latency_p50_us", "measured_latency_p90_us", "measured_latency_p95_us",
    "measured_latency_p99_us", "speedup", "params", "macs", "size_bytes", "onnx_bytes", "peak_memory_bytes",
    "energy_uj", "throughput_per_s",
)  # fmt: skip
_LAST = ("policy_id", "policy", "seconds", "failure", "note")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")  # of 64 bits; longer ones are read as floats
MAX_BYTES, MAX_COLUMNS, MAX_CELLS = 256 * 2**20, 10_000, 10_000_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def order_columns(names: Iterable[str], metrics: Sequence[str] = ()) -> tuple[str, ...]:
    """Column names as they stand in a file: member, metrics, test metrics, costs by profile, the rest by name."""
    quality = [*metrics, *(f"test_{name}" for name in metrics)]
    ranked = {name: rank for rank, name in enumerate([*_BASE_ORDER, *quality, *_COST_ORDER])}
    last = {name: rank for rank, name in enumerate(_LAST)}

    def key(name: str) -> tuple[int, int, str, str]:
        base, _, profile = name.partition("@")
        if name in last:
            return (3, last[name], "", "")
        if name in ranked and "@" not in name:
            return (0, ranked[name], "", "")
        if base in ranked:
            return (1, ranked[base], profile, "")
        return (2, 0, base, profile)

    return tuple(sorted(dict.fromkeys(names), key=key))


def clean_row(row: Mapping[str, object]) -> Row:
    """A row of plain cells: NumPy scalars become Python's, NaN and infinities become missing.

    Raises:
        TypeError: a cell that is neither text, number nor None, or text in a column of numbers.
    """
    return {_check_column(name): _clean(name, value) for name, value in row.items()}


def _check_column(name: str) -> str:
    if not name or _CONTROL.search(name):
        raise InputError(f"column name: expected printable text, got {name!r}. Rename the metric or profile.")
    return name


def _clean(name: str, value: object) -> Cell:
    if value is None:
        return None
    if name in TEXT_COLUMNS:
        if not isinstance(value, str):
            raise TypeError(f"column '{name}': expected text, got {type(value).__name__}")
        return value
    item = getattr(value, "item", None)
    number = item() if callable(item) else value
    if isinstance(number, bool):
        return int(number)
    if isinstance(number, int):
        return number
    if isinstance(number, float):
        return number if math.isfinite(number) else None
    raise TypeError(f"column '{name}': expected a number, got {type(value).__name__}")


def table_text(rows: Sequence[Mapping[str, Cell]], metrics: Sequence[str] = ()) -> str:
    """The rows as CSV. Floats are written in the shortest form that reads back as the same number."""
    columns = order_columns((name for row in rows for name in row), metrics)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if row.get(name) is None else _cell_text(row[name]) for name in columns])
    return buffer.getvalue()


def _cell_text(cell: Cell) -> str:
    return repr(cell) if isinstance(cell, float) else str(cell)


def write_table(path: Path, rows: Sequence[Mapping[str, Cell]], metrics: Sequence[str] = ()) -> None:
    """Write a table, atomically.

    Raises:
        InputError: the folder cannot be written.
    """
    write_text(path, table_text(rows, metrics))


def read_table(path: Path, what: str, required: Sequence[str] = ()) -> tuple[Row, ...]:
    """The rows of a CSV file; empty cells are None.

    Raises:
        InputError: unreadable, without a required column, with a repeated column, a row of another length or a cell
            that is not a number; the message names line and column.
    """
    lines = csv.reader(io.StringIO(read_text(path, what, MAX_BYTES), newline=""), strict=True)
    try:
        header = next(lines, None)
        if header is None:
            raise InputError(f"{what} {path}: expected a header line, got an empty file.")
        _check_header(header, f"{what} {path}", required)
        return tuple(_rows(lines, header, f"{what} {path}"))
    except csv.Error as error:
        raise InputError(f"{what} {path}: expected CSV, got a file that does not parse ({error}).") from error


def _check_header(header: Sequence[str], place: str, required: Sequence[str]) -> None:
    if len(header) > MAX_COLUMNS:
        raise InputError(f"{place}: expected at most {MAX_COLUMNS} columns, got {len(header)}.")
    missing = [name for name in required if name not in header]
    if missing:
        raise InputError(f"{place}: expected the column '{missing[0]}', got {shortened(', '.join(header), 300)}.")
    seen: set[str] = set()
    twice = next((name for name in header if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
    if twice is not None:
        raise InputError(f"{place}: expected each column once, got '{shortened(twice)}' twice.")


def _rows(lines: Iterable[Sequence[str]], header: Sequence[str], place: str) -> Iterator[Row]:
    for number, line in enumerate(lines, start=2):
        here = f"{place}, row {number}"
        if len(line) != len(header):
            raise InputError(f"{here}: expected {len(header)} cells, got {len(line)}.")
        if number * len(header) > MAX_CELLS:
            raise InputError(f"{here}: expected at most {MAX_CELLS} cells, got more.")
        yield {name: _read_cell(name, cell, here) for name, cell in zip(header, line, strict=True)}


def _read_cell(name: str, text: str, where: str) -> Cell:
    if text == "":
        return None
    if name in TEXT_COLUMNS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        told = f"column '{shortened(name)}': expected a finite number or nothing, got '{shortened(text)}'"
        raise InputError(f"{where}, {told}.")
    return number

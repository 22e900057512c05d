"""`kernels.csv`: one row a kernel, read strictly and written the same way every time."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.core.errors import InputError, shortened
from autoprune.core.files import read_text, write_text

MAX_CSV_BYTES = 64 * 1024 * 1024
MAX_ROWS = 200_000
MAX_COLUMNS, MAX_SIZES = 64, 64
MAX_TEXT = 16_384  # characters of one cell
MAX_NUMBER = 1e18
PROVENANCES = ("measured", "fitted", "imported", "analytical")
TIMES = ("mean_us", "p50_us", "p90_us", "p95_us", "p99_us", "std_us")
REQUIRED = ("family", "sizes", "operator", "n", *TIMES, "flops", "bytes")
OPTIONAL = ("energy_uj", "peak_memory_bytes", "within", "failure", "provenance")
WITHIN = ("alone", "model")
MAX_FAILURE_CHARACTERS = 300


@dataclass(frozen=True)
class KernelRow:
    """What is known of one kernel on one device.

    Attributes:
        family, sizes: the kernel (see `autoprune.graph.kernel`).
        operator: the class its efficiency is fitted by.
        n: timed runs.
        mean_us, p50_us, p90_us, p95_us, p99_us, std_us: of those runs, inside a model: what a kernel pays
            only when it runs alone is taken off.
        flops, bytes: floating-point operations, and bytes read and written.
        energy_uj: energy of one run, where known.
        peak_memory_bytes: most memory that one run takes, where known.
        within: where it was timed: `alone`, as a model of its own, or inside a whole `model`. A kernel may have a row
            of each.
        failure: why it has no times (refused by the runtime, out of memory); n and the times are then 0.
        provenance: `measured`, `imported` or `analytical`.
    """

    family: str
    sizes: tuple[int, ...]
    operator: str
    n: int
    mean_us: float
    p50_us: float
    p90_us: float
    p95_us: float
    p99_us: float
    std_us: float
    flops: float
    bytes: float
    energy_uj: float | None = None
    peak_memory_bytes: float | None = None
    within: str = "alone"
    failure: str = ""
    provenance: str = "measured"

    @classmethod
    def failed(
        cls, family: str, sizes: tuple[int, ...], operator: str, why: str, flops: float, bytes_: float
    ) -> KernelRow:
        """The row of a kernel that could not be timed."""
        reason = " ".join(why.split())[:MAX_FAILURE_CHARACTERS] or "no reason given"
        return cls(family, sizes, operator, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, flops, bytes_, failure=reason)


def read_kernels(path: Path) -> tuple[KernelRow, ...]:
    """The rows of a kernel table.

    Raises:
        InputError: unreadable; a column missing, unknown or twice; a field that is not a finite number >= 0; a kernel
            that is there twice. The message names file, row and column.
    """
    text = read_text(path, "kernel table", MAX_CSV_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        _check_columns(path, header)
        rows: list[KernelRow] = []
        for record in reader:
            if len(rows) >= MAX_ROWS:
                raise InputError(f"{path}: expected at most {MAX_ROWS} kernels, got more.")
            if record:
                rows.append(_Fields(path, reader.line_num, header, record).row())
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: expected CSV, got text that does not parse ({error})."
        ) from error
    _check_unique(path, rows)
    return tuple(rows)


def write_kernels(path: Path, rows: Iterable[KernelRow]) -> None:
    """Write a kernel table atomically, rows sorted by family, sizes and where they were timed.

    Columns that say nothing in any row are left out.
    """
    ordered = sorted(rows, key=lambda r: (r.family, r.sizes, r.within))
    columns = (*REQUIRED, *(column for column in OPTIONAL if any(_says(row, column) for row in ordered)))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in ordered:
        writer.writerow([_cell(getattr(row, column)) for column in columns])
    write_text(path, out.getvalue())


def _says(row: KernelRow, column: str) -> bool:
    return getattr(row, column) != KernelRow.__dataclass_fields__[column].default


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case tuple():
            return " ".join(str(item) for item in value)
        case float():
            return str(int(value)) if value.is_integer() else repr(value)  # reads back as it was
        case _:
            return str(value)


def _check_columns(path: Path, header: Sequence[str]) -> None:
    if len(header) > MAX_COLUMNS:
        raise InputError(f"{path}: expected at most {MAX_COLUMNS} columns, got {len(header)}.")
    missing = [column for column in REQUIRED if column not in header]
    unknown = [column for column in header if column not in REQUIRED and column not in OPTIONAL]
    twice = sorted({column for column in header if header.count(column) > 1})
    for fault, columns in (("misses", missing), ("has the unknown", unknown), ("repeats the", twice)):
        if columns:
            told = ", ".join(shortened(column, 40) for column in columns[:8])
            raise InputError(
                f"{path}: expected the columns {', '.join(REQUIRED)} (and optionally {', '.join(OPTIONAL)}), "
                f"got a header that {fault} column{'s' if len(columns) > 1 else ''} {told}. "
                "Correct the header, or profile the device anew."
            )


def _check_unique(path: Path, rows: Sequence[KernelRow]) -> None:
    seen: dict[tuple[str, tuple[int, ...], str], int] = {}
    for number, row in enumerate(rows, start=1):
        key = (row.family, row.sizes, row.within)
        if key in seen:
            raise InputError(
                f"{path}, kernel {number}: expected each kernel once, got kernel {seen[key]} again "
                f"(sizes {_cell(row.sizes)!r} of '{shortened(row.family)}', timed {_where(row)}). "
                "Remove one of the two rows."
            )
        seen[key] = number


def _where(row: KernelRow) -> str:
    return "inside a model" if row.within == "model" else "alone"


class _Fields:
    """One record, each field taken with its place for the message."""

    def __init__(self, path: Path, line: int, header: Sequence[str], record: Sequence[str]) -> None:
        self._place = f"{path}, line {line}"
        if len(record) != len(header):
            raise InputError(
                f"{self._place}: expected {len(header)} fields, got {len(record)}. Correct or remove the line."
            )
        self._fields = dict(zip(header, record, strict=True))

    def row(self) -> KernelRow:
        return KernelRow(
            family=self.text("family"),
            sizes=self.sizes(),
            operator=self.text("operator"),
            n=int(self.number("n")),
            mean_us=self.number("mean_us"),
            p50_us=self.number("p50_us"),
            p90_us=self.number("p90_us"),
            p95_us=self.number("p95_us"),
            p99_us=self.number("p99_us"),
            std_us=self.number("std_us"),
            flops=self.number("flops"),
            bytes=self.number("bytes"),
            energy_uj=self.number("energy_uj") if self._fields.get("energy_uj") else None,
            peak_memory_bytes=self.number("peak_memory_bytes") if self._fields.get("peak_memory_bytes") else None,
            within=self.choice("within", WITHIN, "alone"),
            failure=self._fields.get("failure", "")[:MAX_FAILURE_CHARACTERS],
            provenance=self.choice("provenance", PROVENANCES, "measured"),
        )

    def text(self, column: str) -> str:
        if not 0 < len(self._fields[column].strip()) <= MAX_TEXT:
            raise self._wrong(column, f"a text of at most {MAX_TEXT} characters")
        return self._fields[column]

    def choice(self, column: str, known: Sequence[str], default: str) -> str:
        value = self._fields.get(column) or default
        if value not in known:
            raise self._wrong(column, f"one of {', '.join(known)}")
        return value

    def number(self, column: str) -> float:
        try:
            value = float(self._fields[column])
        except ValueError:
            raise self._wrong(column, "a number >= 0") from None
        if not math.isfinite(value) or value < 0:
            raise self._wrong(column, "a finite number >= 0")
        if value > MAX_NUMBER:
            raise self._wrong(column, f"a number of at most {MAX_NUMBER:g}")
        return value

    def sizes(self) -> tuple[int, ...]:
        parts = self._fields["sizes"].split()
        if len(parts) > MAX_SIZES or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            raise self._wrong("sizes", "whole numbers with spaces between them")
        return tuple(int(part) for part in parts)

    def _wrong(self, column: str, expected: str) -> InputError:
        got = shortened(self._fields[column])
        return InputError(
            f"{self._place}, column '{column}': expected {expected}, got '{got}'. Correct the field or remove the line."
        )

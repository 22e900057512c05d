"""LiteRT's `benchmark_model --enable_op_profiling --profiling_output_csv_file`: CSV sections, milliseconds.

The table read is the last one in run order: `node type, start, first, avg_ms, %, cdf%, mem KB, times called, name`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoprune.core.errors import InputError, shortened
from autoprune.core.files import read_text
from autoprune.hardware.importers import Imported, ImportSettings
from autoprune.hardware.importers.named import Report, needed_model, timings_of
from autoprune.hardware.importers.reading import MAX_BYTES, csv_records, not_negative, time_us

WHAT = "LiteRT profile"
SECTION = "Run Order"
AVERAGES = ("avg_ms", "avg ms")
COMPLETE = 99.0  # per cent of the time that the rows of a whole table add up to

Record = tuple[int, list[str]]


class LiteRt:
    """Per-node times, names as LiteRT keeps them: the tensor a node leaves, in brackets."""

    def read(self, path: Path, settings: ImportSettings) -> Imported:
        """The times of every node that takes any."""
        model = needed_model(path, WHAT, settings)
        place = f"{WHAT} {path}"
        header, rows = _table(list(csv_records(read_text(path, WHAT, MAX_BYTES), place)), place)
        columns = [name.lower() for name in header]
        average = next((columns.index(name) for name in AVERAGES if name in columns), -1)
        if average < 0 or "name" not in columns:
            told = shortened(", ".join(header), 300)
            raise InputError(f"{place}: expected the columns 'avg_ms' and 'name', got {told}.")
        _check_complete(columns, rows, place)
        reports = []
        for line, cells in rows:
            here = f"{place}, line {line}"
            if not_negative(cells[average], f"{here}, avg_ms") > 0:
                name = ", ".join(cells[columns.index("name") :])  # names may hold commas
                reports.append(Report(name, time_us(cells[average], f"{here}, avg_ms", 1e3)))
        return timings_of(reports, model, place)


def _table(records: Sequence[Record], place: str) -> tuple[list[str], list[Record]]:
    """Header and rows of the last table in run order."""
    starts = [
        index
        for index, (_, cells) in enumerate(records)
        if cells[0].lower() == "node type" and index and SECTION in records[index - 1][1][0]
    ]
    if not starts:
        raise InputError(
            f"{place}: expected a section '{SECTION}' with a header that begins with 'node type', got none. Run "
            "benchmark_model with --enable_op_profiling=true and --profiling_output_csv_file."
        )
    header = records[starts[-1]][1]
    rows = []
    for line, cells in records[starts[-1] + 1 :]:
        if cells[0].startswith("=") or len(cells) == 1:
            break
        if len(cells) < len(header):
            raise InputError(
                f"{place}, line {line}: expected {len(header)} fields, got {len(cells)}. The file may be cut off."
            )
        rows.append((line, cells))
    if not rows:
        raise InputError(f"{place}: expected nodes below the header, got none. The file may be cut off.")
    return header, rows


def _check_complete(columns: Sequence[str], rows: Sequence[Record], place: str) -> None:
    if "cdf%" not in columns:
        return
    line, cells = rows[-1]
    reached = not_negative(cells[columns.index("cdf%")].rstrip("%"), f"{place}, line {line}, cdf%")
    if reached < COMPLETE:
        raise InputError(
            f"{place}, line {line}: expected nodes that add up to all of the time, got {reached:.1f} %. The file is "
            "cut off; run benchmark_model again."
        )

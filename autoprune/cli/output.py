"""Where the command line writes: results to stdout (as JSON on request), everything else to stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.core.units import format_count, format_seconds, format_us

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Row = Mapping[str, Any]

_WIDE = 1000  # columns that no table needs
_SPELT = {code: repr(chr(code))[1:-1] for code in (*range(9), *range(11, 32), *range(127, 160))}


def errors() -> Console:
    """The console for progress and logs."""
    from rich.console import Console

    return Console(file=sys.stderr)


def plain(text: str) -> None:
    """A line to stdout; what a terminal would obey (names may come from files) is spelt out."""
    _write(text.translate(_SPELT) + "\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted; the interpreter must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def note(text: str) -> None:
    """A line to stderr."""
    sys.stderr.write(text + "\n")


def emit_json(data: Any) -> None:
    """`data` as JSON to stdout; NaN and infinity become null, paths text."""
    plain(json.dumps(_jsonable(data), indent=1, allow_nan=False))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table to stdout; columns after the first are right-aligned. Text is shown as it is, never as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD)
    for index, column in enumerate(columns):
        shown.add_column(Text(column), justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*(Text(cell.translate(_SPELT)) for cell in row))
    console = Console(file=sys.stdout)
    # Never wrap or cut what another program or a narrow terminal shows: a row is a line.
    needed = console.measure(shown, options=console.options.update(width=_WIDE)).maximum
    console.width = max(console.width, needed)
    with console.capture() as captured:
        if title:
            console.print(Text(title, style="bold"), no_wrap=True, crop=False, overflow="ignore")
        console.print(shown)
    _write(captured.get())


def counted(number: int, noun: str) -> str:
    """`1 member`, `5 members`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def cell(name: str, value: Any) -> str:
    """A value of the front's column `name` for people: units by the name's ending."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return str(value)
    stem = name.partition("@")[0]
    if stem.endswith("_us"):
        return format_us(value)
    if stem.endswith("_bytes"):
        return format_count(value, "B")
    if stem in ("params", "macs"):
        return format_count(value)
    if stem == "speedup":
        return f"{value:.2f}x"
    return f"{value:.4g}"


@contextmanager
def progress() -> Iterator[Any]:
    """A `report(stage, done, total)` function that draws a bar a stage, with an estimate of the time left, on stderr.

    Without a terminal it writes a line at each tenth instead.
    """
    console = errors()
    if not console.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.text import Text

    class Left(ProgressColumn):
        """What the estimate says, counted down."""

        def render(self, task: Task) -> Text:
            return Text(task.fields["estimate"].left(), style="cyan")

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Elapsed(), Left())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, tuple[Any, _Estimate]] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                estimate = _Estimate(done)
                tasks[stage] = (bars.add_task(stage, total=total, estimate=estimate), estimate)
            task, estimate = tasks[stage]
            estimate.update(done, total)
            bars.update(task, completed=done, total=total)

        yield report


class _Estimate:
    """The time that a stage still takes, at the speed that it had so far; its total may change on the way.

    Args:
        done: when it began: what was done before it was resumed says nothing of the speed.
    """

    def __init__(self, done: int) -> None:
        self._begun, self._start = done, time.monotonic()
        self._end: float | None = None

    def update(self, done: int, total: int) -> None:
        """Now so much is done, of so much."""
        now = time.monotonic()
        if done > self._begun:
            self._end = now + (now - self._start) * (total - done) / (done - self._begun)

    def left(self) -> str:
        """`40 s left`; nothing where that is not known, or over."""
        seconds = 0.0 if self._end is None else self._end - time.monotonic()
        return f"{format_seconds(seconds)} left" if seconds >= 1.0 else ""


class _Lines:
    """Progress for logs: a line when a tenth of a stage is done, with an estimate of the time left."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}
        self._estimates: dict[str, _Estimate] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if stage not in self._estimates:
            self._estimates[stage] = _Estimate(done)
        estimate = self._estimates[stage]
        estimate.update(done, total)
        if self._tenths.get(stage) != tenth:
            self._tenths[stage] = tenth
            note(", ".join(filter(None, (f"{stage}: {done}/{total}", estimate.left()))))


def _jsonable(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _jsonable(value) for key, value in data.items()}
    if isinstance(data, (list, tuple, set, frozenset)):
        return [_jsonable(value) for value in data]
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if data is None or isinstance(data, (str, int)):
        return data
    if isinstance(data, Path):
        return str(data)
    if hasattr(data, "item"):  # a NumPy scalar
        return _jsonable(data.item())
    return str(data)

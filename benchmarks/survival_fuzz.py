"""Every reader against tens of thousands of hostile files: `python -m benchmarks.survival_fuzz --inputs 800`.

Each reader runs in a process of its own, so that its memory is its own. Inputs follow from the seed. After the drawn
ones, a loop guided by coverage keeps those that reach lines of autoprune which no earlier one reached, and changes them
further. Exit status 1 where a reader raised anything but its own error, said what a terminal would obey, wrote outside
of its folder, took over a second (of files of more than five megabytes: 0.2 s a megabyte) or over 1 GiB.

Time is the processor's, so that other work on the machine does not count, and what took long is read again before it
is believed. A reader that never ends is ended: by an exception, where Python runs, and else by the system.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any

from autoprune.core.files import write_json
from tests.fuzz.mutations import plain
from tests.fuzz.reader import FaultError, Files, Reader, attempt
from tests.fuzz.readers import readers

HERE = str(Path(__file__).resolve().parents[1] / "autoprune")
LONGEST_S, MOST_BYTES = 1.0, 2**30
LONGEST_S_MB = 0.2  # what a megabyte may take, of files of more than five
AGAIN = 3  # times that a slow input is read in all; the fastest counts
HANGING_S = 20  # of the processor, after which a read is given up
KILLED_S = 60  # likewise where no Python runs that could give up
MOST_DATA_BYTES = 4 * 2**30  # what the process may ask for, so that no reader takes the machine's memory
KEPT = 400  # inputs that the guided loop changes further
PLAIN = 0.4  # share of guided changes that know no format
SHOWN = 5  # faults of one reader

Row = dict[str, Any]


class HangError(BaseException):
    """A read that does not end; nothing that a reader catches."""


class Meter:
    """Inputs of one reader, counted and timed.

    Attributes:
        row: what its line in the table says.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.row: Row = {
            "reader": reader.name,
            "inputs": 0,
            "accepted": 0,
            "refused": 0,
            "faults": [],
            "slowest_s": 0.0,
        }

    def take(self, files: Files, label: str, coverage: Coverage | None = None) -> None:
        """Let the reader read some files, again where it takes long: a cache is cold, the processor is shared."""
        print(label, file=sys.stderr, flush=True)  # the last line of a process that was killed
        size = sum(map(len, files.values()))
        most = max(LONGEST_S, LONGEST_S_MB * size / 1e6)
        outcome, fault, seconds = self._read(files, coverage)
        for _ in range(AGAIN - 1):
            if seconds <= most / 2 or fault:
                break
            outcome, fault, again = self._read(files, None)
            seconds = min(seconds, again)
        if not fault and seconds > most:
            fault = f"expected at most {most:.1f} s for {size} bytes, got {seconds:.1f} s"
        self.row["inputs"] += 1
        if fault:
            self.row["faults"].append(f"{label}: {fault}")
        else:
            self.row[outcome] += 1
        if seconds > self.row["slowest_s"]:
            self.row |= {"slowest_s": seconds, "slowest": label}

    def _read(self, files: Files, coverage: Coverage | None) -> tuple[str, str, float]:
        """`accepted` or `refused`, what is wrong (nothing as a rule), and seconds of the processor."""
        outcome, fault, start = "accepted", "", time.process_time()
        try:
            with _ended():
                if coverage is None:
                    refused = attempt(self.reader, files)
                else:
                    with coverage:
                        refused = attempt(self.reader, files)
            outcome = "refused" if refused else "accepted"
        except HangError:
            fault = f"did not end within {HANGING_S} s of the processor"
        except FaultError as error:
            fault = str(error)[:300]
        return outcome, fault, time.process_time() - start


class Coverage:
    """Lines of autoprune that run while it is entered.

    Functions all of whose lines are known are not followed any more: tracing takes ten times as long.

    Attributes:
        reached: lines in all.
    """

    def __init__(self) -> None:
        self.reached = 0
        self._left: dict[CodeType, set[int]] = {}

    def __enter__(self) -> None:
        sys.settrace(self._called)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(HERE):
            return None
        if code not in self._left:
            self._left[code] = {line for _, _, line in code.co_lines() if line is not None}
        return self._line if self._left[code] else None

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        left = self._left[frame.f_code]
        if frame.f_lineno in left:
            left.remove(frame.f_lineno)
            self.reached += 1
        return self._line


@contextmanager
def _ended() -> Iterator[None]:
    """End what takes too long."""

    def give_up(signum: int, frame: FrameType | None) -> None:
        raise HangError

    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + KILLED_S
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, HANGING_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def fuzz(name: str, inputs: int, guided: int, seed: int) -> Row:
    """One reader's line: drawn inputs first, then guided ones."""
    meter = Meter(readers()[name])
    meter.take(meter.reader.valid(), "valid")
    if meter.row["accepted"] != 1:
        raise SystemExit(f"{name}: the sample itself is refused")
    before = _resident_bytes()
    meter.row["slowest_s"] = 0.0  # what was imported does not count
    for number in range(inputs):
        meter.take(meter.reader.make(Random(f"{seed} {name} {number}")), f"seed {number}")
    lines = _guided(meter, guided, Random(f"{seed} {name} guided"))
    return meter.row | {"guided": guided, "lines": lines, "before_bytes": before, "peak_bytes": _resident_bytes()}


def _resident_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _guided(meter: Meter, inputs: int, random: Random) -> int:
    """Inputs made of those that reached new lines; how many lines were reached in all."""
    coverage = Coverage()
    kept: list[Files] = [meter.reader.valid()]
    for number in range(inputs):
        files = dict(random.choice(kept))
        if random.random() < PLAIN:
            changed = random.choice(list(files))
            files[changed] = plain(files[changed], random)
        else:
            files = dict(meter.reader.change(files, random))
        before = coverage.reached
        meter.take(files, f"guided {number}", coverage)
        if coverage.reached > before:
            kept = [*kept[-KEPT + 1 :], files]
    return coverage.reached


def _in_a_process(name: str, inputs: int, guided: int, seed: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.survival_fuzz", "--only", name]
    command += ["--inputs", str(inputs), "--guided", str(guided), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    if done.returncode != 0:
        tail = done.stderr.strip().splitlines()[-3:]
        return {"reader": name, "inputs": 0, "accepted": 0, "refused": 0, "slowest_s": 0.0, "peak_bytes": 0,
                "faults": [f"the process ended with {done.returncode}: {' / '.join(tail)}"]}  # fmt: skip
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def _holds(row: Row) -> bool:
    return not row["faults"] and row["peak_bytes"] <= MOST_BYTES


def _show(row: Row) -> None:
    mark = "" if _holds(row) else "  <-"
    figures = f"{row['inputs']:7} {row['accepted']:9} {row['refused']:8} {len(row['faults']):7}"
    print(f"{row['reader']:20}{figures} {row['slowest_s']:10.2f} {row['peak_bytes'] / 2**20:9.0f}{mark}", flush=True)
    for fault in row["faults"][:SHOWN]:
        print(f"    {fault}")


def main() -> int:
    """The table, and the same as JSON; 1 where a reader fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=800, help="drawn inputs of each reader")
    parser.add_argument("--guided", type=int, default=200, help="inputs of each reader that coverage guides")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--readers", nargs="+", choices=list(readers()), help="some of them")
    parser.add_argument("--only", help="one reader, in this process")
    given = parser.parse_args()
    warnings.simplefilter("error", RuntimeWarning)  # numbers that overflow are a reader's fault
    if given.only:
        logging.disable(logging.ERROR)
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_DATA_BYTES, MOST_DATA_BYTES))
        row = fuzz(given.only, given.inputs, given.guided, given.seed)
        print(json.dumps(row))
        return 0
    print(f"{'reader':20} inputs  accepted  refused  faults  slowest s  peak MiB")
    rows = []
    for name in given.readers or readers():
        rows.append(_in_a_process(name, given.inputs, given.guided, given.seed))
        _show(rows[-1])
    print(f"{sum(row['inputs'] for row in rows)} inputs, {sum(len(row['faults']) for row in rows)} faults")
    if given.json:
        write_json(given.json, {"seed": given.seed, "readers": rows})
    return 0 if all(map(_holds, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())

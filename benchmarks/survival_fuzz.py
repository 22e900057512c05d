"""Every reader against tens of thousands of hostile files: `python -m benchmarks.survival_fuzz --inputs 21000`.

Each reader runs in a process of its own, so that its memory is its own. Inputs follow from the seed. After the drawn
ones, a loop guided by coverage keeps those that reach lines of autoprune which no earlier one reached, and changes them
further; it uses atheris where that is installed, and `sys.settrace` where not. Exit status 1 where a reader raised
anything but its own error, wrote outside of its folder, took over a second of processor time or over 1 GiB.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from autoprune.core.files import write_json
from tests.fuzz.mutations import plain
from tests.fuzz.readers import FaultError, Files, Reader, attempt, readers

HERE = str(Path(__file__).resolve().parents[1] / "autoprune")
LONGEST_S, MOST_BYTES = 1.0, 2**30
KEPT = 200  # inputs that the guided loop changes further
SHOWN = 5  # faults of one reader

Row = dict[str, Any]


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

    def take(self, files: Files, label: str, timed: bool = True) -> float:
        """Let the reader read some files; the seconds it takes of the processor, which other work may share."""
        start = time.process_time()
        try:
            refused = attempt(self.reader, files)
            self.row["refused" if refused else "accepted"] += 1
        except FaultError as fault:
            self.row["faults"].append(f"{label}: {str(fault)[:300]}")
        seconds = time.process_time() - start
        self.row["inputs"] += 1
        if timed and seconds > self.row["slowest_s"]:
            self.row |= {"slowest_s": seconds, "slowest": label}
        return seconds


def fuzz(name: str, inputs: int, guided: int, seed: int) -> Row:
    """One reader's line: drawn inputs first, then guided ones."""
    meter = Meter(readers()[name])
    meter.take(meter.reader.valid(), "valid")
    if meter.row["accepted"] != 1:
        raise SystemExit(f"{name}: the sample itself is refused")
    before = _resident_bytes()
    for number in range(inputs):
        meter.take(meter.reader.make(Random(f"{seed} {name} {number}")), f"seed {number}")
    lines = _guided(meter, guided, Random(f"{seed} {name} guided"))
    return meter.row | {"guided": guided, "lines": lines, "before_bytes": before, "peak_bytes": _resident_bytes()}


def _resident_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _guided(meter: Meter, inputs: int, random: Random) -> int:
    """Inputs made of those that reached new lines; how many lines were reached in all."""
    reached: set[tuple[str, int]] = set()
    kept: list[Files] = [meter.reader.valid()]
    for number in range(inputs):
        files = dict(random.choice(kept))
        changed = random.choice(list(files))
        files[changed] = plain(files[changed], random)
        found: set[tuple[str, int]] = set()
        _traced(meter, files, f"guided {number}", found)
        if found - reached:
            reached |= found
            kept = [*kept[-KEPT + 1 :], files]
    return len(reached)


def _traced(meter: Meter, files: Files, label: str, found: set[tuple[str, int]]) -> None:
    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(HERE):
            return None
        if event == "line":
            found.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        seconds = meter.take(files, label, timed=False)
    finally:
        sys.settrace(None)
    if seconds > LONGEST_S:  # tracing takes ten times as long
        meter.take(files, f"{label}, again")


def _in_a_process(name: str, inputs: int, guided: int, seed: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.survival_fuzz", "--only", name]
    command += ["--inputs", str(inputs), "--guided", str(guided), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = done.stderr.strip().splitlines()[-3:]
        return {"reader": name, "inputs": 0, "accepted": 0, "refused": 0, "slowest_s": 0.0, "peak_bytes": 0,
                "faults": [f"the process ended with {done.returncode}: {' / '.join(tail)}"]}  # fmt: skip
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def _holds(row: Row) -> bool:
    return not row["faults"] and row["slowest_s"] <= LONGEST_S and row["peak_bytes"] <= MOST_BYTES


def _show(row: Row) -> None:
    mark = "" if _holds(row) else "  <-"
    figures = f"{row['inputs']:7} {row['accepted']:9} {row['refused']:8} {len(row['faults']):7}"
    print(f"{row['reader']:20}{figures} {row['slowest_s']:10.2f} {row['peak_bytes'] / 2**20:9.0f}{mark}", flush=True)
    for fault in row["faults"][:SHOWN]:
        print(f"    {fault}")


def main() -> int:
    """The table, and the same as JSON; 1 where a reader fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000, help="drawn inputs of each reader")
    parser.add_argument("--guided", type=int, default=100, help="inputs of each reader that coverage guides")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--only", help="one reader, in this process")
    given = parser.parse_args()
    warnings.simplefilter("error", RuntimeWarning)  # numbers that overflow are a reader's fault
    if given.only:
        logging.disable(logging.ERROR)
        row = fuzz(given.only, given.inputs, given.guided, given.seed)
        print(json.dumps(row))
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (it has no wheel here): sys.settrace guides the second part")
    print(f"{'reader':20} inputs  accepted  refused  faults  slowest s  peak MiB")
    rows = []
    for name in readers():
        rows.append(_in_a_process(name, given.inputs, given.guided, given.seed))
        _show(rows[-1])
    print(f"{sum(row['inputs'] for row in rows)} inputs, {sum(len(row['faults']) for row in rows)} faults")
    if given.json:
        write_json(given.json, {"seed": given.seed, "readers": rows})
    return 0 if all(map(_holds, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What happens to files: a journal cut off anywhere, a disk that is full in the middle of a trial."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autoprune.core.errors import AutopruneError
from autoprune.search.backend import JOURNAL
from autoprune.search.storage import TrialStorage
from benchmarks import survival_driver
from benchmarks.survival_part import Finding, Options, problem, searched

ROOT = Path(__file__).resolve().parents[1]
RECORDS = 3  # from the end, in which the journal is cut
TRIALS = 60
DISK_BYTES, RUN_BYTES = 256 * 1024, 32 * 1024 * 1024
BLOCK = 4096
SMALL: dict[str, Any] = {"trials": 10, "finetune": {"members": 2, "epochs": 2}}  # a whole run, short


def journal(options: Options) -> list[Finding]:
    """Cut at every byte of its last three records: it opens, and at most the record being written is lost."""
    whole = options.folder / "journal-whole"
    given = problem()
    expected = searched(given, whole, TRIALS)
    data = (whole / JOURNAL).read_bytes()
    ends = [place + 1 for place, byte in enumerate(data) if byte == ord("\n")]
    opened, lost = 0, []
    cuts = range(ends[-RECORDS - 1], len(data) + 1)
    run = options.folder / "journal-cut"
    run.mkdir()
    for cut in cuts:
        (run / JOURNAL).write_bytes(data[:cut])
        try:
            lost.append(_recorded(data[:cut]) - len(_numbers(run)))
            opened += 1
        except AutopruneError:
            continue
    same = 0
    for cut in cuts[:: max(1, len(cuts) // 20)]:
        (run / JOURNAL).write_bytes(data[:cut])
        same += searched(given, run, TRIALS) == expected
    tried = len(cuts[:: max(1, len(cuts) // 20)])
    return [
        Finding("journal", "cuts", len(cuts)),
        Finding("journal", "opened", opened, f"{len(cuts)}", opened == len(cuts)),
        Finding("journal", "whole records lost, at most", max(lost, default=0), "0", max(lost, default=0) == 0),
        Finding("journal", "searches that went on to the same trials", same, f"{tried}", same == tried),
    ]


def _recorded(data: bytes) -> int:
    """Trials whose record is whole."""
    return sum(b'"state":' in line for line in data.split(b"\n")[:-1])


def _numbers(run: Path) -> list[int]:
    given = problem()
    names = tuple(variable.name for variable in given.space.variables)
    with TrialStorage(run, names, given.space.levels, ("error", "latency_p50"), None) as storage:
        return [record.number for record in storage.load()]


SEARCH = """
import sys
from pathlib import Path
from typing import Any
from autoprune.core.errors import AutopruneError
from benchmarks.survival_part import problem, searched
if len(sys.argv) > 3:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    searched(problem(), Path(sys.argv[1]), int(sys.argv[2]))
except AutopruneError as error:
    sys.stderr.write(f"error: {error}\\n")
    sys.exit(error.exit_code)
"""


def disk_full(options: Options) -> list[Finding]:
    """A disk without room for the next record: a message, exit status 1, and it goes on when there is room.

    A file system in memory where this user may mount one, otherwise a limit on the size of files.
    """
    expected = searched(problem(), options.folder / "disk-expected", TRIALS)
    messages: list[tuple[int, str]] = []
    with _small_disk(options.folder / "disk") as disk:
        run = disk / "run"
        for share in (0.3, 0.6, 0.9):
            messages.append(_out_of_room(run, disk, share, options.folder / "disk-expected" / JOURNAL))
        found = searched(problem(), run, TRIALS)
        kind = "a full file system" if os.path.ismount(disk) else "a limit on the size of files"
    clear = sum("cannot store trials: " in text and "make room" in text for _, text in messages)
    failed = sum(status == 1 for status, _ in messages)
    return [
        Finding("disk-full", "times without room", len(messages), kind),
        Finding("disk-full", "exit status 1", failed, f"{len(messages)}", failed == len(messages)),
        Finding("disk-full", "messages that say what to do", clear, f"{len(messages)}", clear == len(messages)),
        Finding("disk-full", "trials as with room", "yes" if found == expected else "NO", "yes", found == expected),
    ]


def _out_of_room(run: Path, disk: Path, share: float, whole: Path) -> tuple[int, str]:
    """Search with room for a share of the journal only; exit status and message."""
    room = int(share * whole.stat().st_size)
    command = [sys.executable, "-c", SEARCH, str(run), str(TRIALS)]
    ballast = disk / "ballast"
    if os.path.ismount(disk):
        used = (run / JOURNAL).stat().st_size if (run / JOURNAL).exists() else 0
        free = os.statvfs(disk).f_bavail * BLOCK
        ballast.write_bytes(b"\0" * max(0, free - max(room - used, 0) - 2 * BLOCK))
    else:
        command.append(str(room))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    ballast.unlink(missing_ok=True)
    return done.returncode, done.stderr


@contextmanager
def _small_disk(folder: Path, size: int = DISK_BYTES) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


# ----------------------------------------------------------------------- while members are fine-tuned


TUNE = """
import sys
from pathlib import Path
from typing import Any
from autoprune.core.errors import AutopruneError
from benchmarks.survival_driver import run
from benchmarks.survival_files import SMALL, fill
if __name__ == "__main__":  # workers import this too
    ballast = Path(sys.argv[2])
    def filling(stage, done, total):
        if stage == "fine-tune members":
            fill(ballast)
    try:
        run(Path(sys.argv[1]), {"workers": 2}, progress=filling, **SMALL)
    except AutopruneError as error:
        sys.stderr.write(f"error: {error}\\n")
        sys.exit(error.exit_code)
"""


def full_while_tuning(options: Options) -> list[Finding]:
    """A disk that is full when workers write their first checkpoint: the same, and no member is lost by it."""
    part = "disk-full-tuning"
    expected = survival_driver.run(options.folder / "tuned-expected", {}, **SMALL)
    with _small_disk(options.folder / "tuned-disk", RUN_BYTES) as disk:
        if not os.path.ismount(disk):
            return [Finding(part, "not run: this user may not mount a file system", 0)]
        script = options.folder / "tune.py"
        script.write_text(TUNE)
        command = [sys.executable, str(script), str(disk / "run"), str(disk / "ballast")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        (disk / "ballast").unlink()
        found = survival_driver.run(disk / "run", {}, **SMALL)
        same = (found.run / "front.csv").read_bytes() == (expected.run / "front.csv").read_bytes()
    clear = "fine-tuning" in done.stderr and "No space left on device" in done.stderr and "make room" in done.stderr
    return [
        Finding(part, "exit status", done.returncode, "1", done.returncode == 1),
        Finding(part, "message that says what to do", "yes" if clear else done.stderr[-500:], "yes", clear),
        Finding(part, "front.csv as with room, byte by byte", "yes" if same else "NO", "yes", same),
    ]


def fill(ballast: Path) -> None:
    """Write until nothing more fits."""
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(b"\0" * BLOCK)

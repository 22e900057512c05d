"""A program that runs a kit, here or at the other end of a wire, watched line by line."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from autoprune.core.errors import Failure, InputError
from autoprune.hardware.devices import Progress

MAX_LINE = 4096
_PROGRESS = re.compile(r"progress (\d{1,9}) (\d{1,9})")


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        status: its exit status; negative for a signal.
        said: the last of what it wrote to stderr.
        done, total: logs of the kit, as far as it told.
    """

    status: int
    said: str
    done: int = 0
    total: int = 0


def watched(command: Sequence[str], progress: Progress | None = None, folder: Path | None = None) -> Ended:
    """Run a program to its end; its lines `progress DONE TOTAL` are passed on.

    Raises:
        InputError: there is no such program here.
    """
    done = total = 0
    with tempfile.TemporaryFile() as errors:
        with _started(command, errors, folder) as process:
            assert process.stdout is not None
            try:
                while line := process.stdout.readline(MAX_LINE):
                    found = _PROGRESS.fullmatch(line.decode("utf-8", errors="replace").strip())
                    if found is not None:
                        done, total = int(found[1]), int(found[2])
                        if progress is not None:
                            progress("kit", done, total)
            except BaseException:
                process.kill()
                raise
        return Ended(process.returncode, last_words(errors), done, total)


def _started(command: Sequence[str], errors: IO[bytes], folder: Path | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=folder)
    except FileNotFoundError as error:
        raise missing(command[0]) from error


def last_words(errors: IO[bytes], most: int = 400) -> str:
    """The end of what a program wrote to its file of errors, on one line."""
    errors.seek(0, 2)
    errors.seek(max(0, errors.tell() - 4 * most))
    text = errors.read().decode("utf-8", errors="replace")
    return " ".join(text.split())[-most:]


def missing(program: str) -> InputError:
    """The error for a program that is not on this machine."""
    return InputError(f"expected the program '{program}' on this machine, found none. Install it, or put it on PATH.")


def run_here(folder: Path, progress: Progress | None = None) -> Failure | None:
    """Run a kit on this machine, where it lies."""
    ended = watched(["sh", "run.sh"], progress, folder)
    if ended.status == 0:
        return None
    return Failure("run", f"kit {folder}: run.sh ended with status {ended.status}: {ended.said or 'no message'}")

"""Parts of the front benchmark on disk: one file a method and seed of a task, one process at a time at each."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoprune.core.errors import InputError
from autoprune.core.files import read_json, write_json
from autoprune.search.lock import FolderLock
from benchmarks.front_bench import Evaluated, Outcome

SCHEMA = "autoprune.benchmark-front/1"


@dataclass(frozen=True)
class Part:
    """One method on one trained network.

    Attributes:
        task, method, seed: which.
        kind: "" for the search itself, else what was done with its front ("rescored", "tuned").
    """

    task: str
    method: str
    seed: int
    kind: str = ""

    def path(self, folder: Path) -> Path:
        """Its file."""
        suffix = f".{self.kind}" if self.kind else ""
        return folder / self.task / f"{self.method}-s{self.seed}{suffix}.json"

    def __str__(self) -> str:
        return f"{self.task} {self.method} seed {self.seed}" + (f" {self.kind}" if self.kind else "")


def read_part(part: Part, folder: Path) -> dict[str, Any] | None:
    """A finished part, None where it is not there.

    Raises:
        InputError: not a part, or of another version.
    """
    path = part.path(folder)
    return read_json(path, "part", SCHEMA) if path.is_file() else None


def do_part(part: Part, folder: Path, options: Mapping[str, Any], work: Callable[[Path], dict[str, Any]]) -> bool:
    """Do a part unless it is there, or another process is at it; what an interrupted one left is thrown away.

    Args:
        part: which.
        folder: of the benchmark.
        options: what it depends on.
        work: is given an empty folder of its own, and returns the part's data.

    Returns:
        Whether it was done now.

    Raises:
        InputError: the part is there, but was done with other options.
    """
    with _own(part, folder) as scratch:
        if scratch is None:
            _say(f"{part}: another process is at it")
            return False
        found = read_part(part, folder)
        if found is not None:
            if found["options"] != dict(options):
                raise InputError(
                    f"{part.path(folder)}: expected a part made with {dict(options)}, got one with "
                    f"{found['options']}. Use another --out, or delete the file."
                )
            return False
        start = time.perf_counter()
        data = work(scratch)
        whole = {
            "schema": SCHEMA,
            "task": part.task,
            "method": part.method,
            "kind": part.kind,
            "seed": part.seed,
            "options": dict(options),
            "wall_s": time.perf_counter() - start,
            **data,
        }
        write_json(part.path(folder), whole)
        _say(f"{part}: {whole['wall_s']:.0f} s")
        return True


@contextmanager
def _own(part: Part, folder: Path) -> Iterator[Path | None]:
    """An empty folder for a part, None where another process has it; gone afterwards."""
    own = folder / part.task / "work" / part.path(Path()).stem
    try:
        lock = FolderLock(own)
    except InputError:
        if not os.access(folder, os.W_OK):
            raise
        yield None
        return
    scratch = own / "scratch"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()


def as_data(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON data; numbers that are not finite are left out."""
    return {
        "evaluated": [asdict(item) for item in outcome.evaluated],
        "setup_s": outcome.setup_s,
        "figures": {name: value for name, value in outcome.figures.items() if abs(value) < float("inf")},
    }


def evaluated(data: Mapping[str, Any]) -> list[Evaluated]:
    """What a part evaluated.

    Raises:
        InputError: the part is damaged.
    """
    try:
        return [Evaluated(**item) for item in data["evaluated"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"part: expected evaluations, got {error!r}. Delete the file and run the part again."
        ) from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

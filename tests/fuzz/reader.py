"""What a reader is here, and what letting it read hostile files means."""

from __future__ import annotations

import csv
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import yaml

from tests.fuzz import mutations
from tests.fuzz.mutations import MUTATIONS

Files = Mapping[str, bytes]
Change = Callable[[Files, Random], Files]
LONGEST_MESSAGE = 20_000  # characters


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: in tables.
        change: makes files hostile, or more so.
        use: reads them from a folder, and does with what it read what the program does: a file that loads and then
            breaks the next step is a fault of the reader.
        valid: the sample.
    """

    name: str
    change: Change
    use: Callable[[Path], object]
    valid: Callable[[], Files]

    def make(self, random: Random) -> Files:
        """Hostile files, drawn."""
        return self.change(self.valid(), random)


def changed_in(kinds: Mapping[str, str]) -> Change:
    """Changes one file, now and then two; `kinds` are those that may be, and how."""

    def change(given: Files, random: Random) -> Files:
        files = dict(given)
        for _ in range(random.choice((1, 1, 1, 2))):
            path = random.choice(list(kinds))
            with_ = kinds[path] if random.random() < 0.95 else "bytes"
            files[path] = changed_file(files[path], with_, random)
        return files

    return change


def changed_file(content: bytes, kind: str, random: Random) -> bytes:
    """A file made hostile in the ways of its format; in those of none where an earlier change left no format."""
    try:
        return MUTATIONS[kind](content, random)
    except (ValueError, LookupError, TypeError, RecursionError, yaml.YAMLError, csv.Error):
        return mutations.plain(content, random)


def lines_changed(path: str) -> Change:
    """Changes a file of JSON lines: as text, or one line of it as JSON."""

    def change(files: Files, random: Random) -> Files:
        content = files[path]
        if random.random() < 0.4:
            return {**files, path: changed_file(content, "text", random)}
        lines = content.split(b"\n")
        place = random.randrange(len(lines))
        lines[place] = changed_file(lines[place], "json", random)
        return {**files, path: b"\n".join(lines)}

    return change


def simple(name: str, valid: Callable[[], Files], kinds: Mapping[str, str], use: Callable[[Path], object]) -> Reader:
    """A reader of files that are changed each in the ways of its format."""
    return Reader(name, changed_in(kinds), use, valid)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def write_files(folder: Path, files: Files) -> None:
    """Put files into a new folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def sampled(write: Callable[[Path], object]) -> Callable[[], Files]:
    """A sample that is written into a folder once, and kept."""

    @functools.cache
    def sample() -> Files:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            return files_of(Path(folder))

    return sample


class FaultError(AssertionError):
    """A reader that did what no reader may do."""


@contextmanager
def placed(files: Files) -> Iterator[Path]:
    """The files in a folder of their own, the working directory an empty one beside it; both gone afterwards.

    Raises:
        FaultError: anything stands outside of the folder afterwards.
    """
    path = list(sys.path)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        folder, here = Path(root) / "case", Path(root) / "here"
        folder.mkdir()
        here.mkdir()
        write_files(folder, files)
        try:
            with chdir(here):
                yield folder
        finally:
            sys.path[:] = path
            outside = {*os.listdir(root)} ^ {"case", "here"} | {*os.listdir(here)}
            outside |= {name for name in ("/tmp/canary",) if os.path.lexists(name)}
        if outside:
            raise FaultError(f"expected no file outside of the folder, got {sorted(outside)}")


def attempt(reader: Reader, files: Files) -> str | None:
    """Let a reader read; None where it takes the files, else why it refuses them.

    Raises:
        FaultError: it raised anything but an `AutopruneError`, said nothing, too much or what a terminal would obey,
            or wrote elsewhere.
    """
    from autoprune.core.errors import AutopruneError

    with placed(files) as folder:
        try:
            reader.use(folder)
        except AutopruneError as error:
            check_message(reader.name, str(error))
            return str(error)
        except Exception as error:
            raise FaultError(
                f"{reader.name}: expected an AutopruneError, got {type(error).__name__}: {str(error)[:300]}"
            ) from error
    return None


def check_message(name: str, message: str) -> None:
    """See that a message is one for people.

    Raises:
        FaultError: it is too short or long, or holds characters that a terminal obeys.
    """
    if not 10 < len(message) < LONGEST_MESSAGE:
        raise FaultError(f"{name}: expected a message, got one of {len(message)} characters")
    if not message.replace("\n", " ").isprintable():
        strange = sorted({c for c in message if not c.isprintable() and c != "\n"})[:5]
        raise FaultError(f"{name}: expected a printable message, got {strange} in {message[:200]!r}")

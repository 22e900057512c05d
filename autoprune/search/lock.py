"""One writer a run folder: whoever measures, searches, fine-tunes or publishes in it holds its lock."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Self

from autoprune.core.errors import InputError, shortened

LOCK = "search.lock"
_MAX_HOLDER_BYTES = 200
_LEFTOVER = re.compile(r"\..+\.(json|csv|html|safetensors|onnx|pt2|checkpoint)\.[a-z0-9_]{8}")


class FolderLock:
    """The lock of a run folder, held until `release`. The system lets go of it however its holder ends.

    Args:
        folder: of the run; made when missing.
        name: of the file that is locked.
        what: is locked, for messages; the folder where None.

    Raises:
        InputError: another process holds it (which, on which machine and since when), or the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str = LOCK, what: str | None = None) -> None:
        self._folder = folder
        what = what or f"run folder {folder}"
        self._descriptor = _open(folder, name)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, _MAX_HOLDER_BYTES, 0).decode("utf-8", "replace").strip()
            self.let_go()
            if not isinstance(error, BlockingIOError):
                raise InputError(
                    f"{what}: expected a file system with locks, got {error.strerror}. Choose a folder on another one."
                ) from error
            raise held_already(what, holder) from error
        with suppress(OSError):  # a full disk: the lock is held all the same
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{this_process()}\n".encode(), 0)
        _HELD.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.release()

    def tidy(self) -> None:
        """Remove what writers that were killed left beside the files that they were to replace (`files.replacing`)."""
        for depth in ("", "*/", "*/*/"):
            for path in self._folder.glob(f"{depth}.*"):
                if _LEFTOVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                    path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let others in, and take the holder's name away. May be called twice."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
        self.let_go()

    def let_go(self) -> None:
        """Close the file; the lock stays with whoever else holds it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_HELD: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """A forked child (a data loader's worker) shares its parent's lock, and would keep it when the parent is killed."""
    for lock in list(_HELD):
        lock.let_go()


os.register_at_fork(after_in_child=_leave_to_parent)


def held_already(what: str, holder: str) -> InputError:
    """The refusal of a second writer."""
    told = shortened(holder, _MAX_HOLDER_BYTES) or "another process"
    return InputError(
        f"{what}: a search is running in it already ({told}). Wait for it, stop it, or choose another folder."
    )


def this_process() -> str:
    """Who holds a lock, for whoever finds it held."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"


def _open(folder: Path, name: str) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(
            f"run folder {folder}: expected a folder that can be written, got {error.strerror}. Choose another."
        ) from error

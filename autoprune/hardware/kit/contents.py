"""What a kit holds, read from its folder or an archive of it without unpacking anything to the disk.

Archives come from strangers: names that lead out of the kit, links, members twice, and sizes beyond all kits are
refused before they are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from autoprune.core.errors import InputError
from autoprune.hardware.kit.manifest import MANIFEST, MODELS

MAX_FILES = 200_000
MAX_BYTES = 16 * 2**30  # of all files
MAX_TEXT_BYTES = 16 * 2**20  # of one file that is read
MAX_TEXTS_BYTES = 512 * 2**20  # of all files that are read
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Hash:
    """SHA-256 of a file, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, eq=False)
class Contents:
    """The files of a kit.

    Attributes:
        place: of the kit, for messages.
        texts: path -> text of every file outside `models/`.
        hashes: path -> hash of every file.
    """

    place: str
    texts: Mapping[str, str]
    hashes: Mapping[str, Hash]


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    link: bool
    open: Callable[[], IO[bytes]]


def is_kit(path: Path) -> bool:
    """Whether this is a kit's folder, or an archive that may hold one."""
    return (path / MANIFEST).is_file() if path.is_dir() else path.name.lower().endswith(ARCHIVES)


def read_contents(path: Path) -> Contents:
    """A kit from its folder, or from a `.tar.gz`, `.tar` or `.zip` of it.

    Raises:
        InputError: unreadable, damaged, too large, or with names or links that a kit has not.
    """
    try:
        return _read(path)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"kit {path}: expected an archive of a kit, got one that does not read ({error}). It may be cut off; "
            "copy it again."
        ) from error
    except OSError as error:
        raise InputError(f"cannot read kit {path}: {error.strerror or error}.") from error


def _read(path: Path) -> Contents:
    texts: dict[str, str] = {}
    hashes: dict[str, Hash] = {}
    total = read = 0
    for entry in _entries(path):
        name = _checked_name(path, entry)
        total += entry.size
        if total > MAX_BYTES or len(hashes) >= MAX_FILES:
            raise InputError(
                f"kit {path}: expected at most {MAX_FILES} files of {MAX_BYTES} bytes together, got more at "
                f"'{name[:80]}'. No kit is so large; do not unpack it."
            )
        if name in hashes:
            raise InputError(f"kit {path}: expected every file once, got '{name[:80]}' twice.")
        wanted = _is_text(name)
        if wanted:
            read += entry.size
            if entry.size > MAX_TEXT_BYTES or read > MAX_TEXTS_BYTES:
                raise InputError(
                    f"kit {path}: expected logs of at most {MAX_TEXT_BYTES} bytes, got {entry.size} in '{name[:80]}'."
                )
        with entry.open() as stream:
            hashes[name], data = _consumed(stream, keep=wanted)
        if wanted:
            texts[name] = data.decode("utf-8", errors="replace")
    return _without_folder(path, texts, hashes)


def _is_text(name: str) -> bool:
    return MODELS not in PurePosixPath(name).parts[:-1]


def _entries(path: Path) -> Iterator[_Entry]:
    if path.is_dir():
        yield from _folder_entries(path)
    elif path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    link = (info.external_attr >> 16) & 0o170000 == 0o120000
                    yield _Entry(info.filename, info.file_size, link, _opener(archive, info))
    elif path.name.lower().endswith(ARCHIVES):
        with tarfile.open(path) as tar:
            yield from tar_entries(tar)
    else:
        raise InputError(f"kit {path}: expected a kit's folder or a {', '.join(ARCHIVES)} of one, got another file.")


def _opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def tar_entries(tar: tarfile.TarFile) -> Iterator[_Entry]:
    """The members of a tar, each to be read before the next is asked for."""
    for member in tar:
        if not member.isdir():
            yield _Entry(member.name, member.size, not member.isreg(), _member_opener(tar, member))


def _member_opener(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        stream = tar.extractfile(member)
        if stream is None:
            raise tarfile.ReadError(f"'{member.name[:80]}' is no file")
        return stream

    return opened


def _folder_entries(path: Path) -> Iterator[_Entry]:
    for folder, folders, files in os.walk(path):
        for name in sorted((*folders, *files)):
            found = Path(folder, name)
            if found.is_symlink() or name in files:
                inside = found.relative_to(path).as_posix()
                size = 0 if found.is_symlink() else found.stat().st_size
                yield _Entry(inside, size, found.is_symlink(), lambda found=found: found.open("rb"))  # type: ignore[misc]


def _checked_name(path: Path, entry: _Entry) -> str:
    name = entry.name.removeprefix("./")
    parts = PurePosixPath(name).parts
    strange = "\\" in name or ":" in name or not name.isprintable()
    if not parts or name.startswith("/") or ".." in parts or strange:
        raise InputError(
            f"kit {path}: expected names inside the kit, got '{entry.name[:80]!s}', which leads out of it. "
            "Nothing was unpacked; do not unpack it."
        )
    if entry.link:
        raise InputError(
            f"kit {path}: expected plain files, got '{name[:80]}', a link or device. Copy the kit without links."
        )
    return PurePosixPath(name).as_posix()


def _consumed(stream: IO[bytes], keep: bool) -> tuple[Hash, bytes]:
    """Hash of a stream, and its bytes where they are kept."""
    sha, size, kept = hashlib.sha256(), 0, []
    while block := stream.read(_BLOCK):
        sha.update(block)
        size += len(block)
        if keep:
            kept.append(block)
    return Hash(sha.hexdigest(), size), b"".join(kept)


def _without_folder(path: Path, texts: dict[str, str], hashes: dict[str, Hash]) -> Contents:
    """Archives of a folder have its name before every file."""
    prefix = ""
    if MANIFEST not in texts:
        with contextlib.suppress(StopIteration):
            found = next(name for name in texts if PurePosixPath(name).parts[1:] == (MANIFEST,))
            prefix = found.removesuffix(MANIFEST)
    if prefix + MANIFEST not in texts:
        raise InputError(
            f"kit {path}: expected {MANIFEST}, found none. Send back the whole folder that `autoprune profile kit` "
            "wrote, with logs/ in it."
        )
    inside = {name: name.removeprefix(prefix) for name in hashes if name.startswith(prefix)}
    return Contents(
        str(path),
        {inside[name]: text for name, text in texts.items() if name in inside},
        {inside[name]: found for name, found in hashes.items() if name in inside},
    )

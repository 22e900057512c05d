"""What a kit holds, read from its folder or an archive of it without unpacking anything to the disk.

Archives come from strangers: names that lead out of the kit, links, members twice, and sizes beyond all kits are
refused before they are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from autoprune.core.errors import InputError, shortened
from autoprune.hardware.kit.manifest import MANIFEST, MODELS

MAX_FILES = 200_000
MAX_BYTES = 16 * 2**30  # of all files
MAX_TEXT_BYTES = 16 * 2**20  # of one file that is read
MAX_TEXTS_BYTES = 128 * 2**20  # of all files that are read
MAX_HEADER_BYTES = 2**20  # of what a tar says of one file: its long name
MAX_DIRECTORY_BYTES = 64 * 2**20  # of a zip
FREE_BYTES, MAX_RATIO = 128 * 2**20, 100  # what an archive may unpack to: so much, and so many times its own size
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_BLOCK = 1 << 20
_ZIP_TAIL = 65_536 + 64  # where a zip's end record is: before a comment of 16 bits
_ZIP_END = struct.Struct("<4s4H2LH")
DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
    ValueError, LookupError, OverflowError,
)  # fmt: skip
"""What reading a damaged archive raises."""


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
    except OSError as error:
        raise InputError(f"cannot read kit {path}: {error.strerror or error}.") from error
    except DAMAGED as error:
        raise InputError(
            f"kit {path}: expected an archive of a kit, got one that does not read ({shortened(str(error))}). It may "
            "be cut off; copy it again."
        ) from error


def _read(path: Path) -> Contents:
    texts: dict[str, str] = {}
    hashes: dict[str, Hash] = {}
    total = read = 0
    most = min(MAX_BYTES, FREE_BYTES + MAX_RATIO * path.stat().st_size) if path.is_file() else MAX_BYTES
    for entry in _entries(path):
        name = _checked_name(path, entry)
        total += entry.size
        if entry.size < 0 or total > most or len(hashes) >= MAX_FILES:
            raise InputError(
                f"kit {path}: expected at most {MAX_FILES} files of {most} bytes together, got more at "
                f"'{shortened(name)}'. No kit is so large; do not unpack it. Where it is yours, send "
                "it without models/."
            )
        if name in hashes:
            raise InputError(f"kit {path}: expected every file once, got '{shortened(name)}' twice.")
        wanted = _is_text(name)
        if wanted:
            read += entry.size
            if entry.size > MAX_TEXT_BYTES or read > MAX_TEXTS_BYTES:
                raise InputError(
                    f"kit {path}: expected logs of at most {MAX_TEXT_BYTES} bytes, got {entry.size} in "
                    f"'{shortened(name)}'."
                )
        with entry.open() as stream:
            hashes[name], data = _consumed(stream, entry.size, keep=wanted)
        if wanted:
            texts[name] = data.decode("utf-8", errors="replace")
    return _without_folder(path, texts, hashes)


def _is_text(name: str) -> bool:
    return MODELS not in PurePosixPath(name).parts[:-1]


def _entries(path: Path) -> Iterator[_Entry]:
    if path.is_dir():
        yield from _folder_entries(path)
    elif path.name.lower().endswith(".zip"):
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    link = stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG)
                    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise NotImplementedError("a compression that kits are not packed with")
                    yield _Entry(info.filename, info.file_size, link, _opener(archive, info))
    elif path.name.lower().endswith(ARCHIVES):
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with tarfile.open(path, "r:gz" if packed else "r:", tarinfo=TarHeader) as tar:
            yield from tar_entries(tar)
    else:
        raise InputError(f"kit {path}: expected a kit's folder or a {', '.join(ARCHIVES)} of one, got another file.")


class TarHeader(tarfile.TarInfo):
    """What a tar says of a file. Sizes below zero would make `tarfile` read the same bytes for ever (CVE-2025-8194)."""

    def _block(self, count: int) -> int:
        extends = self.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if count < 0 or (count > MAX_HEADER_BYTES and extends):
            raise tarfile.HeaderError("a size that no file has")
        return int(super()._block(count))  # type: ignore[misc]


def _check_directory(path: Path) -> None:
    """Refuse a zip whose directory alone would fill the memory: `zipfile` reads it whole."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _ZIP_TAIL))
        tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + _ZIP_END.size:
        raise zipfile.BadZipFile("no directory")
    *_, directory, _, _ = _ZIP_END.unpack_from(tail, place)
    if directory > MAX_DIRECTORY_BYTES or tail[max(0, place - 20) : place].startswith(b"PK\x06\x07"):
        raise zipfile.BadZipFile("a directory of more files than a kit has")


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
            raise tarfile.ReadError(f"'{shortened(member.name)}' is no file")
        return stream

    return opened


def _folder_entries(path: Path) -> Iterator[_Entry]:
    for folder, folders, files in os.walk(path):
        for name in sorted((*folders, *files)):
            found = Path(folder, name)
            told = found.lstat()
            if not stat.S_ISDIR(told.st_mode):
                inside = found.relative_to(path).as_posix()
                other = not stat.S_ISREG(told.st_mode)  # to open a pipe is to wait
                yield _Entry(inside, told.st_size, other, lambda found=found: found.open("rb"))  # type: ignore[misc]


def _checked_name(path: Path, entry: _Entry) -> str:
    name = entry.name.removeprefix("./")
    parts = PurePosixPath(name).parts
    strange = "\\" in name or ":" in name or not name.isprintable()
    if not parts or name.startswith("/") or ".." in parts or strange:
        raise InputError(
            f"kit {path}: expected names inside the kit, got '{shortened(entry.name)}', which leads out of it. "
            "Nothing was unpacked; do not unpack it."
        )
    if entry.link:
        raise InputError(
            f"kit {path}: expected plain files, got '{shortened(name)}', a link or device. Copy the kit without links."
        )
    return PurePosixPath(name).as_posix()


def _consumed(stream: IO[bytes], most: int, keep: bool) -> tuple[Hash, bytes]:
    """Hash of a stream of at most so many bytes, and its bytes where they are kept."""
    sha, size, kept = hashlib.sha256(), 0, []
    while block := stream.read(_BLOCK):
        sha.update(block)
        size += len(block)
        if size > most:
            raise ValueError("more bytes than its directory says")
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

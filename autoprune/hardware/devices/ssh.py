"""A machine behind `ssh`: it needs a POSIX shell with tar, and the runtime; nothing of autoprune."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from autoprune.core.errors import AutopruneError, InputError, shortened
from autoprune.hardware.devices.process import Ended, last_words, missing
from autoprune.hardware.devices.remote import Kept, RemoteDevice
from autoprune.hardware.kit.contents import DAMAGED, TarHeader, tar_entries
from autoprune.hardware.kit.manifest import ENVIRONMENT, LOGS, MANIFEST

BASE = "autoprune-kits"  # in the home folder
# Never ask; notice within a minute that nobody is there; weights are made up and shrink to nothing on the wire.
OPTIONS = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=4", "Compression=yes")
NO_CONNECTION = 255  # ssh's own status; others are those of the command
_BLOCK = 1 << 20
_MOST_BYTES = 2**30
_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z_][\w.-]*)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][\w.-]*)(?::(?P<port>\d{1,5}))?"
)


class SshDevice(RemoteDevice):
    """A machine that the system's `ssh` reaches without asking for a password.

    Args:
        address: `host`, `user@host` or `user@host:port`; names of ~/.ssh/config are known.
        options: further arguments of ssh, such as `("-i", "key")`.

    Raises:
        InputError: not an address.
    """

    def __init__(self, address: str = "", options: Sequence[str] = ()) -> None:
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise InputError(f"device: expected ssh:user@host or ssh:user@host:port, got 'ssh:{shortened(address)}'.")
        host, port = found["host"].strip("[]"), found["port"]
        target = f"{found['user']}@{host}" if found["user"] else host
        self.name = f"{target}:{port or 22}"
        reach = ["-p", port] if port else []
        self.diagnose = " ".join(["ssh", "-v", *reach, target, "true"])
        given = (part for option in OPTIONS for part in ("-o", option))
        self._command = ["ssh", *options, *given, *reach, "--", target]

    def command(self, line: str) -> list[str]:
        """`ssh ... host line`."""
        return [*self._command, line]

    def place(self, kit_id: str) -> str:
        """A folder in the home folder there."""
        return f"{BASE}/{kit_id}"

    def lost(self, ended: Ended) -> bool:
        """ssh says so by its status."""
        return ended.status == NO_CONNECTION

    def send(self, folder: Path, place: str) -> Ended:
        """As a tar over the wire; logs that are here already go along, so that they are not run again."""
        line = f"mkdir -p {place} && cd {place} && tar xf -"
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "lock")
        files.sort(key=lambda path: path.name == MANIFEST)
        with tempfile.TemporaryFile() as errors, self._started(line, errors, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            try:
                with process.stdin as pipe, tarfile.open(fileobj=pipe, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
                    for path in files:
                        tar.add(path, path.relative_to(folder).as_posix(), filter=_plain)
            except BrokenPipeError:
                pass  # its status and its last words say why
            return Ended(process.wait(), last_words(errors))

    def fetch(self, place: str, into: Path) -> Ended:
        """As a tar over the wire, kept in a bounded file before anything of it is read."""
        line = f"cd {place} && tar cf - {LOGS} {ENVIRONMENT}"
        with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as received:
            with self._started(line, errors, stdin=subprocess.DEVNULL) as process:
                assert process.stdout is not None
                while block := process.stdout.read(_BLOCK):
                    received.write(block)
                    if received.tell() > _MOST_BYTES:
                        process.kill()
                        raise AutopruneError(f"{self.name}: expected logs, got more than {_MOST_BYTES} bytes of them.")
                status = process.wait()
            if status == 0:
                received.seek(0)
                self.keep(received, into)
            return Ended(status, last_words(errors))

    def keep(self, received: IO[bytes], into: Path) -> None:
        """Keep what belongs into a kit's folder of a tar that came from the device.

        Raises:
            AutopruneError: bytes that are no tar.
        """
        kept = Kept(into)
        try:
            with tarfile.open(fileobj=received, mode="r:", tarinfo=TarHeader) as tar:
                for entry in tar_entries(tar):
                    if not entry.link:
                        with entry.open() as stream:
                            kept.take(entry.name.removeprefix("./"), entry.size, stream.read)
        except DAMAGED as error:
            told = shortened(str(error))
            raise AutopruneError(f"{self.name}: expected logs as a tar, got bytes that are none ({told}).") from error

    def _started(self, line: str, errors: IO[bytes], stdin: int) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(self.command(line), stdin=stdin, stdout=subprocess.PIPE, stderr=errors)
        except FileNotFoundError as error:
            raise missing("ssh") from error


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the owner's name and number: they mean nothing at the far end."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info

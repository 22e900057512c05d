"""Devices at the other end of a wire: the kit is sent once, run there, and its logs brought back."""

from __future__ import annotations

import re
import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.core.files import read_text, replacing
from autoprune.hardware.devices import Progress
from autoprune.hardware.devices.process import Ended, missing, watched
from autoprune.hardware.kit.environment import Environment, environment_of
from autoprune.hardware.kit.manifest import ENVIRONMENT, KIT_ID, LOG_FILE, MANIFEST
from autoprune.hardware.profile import DeviceInfo

SCRIPT = Path(__file__).parents[1] / "kit" / "far" / "environment.sh"
MAX_LOG_BYTES = 16 * 2**20
MAX_LOGS_BYTES = 512 * 2**20
_ID = re.compile(r"[0-9a-f]{16}")
ASK_S = 60.0  # for a command that only looks


class RemoteDevice(ABC):
    """A device behind a program that runs shell commands there.

    Attributes:
        name: of the device, for messages.
        diagnose: a command that shows what is wrong with the connection.
        kind: as profiles name it.
    """

    name: str
    diagnose: str
    kind: str = "cpu"

    @abstractmethod
    def command(self, line: str) -> list[str]:
        """The program and arguments that run a shell command line there."""

    @abstractmethod
    def place(self, kit_id: str) -> str:
        """The folder of a kit there, as it stands in a shell command line."""

    @abstractmethod
    def lost(self, ended: Ended) -> bool:
        """Whether it was the connection that failed, and not what ran there."""

    @abstractmethod
    def send(self, folder: Path, place: str) -> Ended:
        """Copy a kit's folder there, its manifest last."""

    @abstractmethod
    def fetch(self, place: str, into: Path) -> Ended:
        """Bring the kit's logs and environment into a folder here, as `Kept` takes them."""

    def describe(self) -> DeviceInfo:
        """Processor, cores, memory and vector extensions."""
        return self._environment().device

    def environment(self) -> dict[str, str]:
        """System, governor and load."""
        return self._environment().values

    def run_kit(self, folder: Path, progress: Progress | None = None) -> Failure | None:
        """As `Device.run_kit`; what is there of an earlier call is gone on with."""
        place = self.place(checked_id(folder))
        found = watched(self.command(f"test -f {place}/{MANIFEST}"))
        if self.lost(found):
            return self._failure(found)
        if found.status != 0 and (failure := self._failure(self.send(folder, place))) is not None:
            return failure
        ran = watched(self.command(f"cd {place} && exec sh run.sh"), progress)
        if self.lost(ran):
            return self._failure(ran)
        fetched = self.fetch(place, folder)  # what is done is brought back even where the rest went wrong
        return self._failure(ran) or self._failure(fetched)

    def _environment(self) -> Environment:
        command = self.command(f"sh -c {shlex.quote(SCRIPT.read_text(encoding='utf-8'))}")
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_S, check=False)
        except FileNotFoundError as error:
            raise missing(command[0]) from error
        except subprocess.TimeoutExpired as error:
            raise AutopruneError(f"{self.name} did not answer within {ASK_S:.0f} s. See: {self.diagnose}") from error
        said = " ".join(done.stderr.decode("utf-8", errors="replace").split())[-400:]
        failure = self._failure(Ended(done.returncode, said))
        if failure is not None:
            raise AutopruneError(str(failure))
        return environment_of(done.stdout.decode("utf-8", errors="replace"), self.kind)

    def _failure(self, ended: Ended) -> Failure | None:
        """What went wrong, and the command that shows more."""
        if ended.status == 0:
            return None
        said = ended.said or f"status {ended.status}, no message"
        if self.lost(ended):
            after = f" after {ended.done} of {ended.total} logs" if ended.total else ""
            return Failure("connection", f"{self.name}: no connection{after}: {said}", f"see: {self.diagnose}")
        return Failure("run", f"{self.name}: the kit ended with status {ended.status}: {said}", f"see: {self.diagnose}")


def checked_id(folder: Path) -> str:
    """The kit's id, which becomes part of commands."""
    found = read_text(folder / KIT_ID, "kit", 64).strip()
    if _ID.fullmatch(found) is None:
        raise InputError(f"kit {folder}, {KIT_ID}: expected 16 hex digits, got {found!r}. Write the kit anew.")
    return found


class Kept:
    """Files that come from a device into a kit's folder: logs and the environment, of bounded size, nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._left = folder, MAX_LOGS_BYTES

    def take(self, name: str, size: int, read: Callable[[], bytes]) -> None:
        """Write a file where it is one of those; others are not read."""
        if LOG_FILE.fullmatch(name) is None and name != ENVIRONMENT:
            return
        self._left -= size
        if not 0 <= size <= MAX_LOG_BYTES or self._left < 0:
            raise AutopruneError(f"kit {self._folder}: expected logs, got more bytes than all logs have, at '{name}'.")
        with replacing(self._folder / name) as file:
            file.write(read())

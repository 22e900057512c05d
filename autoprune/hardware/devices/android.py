"""An Android device behind `adb`. Its command lines are tested against a local shell; it has not been run on a device.

Kits for it are of runtimes whose tool is a program (`litert`, `executorch`, `ncnn`): build the tool for the device and
put it into the kit's folder; it is pushed with the kit.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from autoprune.core.errors import InputError
from autoprune.hardware.devices.process import Ended, watched
from autoprune.hardware.devices.remote import Kept, RemoteDevice
from autoprune.hardware.kit.manifest import ENVIRONMENT, LOGS

BASE = "/data/local/tmp/autoprune"  # where the shell's user may write and run programs
_SERIAL = re.compile(r"[A-Za-z0-9][\w.:-]*")
_SAYS_LOST = re.compile(
    r"(^|\s)(error: |adb: )?(no devices|device .*(not found|offline|unauthorized)|more than one device)"
)


class AndroidDevice(RemoteDevice):
    """The phone that `adb` reaches.

    Args:
        serial: as `adb devices` lists it; may be left out where there is one device only.
        base: folder there.

    Raises:
        InputError: not a serial number.
    """

    kind = "mobile"

    def __init__(self, serial: str = "", base: str = BASE) -> None:
        if serial and _SERIAL.fullmatch(serial) is None:
            raise InputError(
                f"device: expected android or android:serial, got 'android:{serial[:80]}'. See: adb devices"
            )
        self._adb = ["adb", *(("-s", serial) if serial else ())]
        self._base = base
        self.name = f"android {serial}".strip()
        self.diagnose = "adb devices -l"

    def command(self, line: str) -> list[str]:
        """`adb shell line`."""
        return [*self._adb, "shell", line]

    def place(self, kit_id: str) -> str:
        """A folder among the shell's temporary files."""
        return f"{self._base}/{kit_id}"

    def lost(self, ended: Ended) -> bool:
        """adb has no status of its own; its words tell."""
        return ended.status != 0 and _SAYS_LOST.search(ended.said) is not None

    def send(self, folder: Path, place: str) -> Ended:
        """`adb push`, into a folder that takes its name when all of it is there."""
        fresh = watched(self.command(f"rm -rf {place}.part && mkdir -p {place}.part"))
        if fresh.status != 0:
            return fresh
        pushed = watched([*self._adb, "push", f"{folder}/.", f"{place}.part"])
        return pushed if pushed.status != 0 else watched(self.command(f"rm -rf {place} && mv {place}.part {place}"))

    def fetch(self, place: str, into: Path) -> Ended:
        """`adb pull` into a folder of its own, of which logs are kept."""
        with tempfile.TemporaryDirectory() as folder:
            for name in (LOGS, ENVIRONMENT):
                pulled = watched([*self._adb, "pull", f"{place}/{name}", folder])
                if pulled.status != 0:
                    return pulled
            kept = Kept(into)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and not path.is_symlink():
                    kept.take(path.relative_to(folder).as_posix(), path.stat().st_size, path.read_bytes)
        return Ended(0, "")

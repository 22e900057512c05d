"""Devices: where a runtime runs, one transport a file.

`local` is this machine, `ssh` one behind the program ssh, `android` one behind adb. What runs elsewhere is a kit
(`autoprune.hardware.kit`), so that a device needs a POSIX shell and the runtime, nothing of autoprune.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from autoprune.core.errors import Failure, InputError
from autoprune.core.registry import Registry
from autoprune.hardware.profile import DeviceInfo

HERE = "autoprune.hardware.devices"
Progress = Callable[[str, int, int], None]


class Device(Protocol):
    """A machine that models are timed on; `autoprune.hardware.devices.contract` checks one."""

    def describe(self) -> DeviceInfo:
        """What it is.

        Raises:
            AutopruneError: it cannot be reached.
        """

    def environment(self) -> dict[str, str]:
        """What may change its times: system, governor, load.

        Raises:
            AutopruneError: it cannot be reached.
        """

    def run_kit(self, folder: Path, progress: Progress | None = None) -> Failure | None:
        """Run a kit there until every model has a log, and bring the logs into the kit's folder here.

        Called again after a `Failure` it goes on where it was; finished logs are not run again.

        Args:
            folder: of the kit.
            progress: called with ("kit", logs done, total).
        """


DEVICES: Registry[type[Device]] = Registry(
    "device",
    "autoprune.devices",
    {
        "android": f"{HERE}.android:AndroidDevice",
        "local": f"{HERE}.local:LocalDevice",
        "ssh": f"{HERE}.ssh:SshDevice",
    },
)


def open_device(text: str) -> Device:
    """A device as it is named on the command line: `local`, `ssh:user@host:port`, `android`, `android:serial`.

    Raises:
        InputError: an unknown kind of device, or an address that it cannot have.
    """
    kind, colon, address = text.partition(":")
    made: Callable[..., Device] = DEVICES.get(kind)
    if not colon:
        return made()
    if kind == "local":
        raise InputError(f"device '{text}': expected 'local' without an address. Reach others as ssh:user@host.")
    return made(address)

"""Devices: where a runtime runs, one transport a file."""

from __future__ import annotations

from typing import Protocol

from autoprune.core.registry import Registry
from autoprune.hardware.profile import DeviceInfo


class Device(Protocol):
    """A machine that models are timed on."""

    def describe(self) -> DeviceInfo:
        """What it is."""

    def environment(self) -> dict[str, str]:
        """What may change its times: system, governor, load."""


DEVICES: Registry[type[Device]] = Registry(
    "device", "autoprune.devices", {"local": "autoprune.hardware.devices.local:LocalDevice"}
)

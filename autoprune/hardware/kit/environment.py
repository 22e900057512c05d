"""`environment.txt` of a kit, and what a device says of itself: the `key: value` lines of `far/environment.sh`."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.hardware.devices.local import FEATURES
from autoprune.hardware.profile import DeviceInfo

KEPT = ("system", "governor", "load", "date", "tool")
MAX_CHARACTERS = 200
_MOST_CORES, _MOST_KB = 1 << 16, 1 << 40


@dataclass(frozen=True)
class Environment:
    """The machine at the far end.

    Attributes:
        device: what it is.
        values: what may change its times.
    """

    device: DeviceInfo
    values: dict[str, str]


def environment_of(text: str, kind: str = "cpu") -> Environment:
    """What the lines say; what they leave out is left out."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), "".join(c for c in value.strip() if c.isprintable()))
    flags = set((found.get("cpuinfo flags") or found.get("cpuinfo Features") or "").split())
    machine = found.get("machine", "unknown")[:64]
    named = (
        found.get("board"),
        found.get("cpuinfo model name"),
        found.get("cpuinfo Model"),
        found.get("cpuinfo Hardware"),
    )
    device = {
        "name": machine,
        "kind": kind,
        "processor": next((name for name in named if name), machine)[:MAX_CHARACTERS],
        "cores": max(_count(found.get("cores"), _MOST_CORES), 1),
        "memory_bytes": 1024 * _count(found.get("memory_kb"), _MOST_KB),
        "features": tuple(feature for feature in FEATURES if feature in flags),
    }
    values = {key: found[key][:MAX_CHARACTERS] for key in KEPT if found.get(key)}
    return Environment(DeviceInfo.model_validate(device), values)


def _count(text: str | None, most: int) -> int:
    """A whole number from a line; 0 where there is none."""
    return min(int(text), most) if text and text.isascii() and text.isdigit() and len(text) < 16 else 0

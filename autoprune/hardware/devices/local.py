"""This machine."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import metadata
from pathlib import Path

from autoprune.core.errors import Failure
from autoprune.hardware.devices import Progress
from autoprune.hardware.devices.process import run_here
from autoprune.hardware.profile import DeviceInfo

FEATURES = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "asimddp")

_CPU = "/sys/devices/system/cpu"
# What may change times -> where Linux says it.
_STATES = {
    "governor": f"{_CPU}/cpu0/cpufreq/scaling_governor",
    "smt": f"{_CPU}/smt/control",
    "cgroup_cpu_max": "/sys/fs/cgroup/cpu.max",
    "cgroup_memory_max": "/sys/fs/cgroup/memory.max",
}
_TURBO = {
    f"{_CPU}/intel_pstate/no_turbo": {"0": "on", "1": "off"},
    f"{_CPU}/cpufreq/boost": {"1": "on", "0": "off"},
}


class LocalDevice:
    """The machine autoprune runs on."""

    def describe(self) -> DeviceInfo:
        """Processor, usable cores, memory and vector extensions."""
        info = _cpu_info()
        flags = set(info.get("flags", info.get("Features", "")).split())
        processor = info.get("model name") or platform.processor() or platform.machine()
        return DeviceInfo(
            name=platform.machine(),
            kind="cpu",
            processor=processor,
            cores=_usable_cores(),
            memory_bytes=_memory_bytes(),
            features=tuple(feature for feature in FEATURES if feature in flags),
        )

    def environment(self) -> dict[str, str]:
        """System, versions, frequency governor, turbo, hyperthreads, limits of the container, and load."""
        found = {"system": platform.platform(), "python": platform.python_version(), **_versions()}
        found |= {name: text for name, path in _STATES.items() if (text := _text(path))}
        for path, words in _TURBO.items():
            if text := _text(path):
                found["turbo"] = words.get(text, text)
        if hasattr(os, "getloadavg"):
            found["load_1min"] = f"{os.getloadavg()[0]:.2f}"
        return found

    def run_kit(self, folder: Path, progress: Progress | None = None) -> Failure | None:
        """As by hand: `sh run.sh` in the kit's folder."""
        return run_here(folder, progress)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("numpy", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cpu_info() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0

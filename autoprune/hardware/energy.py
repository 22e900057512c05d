"""Energy of a run, where the machine counts it: Linux's powercap counters (RAPL) and NVIDIA's (NVML).

Both count what the whole package or card takes, idle parts and other processes among it, since they were switched on;
RAPL's counters move about every millisecond, NVML's every 20 to 100. Hence many runs between two readings.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.core.errors import Failure
from autoprune.hardware.runtimes import Runner

POWERCAP = Path("/sys/class/powercap")
LEAST_US = 500_000.0  # of runs between two readings: the counters' steps are then below a fifth of it, mostly far below
_DOMAINS = ("package", "dram")  # cores and uncore are part of the package; psys counts all of it once more


@dataclass(frozen=True)
class Counter:
    """One counter.

    Attributes:
        name: of what it counts.
        read_uj: its reading.
        range_uj: where it starts again from zero; 0 where it never does.
    """

    name: str
    read_uj: Callable[[], float]
    range_uj: float = 0.0

    def between_uj(self, before_uj: float, after_uj: float) -> float:
        """What was counted between two readings, at most one of its ranges apart."""
        return after_uj - before_uj + (self.range_uj if after_uj < before_uj else 0.0)


@dataclass(frozen=True)
class EnergyMeter:
    """The counters of a device, read together.

    Attributes:
        source: "rapl" or "nvml", for the environment of a profile.
        counters: what is added up.
    """

    source: str
    counters: Sequence[Counter]

    def joules(self, run: Callable[[], object]) -> float:
        """What the device takes while `run` runs.

        Raises:
            OSError: a counter can no longer be read.
        """
        before = [counter.read_uj() for counter in self.counters]
        run()
        after = [counter.read_uj() for counter in self.counters]
        parts = zip(self.counters, before, after, strict=True)
        return sum(counter.between_uj(first, last) for counter, first, last in parts) / 1e6

    def run_uj(self, runner: Runner, least_us: float = LEAST_US) -> float:
        """Energy of one run, microjoules: the mean over as many as take `least_us`, after some that warm up.

        Args:
            runner: a compiled model.
            least_us: time to spend on runs between the two readings.

        Raises:
            OSError: a counter can no longer be read.
        """
        one = max(float(runner.run_us(10).mean()), 0.1)
        runs = max(10, int(least_us / one) + 1)
        return 1e6 * self.joules(lambda: runner.run_us(runs)) / runs


def available_meter(device: str = "cpu", powercap: Path = POWERCAP) -> EnergyMeter | Failure:
    """The meter of a device; a `Failure` that says why where there is none.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        powercap: folder of Linux's power zones.
    """
    if device == "cpu":
        return _rapl(powercap)
    kind, _, place = device.partition(":")
    if kind == "cuda" and (place.isdigit() or not place):
        return _nvml(int(place or 0))
    return Failure("unsupported", f"energy: expected the device cpu, cuda or cuda:<number>, got '{device}'")


def _rapl(folder: Path) -> EnergyMeter | Failure:
    """The packages of all sockets and their memory, where that is counted apart."""
    counters, barred = [], []
    for zone in sorted(folder.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text(encoding="utf-8").strip()
            if not name.startswith(_DOMAINS):
                continue
            counter = _zone(zone, name)
            counter.read_uj()
            counters.append(counter)
        except PermissionError:
            barred.append(zone / "energy_uj")
        except (OSError, ValueError):
            continue  # a zone without a counter
    if barred:
        # Some of the counters without the others would be a wrong sum.
        return Failure("permission", f"energy: cannot read {barred[0]}", f"as root: chmod a+r {folder}/*/energy_uj")
    if not counters:
        return Failure("unsupported", f"energy: no power zone that counts energy in {folder}")
    return EnergyMeter("rapl", tuple(counters))


def _zone(zone: Path, name: str) -> Counter:
    def number(file: str) -> float:
        return float((zone / file).read_text(encoding="utf-8"))

    return Counter(f"{zone.name} {name}", lambda: number("energy_uj"), number("max_energy_range_uj"))


def _nvml(place: int) -> EnergyMeter | Failure:
    """The card that torch numbers so: NVML counts cards that CUDA_VISIBLE_DEVICES hides."""
    import torch

    if place >= torch.cuda.device_count():
        return Failure("unsupported", f"energy: no CUDA device {place}")
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return Failure("unsupported", "energy: the package pynvml is not installed", "pip install nvidia-ml-py")
    try:
        nvml.nvmlInit()
        card = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(place).uuid}")
        counter = Counter(f"cuda:{place}", lambda: 1e3 * nvml.nvmlDeviceGetTotalEnergyConsumption(card))
        counter.read_uj()
    except nvml.NVMLError as error:  # cards before Volta have no counter
        return Failure("unsupported", f"energy: NVML gives none for CUDA device {place}: {error}")
    return EnergyMeter("nvml", (counter,))

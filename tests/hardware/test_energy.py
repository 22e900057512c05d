"""Energy from counters: powercap-shaped folders, and a library in the place of NVIDIA's."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoprune.core.errors import Failure
from autoprune.hardware.energy import EnergyMeter, available_meter

RANGE = 262_143_328_850


def zone(folder: Path, number: str, name: str, energy_uj: int) -> Path:
    made = folder / f"intel-rapl:{number}"
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "energy_uj").write_text(f"{energy_uj}\n")
    (made / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return made


def two_sockets(folder: Path) -> list[Path]:
    found = [
        zone(folder, "0", "package-0", 1_000),
        zone(folder, "0:0", "core", 10),
        zone(folder, "0:1", "dram", 500),
        zone(folder, "1", "package-1", RANGE - 100),
        zone(folder, "2", "psys", 77),
    ]
    (folder / "intel-rapl").mkdir()  # what holds the zones counts nothing
    (folder / "intel-rapl:3").mkdir()
    return found


def spend(place: Path, uj: int) -> None:
    counter = place / "energy_uj"
    counter.write_text(f"{(int(counter.read_text()) + uj) % RANGE}\n")


def meter_of(folder: Path) -> EnergyMeter:
    meter = available_meter("cpu", folder)
    assert isinstance(meter, EnergyMeter)
    return meter


def test_packages_and_memory_are_added_up_past_the_end_of_a_counter(tmp_path: Path) -> None:
    package, core, memory, other, whole = two_sockets(tmp_path)
    meter = meter_of(tmp_path)
    assert [counter.name for counter in meter.counters] == [
        "intel-rapl:0 package-0", "intel-rapl:0:1 dram", "intel-rapl:1 package-1",
    ]  # fmt: skip

    def run() -> None:
        spend(package, 2_000_000)
        spend(core, 1_500_000)
        spend(memory, 500_000)
        spend(other, 1_000_000)  # over its end
        spend(whole, 9_000_000)

    assert meter.joules(run) == pytest.approx(3.5)


def test_a_run_is_the_mean_of_many(tmp_path: Path) -> None:
    package = zone(tmp_path, "0", "package-0", 0)

    class Steady:
        runs = 0

        def run_us(self, count: int) -> np.ndarray:
            self.runs += count
            spend(package, 40 * count)
            return np.full(count, 100.0)

    runner = Steady()
    assert meter_of(tmp_path).run_uj(runner, least_us=20_000.0) == pytest.approx(40.0)
    assert runner.runs == 10 + 201


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_counter_that_may_not_be_read(tmp_path: Path) -> None:
    (zone(tmp_path, "0", "package-0", 0) / "energy_uj").chmod(0)
    refused(tmp_path)


def test_a_counter_that_the_system_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    barred = zone(tmp_path, "0", "package-0", 0) / "energy_uj"
    zone(tmp_path, "1", "package-1", 0)
    read = Path.read_text

    def guarded(path: Path, encoding: str | None = None) -> str:
        if path == barred:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, encoding)

    monkeypatch.setattr(Path, "read_text", guarded)
    refused(tmp_path)


def refused(folder: Path) -> None:
    found = available_meter("cpu", folder)
    assert isinstance(found, Failure)
    assert found.kind == "permission"
    assert found.message == f"energy: cannot read {folder}/intel-rapl:0/energy_uj"
    assert "chmod a+r" in found.hint


def test_machines_without_a_counter(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        found = available_meter("cpu", folder)
        assert isinstance(found, Failure)
        assert found.message == f"energy: no power zone that counts energy in {folder}"
    unknown = available_meter("tpu")
    assert isinstance(unknown, Failure)
    assert "expected the device cpu, cuda or cuda:<number>, got 'tpu'" in unknown.message


class NvmlError(Exception):
    """As the library raises them."""


def library(readings_mj: list[float]) -> SimpleNamespace:
    """The four names that are used of pynvml."""

    def total(card: str) -> float:
        assert card == "card of GPU-12-34"
        if not readings_mj:
            raise NvmlError("Not Supported")
        return readings_mj.pop(0)

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: f"card of {uuid}",
        nvmlDeviceGetTotalEnergyConsumption=total,
    )


def test_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: SimpleNamespace(uuid="12-34"))
    monkeypatch.setitem(sys.modules, "pynvml", library([1_000, 2_000, 5_500]))
    meter = available_meter("cuda:1")
    assert isinstance(meter, EnergyMeter)
    assert meter.joules(lambda: None) == pytest.approx(3.5)
    for module, place, message in (
        (library([]), "cuda", "NVML gives none for CUDA device 0: Not Supported"),
        (None, "cuda", "the package pynvml is not installed"),
        (library([]), "cuda:2", "no CUDA device 2"),
    ):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        found = available_meter(place)
        assert isinstance(found, Failure)
        assert message in found.message

"""Energy in a profile, from a counter that counts ten watts whatever runs (this machine may have none)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from autoprune.core.errors import Failure
from autoprune.hardware.cost import predict_cost
from autoprune.hardware.energy import Counter, EnergyMeter
from autoprune.hardware.profile import HardwareProfile
from autoprune.hardware.profiling import power, profile_graph, run
from tests.hardware.profiling.quick import quick
from tests.hardware.samples import dense_of, graph_of

WATTS = 10.0


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "probe_quantum", lambda runtime, settings, deadline: 1)
    monkeypatch.setattr(power, "LEAST_US", 0.0)
    monkeypatch.setattr(EnergyMeter.run_uj, "__defaults__", (5_000.0,))


def test_kernels_are_given_energy_and_costs_tell_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meter = EnergyMeter("rapl", (Counter("package", lambda: 1e6 * WATTS * time.perf_counter()),))
    monkeypatch.setattr(power, "available_meter", lambda device: meter)
    graph = graph_of("Residual")
    widths = {group: (size,) for group, size in dense_of("Residual").items()}
    journal = tmp_path / "journal.jsonl"
    profile = profile_graph(graph, quick(whole_models=4), widths=widths, journal=journal)
    assert profile.header.environment["energy"] == "rapl"
    powers = [row.energy_uj / row.p50_us for row in profile.kernels if row.energy_uj is not None]
    assert powers
    assert np.median(powers) > WATTS / 3  # the rows' times are less what a kernel pays alone
    profile.save(tmp_path / "saved")
    cost = predict_cost(graph, {}, HardwareProfile.load(tmp_path / "saved"))
    assert cost.energy_uj is not None
    assert cost.energy_uj > 0
    again = profile_graph(graph, quick(whole_models=4), widths=widths, journal=journal)
    known = {(row.family, row.sizes): row.energy_uj for row in profile.kernels if row.within == "alone"}
    assert known == {(row.family, row.sizes): row.energy_uj for row in again.kernels if row.within == "alone"}


def test_without_a_counter_a_profile_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "available_meter", lambda device: Failure("unsupported", "energy: no power zone"))
    widths = {group: (size,) for group, size in dense_of("Sequential").items()}
    profile = profile_graph(graph_of("Sequential"), quick(whole_models=0), widths=widths)
    assert profile.header.environment["energy"] == "energy: no power zone"
    assert all(row.energy_uj is None for row in profile.kernels)

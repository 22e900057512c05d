"""What a profile learns from whole models, against a machine whose times are formulas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoprune.graph import DependencyGraph
from autoprune.graph.fusion import kernel_slots
from autoprune.hardware.calibration import calibrated
from autoprune.hardware.latency import LatencyTable
from autoprune.hardware.measure import Measurement
from autoprune.hardware.observation import Observation
from autoprune.hardware.profile import HardwareProfile
from tests.hardware.samples import graph_of, header, row, synthetic_profile

Widths = np.ndarray[tuple[int, int], np.dtype[np.int64]]
FACTORS = {"conv": 1.3, "pointwise": 0.7, "depthwise": 1.6}


def policies(graph: DependencyGraph, count: int, seed: int) -> Widths:
    random = np.random.default_rng(seed)
    return np.stack([random.integers(max(1, g.size // 4), g.size + 1, count) for g in graph.groups.values()], axis=1)


def alone_us(family: str, sizes: tuple[int, ...]) -> float:
    """A time that grows with the widths and differs a little between families."""
    return 5.0 + len(family) % 5 + 0.3 * float(np.prod(sizes)) ** 0.8


def observations(graph: DependencyGraph, widths: Widths, nodes: bool, seed: int = 0) -> list[Observation]:
    """Models on a machine where every class takes its own factor longer inside, and 20 us are nobody's."""
    random = np.random.default_rng(seed)
    slots = kernel_slots(graph.program)
    found = []
    for row_ in widths.tolist():
        named = dict(zip(graph.groups, row_, strict=True))
        kernels = [slot.kernel(named) for slot in slots]
        inside = [
            FACTORS.get(slot.operator, 1.0) * alone_us(k.family, k.sizes)
            for slot, k in zip(slots, kernels, strict=True)
        ]
        noise = float(np.exp(random.normal(0, 0.01)))
        total = noise * (sum(inside) + 20.0)
        measured = Measurement(total, 1.1 * total, 1.15 * total, 1.3 * total, total, 0.1, 50)
        given = {i: noise * t for i, t in enumerate(inside)} if nodes else None
        found.append(Observation(0, tuple(row_), measured, given))
    return found


def off(profile: HardwareProfile, graph: DependencyGraph, unseen: list[Observation], percentile: str = "p50") -> float:
    widths = np.array([item.widths for item in unseen])
    predicted = LatencyTable(profile, graph).latency_us(widths)[percentile]
    times = np.array([item.measured.us(percentile) for item in unseen])
    return float(np.abs(predicted / times - 1).mean())


@pytest.mark.parametrize("name", ["Depthwise", "Residual"])
@pytest.mark.parametrize("nodes", [False, True])
def test_whole_models_correct_what_kernels_alone_get_wrong(name: str, nodes: bool) -> None:
    graph = graph_of(name)
    widths = {g.id: tuple(np.unique(np.linspace(g.size // 4, g.size, 4).astype(int))) for g in graph.groups.values()}
    bare = synthetic_profile(graph, dict(widths), alone_us)
    profile = calibrated(bare, [graph], observations(graph, policies(graph, 60, seed=1), nodes))
    unseen = observations(graph, policies(graph, 40, seed=2), nodes=False, seed=3)
    for percentile in ("p50", "p95"):
        assert off(profile, graph, unseen, percentile) < 0.03
    compared = profile.header.validation.compared
    assert set(compared) == {
        f"{s}{c}" for s in (("alone", "inside") if nodes else ("alone",)) for c in ("", ", corrected")
    }
    assert profile.header.validation.residuals["p50"].mean_absolute == min(compared.values())
    low, high = LatencyTable(profile, graph).interval_us(np.array([item.widths for item in unseen]))["p50"]
    times = np.array([item.measured.p50_us for item in unseen])
    assert 0.8 <= ((low <= times) & (times <= high)).mean() <= 1.0


def test_a_sentinel_that_models_slow_down_moves_no_prediction() -> None:
    """It reads 1.1 beside a model on a machine as fast as ever; only what it reads more or less is the machine's."""
    graph = graph_of("Residual")
    seen = []
    for item, speed in zip(
        observations(graph, policies(graph, 60, seed=1), nodes=True), [0.9, 1.0, 1.1] * 20, strict=True
    ):
        seen.append(replace(item, measured=replace(item.measured.scaled(speed), pace=1.1 * speed)))
    profile = calibrated(HardwareProfile(header(), ()), [graph], seen)
    unseen = observations(graph, policies(graph, 40, seed=2), nodes=False, seed=3)
    assert off(profile, graph, unseen) < 0.03
    residuals = profile.header.validation.residuals["p50"]
    assert -residuals.low == pytest.approx(residuals.high, abs=0.05)  # the clock's times, at every speed
    assert residuals.high > 0.08


def test_the_way_that_predicts_best_is_kept_and_survives_being_written(tmp_path: object) -> None:
    graph = graph_of("Residual")
    bare = HardwareProfile(header(), ())  # nothing was timed alone
    profile = calibrated(bare, [graph], observations(graph, policies(graph, 60, seed=1), nodes=True))
    assert profile.header.within == "model"
    assert all(r.within == "model" for r in profile.kernels)
    assert min(profile.header.validation.compared, key=lambda n: profile.header.validation.compared[n]).startswith(
        "inside"
    )
    profile.save(f"{tmp_path}/saved")
    again = HardwareProfile.load(f"{tmp_path}/saved")
    unseen = policies(graph, 10, seed=5)
    np.testing.assert_allclose(
        LatencyTable(again, graph).latency_us(unseen)["p50"], LatencyTable(profile, graph).latency_us(unseen)["p50"]
    )
    assert again.id == profile.id


def test_rows_alone_stay_beside_rows_inside_models() -> None:
    graph = graph_of("Depthwise")
    ends = {g.id: (g.size // 4, g.size) for g in graph.groups.values()}
    bare = synthetic_profile(graph, dict(ends), alone_us)
    profile = calibrated(bare, [graph], observations(graph, policies(graph, 60, seed=1), nodes=True))
    assert [r for r in profile.kernels if r.within == "alone"] == list(bare.kernels)


def test_models_that_were_profiled_together_keep_what_is_their_own(tmp_path: Path) -> None:
    names = ("Residual", "Depthwise")
    graphs = [graph_of(name) for name in names]
    ends = [{g.id: (g.size // 4, g.size) for g in graph.groups.values()} for graph in graphs]
    parts = [synthetic_profile(graph, dict(own), alone_us) for graph, own in zip(graphs, ends, strict=True)]
    rows = {(r.family, r.sizes): r for part in parts for r in part.kernels}
    seen = []
    for target, (graph, slower) in enumerate(zip(graphs, (1.0, 1.4), strict=True)):  # a model's own pace
        for item in observations(graph, policies(graph, 40, seed=target), nodes=True):
            seen.append(replace(item, target=target, measured=item.measured.scaled(slower)))
    calibrated(HardwareProfile(header(), tuple(rows.values())), graphs, seen).save(tmp_path / "saved")
    profile = HardwareProfile.load(tmp_path / "saved")
    assert len(profile.header.known) == 2
    for graph, slower in zip(graphs, (1.0, 1.4), strict=True):
        unseen = observations(graph, policies(graph, 30, seed=9), nodes=False, seed=4)
        slowed = [replace(item, measured=item.measured.scaled(slower)) for item in unseen]
        assert off(profile, graph, slowed) < 0.03
    own, other = (LatencyTable(profile, graph_of(name)) for name in ("Residual", "Sequential"))
    widths = [np.array([[g.size for g in table.graph.groups.values()]]) for table in (own, other)]
    spans = [table.interval_us(w)["p50"] for table, w in zip((own, other), widths, strict=True)]
    assert spans[0][1] / spans[0][0] < spans[1][1] / spans[1][0]  # of models that were not profiled less is known


def test_few_models_fit_a_composition_only() -> None:
    graph = graph_of("Residual")
    ends = {g.id: (1, g.size) for g in graph.groups.values()}
    bare = synthetic_profile(graph, dict(ends), alone_us)
    profile = calibrated(bare, [graph], observations(graph, policies(graph, 6, seed=1), nodes=True))
    assert profile.kernels == bare.kernels
    assert set(profile.header.validation.compared) == {"alone"}
    assert profile.header.composition["p50"].sum_factor > 0


def test_without_models_a_profile_stays_as_it_is() -> None:
    bare = HardwareProfile(header(), (row("x0:(1,c0);y0:(1,c0)=relu.default(x0)", (4,), 1.0),))
    profile = calibrated(bare, [], [], notes=("refused",))
    assert profile.kernels == bare.kernels
    assert profile.header.validation.notes == ("refused",)

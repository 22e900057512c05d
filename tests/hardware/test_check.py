"""A profile's kernels timed again: on a runtime whose times are known, and for real."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.graph.kernel import Kernel
from autoprune.hardware.check import alone_us, check_profile, compare, sample
from autoprune.hardware.devices.local import LocalDevice
from autoprune.hardware.edges import Edges
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.measure import Measurement
from autoprune.hardware.plan import PlannedKernel
from autoprune.hardware.profile import DeviceInfo, HardwareProfile, ProtocolInfo, RuntimeInfo
from autoprune.hardware.profiling.rows import timed_row
from autoprune.hardware.runtimes import RUNTIMES, Floats, RunSettings
from autoprune.hardware.runtimes.model import Model
from tests.hardware.profiling.quick import TINY
from tests.hardware.samples import header, row

CONV = "x0:(1,c0,8,8);y0:(1,c1,8,8)=conv2d.default(x0,w(c1,c0,3,3),w(c1,),(1,1),(1,1),(1,1),1)"
LINEAR = "x0:(1,c0);y0:(1,c1)=linear.default(x0,w(c1,c0),w(c1,))"
PROTOCOL = ProtocolInfo(
    sessions=3, minimum_runs=50, warmup_runs=1, warmup_us=0, empty_run_us=2.0, edge_us=0.5, edge_us_per_byte=1e-4
)
Factor = Callable[[KernelRow], float | None]


def profile(**fields: object) -> HardwareProfile:
    """Sixteen kernels of this machine."""
    rows = [row(CONV, (8, width), 5.0 * width) for width in range(1, 9)]
    rows += [row(LINEAR, (16, width), 1.0 + width, operator="linear") for width in range(1, 9)]
    return HardwareProfile(header(device=LocalDevice().describe(), protocol=PROTOCOL, **fields), tuple(rows))


class Ticking:
    """A runner of one time."""

    def __init__(self, time_us: float) -> None:
        self._time_us = time_us

    def run_us(self, count: int) -> Floats:
        return np.full(count, self._time_us)


class Clockwork:
    """A runtime on which every kernel takes what the profile says times a factor, or is refused."""

    def __init__(self, known: HardwareProfile, factor: Factor) -> None:
        self._times = {
            Model.of_kernel(Kernel(own.family, own.sizes)).onnx(): (own, alone_us(own, known.header))
            for own in known.kernels
        }
        self._factor = factor

    def describe(self, settings: RunSettings) -> RuntimeInfo:
        return RuntimeInfo(name="onnxruntime", version="2")

    def compile(self, model: Model, settings: RunSettings) -> Ticking | Failure:
        own, time_us = self._times[model.onnx()]
        factor = self._factor(own)
        return Failure("compile", f"no {own.operator} here") if factor is None else Ticking(factor * time_us)

    def node_us(self, model: Model, settings: RunSettings, runs: int) -> Mapping[str, Floats] | Failure:
        return Failure("unsupported", "no nodes")


def use(monkeypatch: pytest.MonkeyPatch, known: HardwareProfile, factor: Factor) -> None:
    monkeypatch.setattr(RUNTIMES, "get", lambda name: lambda: Clockwork(known, factor))


def test_a_profile_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    known = profile()
    use(monkeypatch, known, lambda own: 1.02)
    steps: list[tuple[str, int, int]] = []
    found = check_profile(known, protocol=TINY, progress=lambda *step: steps.append(step))
    assert found.holds
    assert (found.kernels, found.within, found.failures) == (16, 1.0, ())
    assert found.median_ratio == found.low == found.high == pytest.approx(1.02)
    assert found.differences["runtime version"] == ("1", "2")
    assert steps[-1] == ("kernels", 16, 16)
    assert found.to_data()["holds"] is True
    assert found.to_data()["differences"]["runtime version"] == {"profile": "1", "here": "2"}


@pytest.mark.parametrize(
    ("factor", "median", "within"),
    [
        (lambda own: 1.5, 1.5, 0.0),
        (lambda own: 0.8, 0.8, 0.0),
        (lambda own: {0: 0.7, 1: 1.0, 2: 1.3}[own.sizes[1] % 3], 1.0, 0.375),  # right on average, wrong mostly
    ],
)
def test_profiles_that_do_not_hold(
    monkeypatch: pytest.MonkeyPatch, factor: Factor, median: float, within: float
) -> None:
    known = profile()
    use(monkeypatch, known, factor)
    found = check_profile(known, protocol=TINY)
    assert not found.holds
    assert found.median_ratio == pytest.approx(median)
    assert found.within == pytest.approx(within)
    assert found.low <= found.median_ratio <= found.high


def test_kernels_that_are_refused_are_told_and_the_rest_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    known = profile()
    use(monkeypatch, known, lambda own: None if own.operator == "conv" else 1.0)
    found = check_profile(known, protocol=TINY)
    assert found.holds
    assert (found.kernels, found.failures) == (8, ("compile: no conv here",))
    use(monkeypatch, known, lambda own: None)
    with pytest.raises(AutopruneError, match="refused every kernel, the first with: compile: no"):
        check_profile(known, protocol=TINY)


def test_rows_of_failures_and_of_times_inside_models_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    known = profile()
    other = [replace(known.kernels[0], within="model"), KernelRow.failed(CONV, (8, 9), "conv", "refused", 1.0, 1.0)]
    use(monkeypatch, known, lambda own: 1.0)
    assert check_profile(replace(known, kernels=(*known.kernels, *other)), protocol=TINY).kernels == 16
    with pytest.raises(InputError, match="expected a profile with kernels timed alone, got none"):
        check_profile(replace(known, kernels=tuple(other)), protocol=TINY)


@pytest.mark.parametrize("operator", ["conv", "linear"])
def test_what_was_taken_off_a_row_is_put_back(operator: str) -> None:
    kernel = Kernel(CONV, (8, 4)) if operator == "conv" else Kernel(LINEAR, (16, 4))
    found = Measurement(p50_us=9.0, p90_us=9.0, p95_us=9.0, p99_us=9.0, mean_us=9.0, std_us=0.1, n=10)
    made = timed_row(PlannedKernel(kernel, operator, 0), found, 1.0, 2.0, Edges(0.5, 1e-4))
    assert made.p50_us < 9.0
    assert alone_us(made, header(protocol=PROTOCOL)) == pytest.approx(9.0, abs=0.002)


def test_samples_reach_from_the_shortest_to_the_longest_and_follow_the_seed() -> None:
    rows = [row(CONV, (8, width), float(width)) for width in range(1, 101)]
    found = sample(rows, 10, seed=1)
    assert [int((own.p50_us - 1) // 10) for own in found] == list(range(10))
    assert found == sample(rows[::-1], 10, seed=1) != sample(rows, 10, seed=2)
    assert len(sample(rows[:5], 10, seed=0)) == 5


def test_differences_are_named_where_both_sides_are_known() -> None:
    there = header(
        device=DeviceInfo(name="a", kind="cpu", processor="Old", cores=4, features=("avx2",)),
        runtime=RuntimeInfo(name="onnxruntime", version="1", flags={"threads": "1", "same": "x"}),
        environment={"governor": "performance", "turbo": "on"},
    )
    runtime = RuntimeInfo(name="onnxruntime", version="1", flags={"threads": "2", "same": "x", "new": "y"})
    device: dict[str, Any] = {"processor": "New", "cores": 4, "features": ["avx2", "fma"]}
    found = compare(there, runtime, device, {"governor": "powersave", "load_1min": "3.5"})
    assert found == {
        "processor": ("Old", "New"),
        "features": ("avx2", "avx2 fma"),
        "governor": ("performance", "powersave"),
        "runtime threads": ("1", "2"),
        "load": ("unknown", "3.50 on 4 cores"),
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"provenance": "analytical"}, "expected a profile that was measured, got 'test', which is analytical"),
        ({"provenance": "imported"}, "which is imported: there is nothing to time again"),
        (
            {"device": DeviceInfo(name="Pixel 4", kind="mobile")},
            r"got 'test' of a mobile \(Pixel 4\). Check it on that",
        ),
        ({"runtime": RuntimeInfo(name="abacus", version="1")}, "unknown runtime 'abacus'"),
    ],
)
def test_profiles_that_cannot_be_checked_here(fields: dict[str, Any], expected: str) -> None:
    made = HardwareProfile(header(**fields), profile().kernels)
    with pytest.raises(InputError, match=expected):
        check_profile(made, protocol=TINY)


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(Clockwork):
        def describe(self, settings: RunSettings) -> RuntimeInfo:
            raise AutopruneError("the runtime 'onnxruntime' needs its package: pip install onnxruntime.")

    known = profile()
    monkeypatch.setattr(RUNTIMES, "get", lambda name: lambda: Missing(known, lambda own: 1.0))
    with pytest.raises(InputError, match=r"'test' was measured under onnxruntime: .*pip install onnxruntime"):
        check_profile(known, protocol=TINY)


def test_for_real() -> None:
    """Times mean nothing with so few runs; the ratios are there."""
    found = check_profile(profile(), 6, protocol=TINY)
    assert found.kernels == 6
    assert 0 < found.low <= found.median_ratio <= found.high

"""Profiling for real with a protocol of a few runs: from a model to a saved profile that predicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.graph.fusion import kernel_slots
from autoprune.hardware.latency import LatencyTable
from autoprune.hardware.plan import plan_kernels
from autoprune.hardware.profile import PERCENTILES, HardwareProfile
from autoprune.hardware.profiling import default_name, kernels, profile_graph, profile_graphs, run
from autoprune.hardware.profiling.target import checked_widths
from autoprune.hardware.runtimes import RUNTIMES, Floats, Runner, RunSettings
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.onnxruntime import OnnxRuntime, _Session
from tests.hardware.profiling.quick import quick
from tests.hardware.samples import dense_of, graph_of


@pytest.fixture(autouse=True)
def no_quantum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe takes a second, and is tested by itself."""
    monkeypatch.setattr(run, "probe_quantum", lambda runtime, settings, deadline: 1)


def halves(name: str) -> dict[str, tuple[int, ...]]:
    return {group: (size // 4, size // 2, size) for group, size in dense_of(name).items()}


def test_a_profile_of_a_model_is_measured_saved_and_predicts(tmp_path: Path) -> None:
    graph = graph_of("Residual")
    steps: list[tuple[str, int, int]] = []
    settings = quick(whole_models=6, name="bench")
    profile = profile_graph(graph, settings, widths=halves("Residual"), progress=lambda *step: steps.append(step))
    profile.save(tmp_path)
    loaded = HardwareProfile.load(tmp_path)
    assert loaded.id == profile.id
    assert loaded.header == profile.header
    assert loaded.kernels == profile.kernels
    header = loaded.header
    assert header.provenance == "measured"
    assert set(header.composition) == set(header.validation.residuals) == set(PERCENTILES)
    assert header.validation.models == 6
    assert header.protocol.empty_run_us > 0
    assert header.protocol.seconds > 0
    assert {"cpus", "load_1min_after", "torch", "kernel_runs", "model_runs"} <= set(header.environment)
    assert {stage for stage, _, _ in steps} == {"kernels", "models", "ways to predict"}
    for stage in ("kernels", "models"):
        done = [step for step in steps if step[0] == stage]
        assert done[-1][1] == done[-1][2] > 0
        assert [count for _, count, _ in done] == sorted(count for _, count, _ in done)
    table = LatencyTable(loaded, graph)
    dense = np.array([list(dense_of("Residual").values())])
    assert table.shares(np.concatenate([dense, dense // 2]))["measured"].tolist() == pytest.approx([1.0, 1.0])
    assert table.latency_us(dense)["p50"][0] > 0


def test_a_budget_that_is_spent_leaves_a_coarse_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LIMITS", replace(kernels.LIMITS, count=40))
    graph = graph_of("Sequential")
    profile = profile_graph(graph, quick(budget_s=0.0, whole_models=4))
    dense = dense_of("Sequential")
    planned = plan_kernels(kernel_slots(graph.program), checked_widths(None, dense), dense, 1)
    assert len(profile.kernels) == 40 < len(planned)
    assert sum(item.detail == 0 for item in planned) <= 40
    table = LatencyTable(profile, graph)
    random = np.random.default_rng(0)
    widths = random.integers(2, np.array(list(dense.values())) + 1, size=(50, len(graph.groups)))
    assert (table.shares(widths)["estimated"] < 0.2).all()


def test_several_models_share_a_profile() -> None:
    names = ("Sequential", "Residual")
    targets = [(graph_of(name), {group: (size,) for group, size in dense_of(name).items()}) for name in names]
    profile = profile_graphs(targets, quick(whole_models=8, name="both"))
    assert profile.header.validation.models == 2  # each has one policy
    for name in names:
        dense = np.array([list(dense_of(name).values())])
        assert LatencyTable(profile, graph_of(name)).shares(dense)["measured"][0] == pytest.approx(1.0)
    assert len({(row.family, row.sizes) for row in profile.kernels}) == len(profile.kernels)


def test_whole_models_may_be_left_out() -> None:
    profile = profile_graph(graph_of("Flattened"), quick(whole_models=0), widths={})
    assert profile.header.validation.models == 0
    assert profile.header.validation.residuals == {}
    assert profile.header.composition == {}


def test_settings_reach_the_header() -> None:
    settings = quick(threads=2, batch=3, precision="float16", whole_models=0, description="for a test")
    header = profile_graph(graph_of("Sequential"), settings, widths={}).header
    assert (header.threads, header.batch, header.precision, header.layout) == (2, 3, "float16", "NCHW")
    assert header.name.endswith("-onnxruntime-float16-b3-2t")
    assert header.description == "for a test"
    assert default_name(quick()).endswith("-onnxruntime-1t")


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ({"nothing": (3,)}, r"got \[3\] for 'nothing' \(size unknown\)"),
        ({"stem": (99,)}, r"got \[99\] for 'stem' \(size 8\)"),
    ],
)
def test_widths_that_do_not_fit(widths: dict[str, tuple[int, ...]], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        profile_graph(graph_of("Residual"), widths=widths)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"runtime": "abacus"}, "unknown runtime 'abacus'"),
        ({"precision": "float8"}, "profile: onnxruntime: expected a precision .*'float8'. Choose one"),
        ({"processor": "cuda"}, "profile: onnxruntime: expected a device .*'cuda'. Choose one"),
    ],
)
def test_settings_that_nothing_has(fields: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        profile_graph(graph_of("Residual"), quick(**fields))


class Refusing:
    """A runtime that refuses convolutions."""

    def __init__(self) -> None:
        self._real = OnnxRuntime()

    def describe(self, settings: RunSettings) -> object:
        return self._real.describe(settings)

    def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
        if b"Conv" in model.onnx():
            return Failure("compile", "no convolutions here", "use another runtime")
        return self._real.compile(model, settings)

    def node_us(self, model: Model, settings: RunSettings, runs: int) -> Mapping[str, Floats] | Failure:
        return self._real.node_us(model, settings, runs)


def test_refused_kernels_are_rows_that_predict_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(RUNTIMES, "get", lambda name: Refusing)
    graph = graph_of("Sequential")
    profile = profile_graph(graph, quick(whole_models=3), widths={})
    failed = [row for row in profile.kernels if row.failure]
    assert {row.operator for row in failed} == {"conv"}
    assert {row.operator for row in profile.kernels if not row.failure} == {"pool", "linear"}
    assert all("no convolutions here" in row.failure and row.n == row.p50_us == 0 for row in failed)
    assert "no convolutions here" in profile.header.validation.notes[0]
    assert profile.header.validation.models == 0
    profile.save(tmp_path)
    table = LatencyTable(HardwareProfile.load(tmp_path), graph)
    dense = np.array([list(dense_of("Sequential").values())])
    times, _ = table.slot_us(dense)
    assert (times > 0).all()
    assert table.shares(dense)["estimated"][0] > 0


class LostError(Exception):
    """As runtimes raise: a class of their own."""


def test_kernels_and_models_that_fail_while_they_run_are_rows_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ONNX Runtime for real: sessions with a convolution are lost at their second call, when they are timed."""
    real, calls = _Session.run_us, Counter[int]()

    def run_us(session: _Session, count: int) -> Floats:
        calls[id(session)] += 1
        if any(array.ndim == 4 for array in session._inputs.values()) and calls[id(session)] >= 2:
            raise LostError("device lost")
        return real(session, count)

    monkeypatch.setattr(_Session, "run_us", run_us)
    profile = profile_graph(graph_of("Sequential"), quick(whole_models=3), widths={})
    failed = [row for row in profile.kernels if row.failure]
    assert {row.operator for row in failed} >= {"conv"}
    assert all("run: failed while it ran: LostError: device lost" in row.failure for row in failed)
    assert "linear" in {row.operator for row in profile.kernels if not row.failure}
    assert profile.header.validation.models == 0
    assert any("device lost" in note for note in profile.header.validation.notes)


def test_a_runtime_that_refuses_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    class All(Refusing):
        def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
            small = len(model.onnx()) < 150
            return self._real.compile(model, settings) if small else Failure("compile", "no", "")

    monkeypatch.setattr(RUNTIMES, "get", lambda name: All)
    with pytest.raises(AutopruneError, match="refused every kernel, the first with: compile: no"):
        profile_graph(graph_of("Sequential"), quick(whole_models=0), widths={})

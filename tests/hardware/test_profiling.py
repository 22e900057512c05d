"""Planning, the quantum probe, and profiling for real with a protocol of a few runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.graph.fusion import kernel_slots
from autoprune.hardware import plan, profiling, quantum
from autoprune.hardware.latency import LatencyTable
from autoprune.hardware.measure import Protocol, measure_models
from autoprune.hardware.plan import aligned_widths, plan_kernels, sample_policies
from autoprune.hardware.profile import PERCENTILES, HardwareProfile
from autoprune.hardware.profiling import ProfileSettings, profile_graph, profile_graphs
from autoprune.hardware.quantum import CANDIDATES, PROBED, quantum_of
from autoprune.hardware.runtimes import RUNTIMES, Runner, RunSettings
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.onnxruntime import OnnxRuntime
from tests.hardware.samples import graph_of

TINY = Protocol(sessions=1, minimum_runs=3, maximum_runs=3, warmup_runs=1, warmup_us=0.0, target_us=0.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few runs a kernel: times mean nothing, everything else is real."""
    monkeypatch.setattr(profiling, "KERNEL_PROTOCOL", TINY)
    monkeypatch.setattr(profiling, "MODEL_PROTOCOL", TINY)
    monkeypatch.setattr(profiling, "probe_quantum", lambda runtime, settings: 1)


def dense_of(name: str) -> dict[str, int]:
    return {group.id: group.size for group in graph_of(name).groups.values()}


@pytest.mark.usefixtures("quick")
def test_a_profile_of_a_model_is_measured_saved_and_predicts(tmp_path: Path) -> None:
    graph = graph_of("Residual")
    steps: list[tuple[str, int, int]] = []
    widths = {name: (size // 2, size) for name, size in dense_of("Residual").items()}
    profile = profile_graph(
        graph, widths=widths, whole_models=6, name="bench", progress=lambda *step: steps.append(step)
    )
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
    assert {stage for stage, _, _ in steps} == {"kernels", "models"}
    table = LatencyTable(loaded, graph)
    dense = np.array([list(dense_of("Residual").values())])
    assert table.shares(np.concatenate([dense, dense // 2]))["measured"].tolist() == pytest.approx([1.0, 1.0])
    assert table.latency_us(dense)["p50"][0] > 0


@pytest.mark.usefixtures("quick")
def test_a_budget_that_is_spent_leaves_a_coarse_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "BLOCK", 40)
    graph = graph_of("Sequential")
    profile = profile_graph(graph, budget_s=0.0, whole_models=4)
    planned = plan_kernels(kernel_slots(graph.program), profiling._checked_widths(None, dense_of("Sequential")),
                           dense_of("Sequential"), 1)  # fmt: skip
    assert len(profile.kernels) == 40 < len(planned)
    ends = sum(item.detail == 0 for item in planned)
    sizes = {row.family: [r.sizes for r in profile.kernels if r.family == row.family] for row in profile.kernels}
    assert ends <= 40
    table = LatencyTable(profile, graph)
    random = np.random.default_rng(0)
    widths = random.integers(2, np.array(list(dense_of("Sequential").values())) + 1, size=(50, len(graph.groups)))
    assert sizes
    assert (table.shares(widths)["estimated"] < 0.2).all()


@pytest.mark.usefixtures("quick")
def test_several_models_share_a_profile() -> None:
    names = ("Sequential", "Residual")
    targets = [(graph_of(name), {group: (size,) for group, size in dense_of(name).items()}) for name in names]
    profile = profile_graphs(targets, ProfileSettings(whole_models=8, name="both"))
    assert profile.header.validation.models == 8
    for name in names:
        dense = np.array([list(dense_of(name).values())])
        assert LatencyTable(profile, graph_of(name)).shares(dense)["measured"][0] == pytest.approx(1.0)
    assert len({(row.family, row.sizes) for row in profile.kernels}) == len(profile.kernels)


@pytest.mark.usefixtures("quick")
def test_whole_models_may_be_left_out() -> None:
    profile = profile_graph(graph_of("Flattened"), widths={}, whole_models=0)
    assert profile.header.validation.models == 0
    assert profile.header.validation.residuals == {}
    assert profile.header.composition["p50"].sum_factor == 1.0


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


def test_unknown_runtime() -> None:
    with pytest.raises(InputError, match="unknown runtime 'abacus'"):
        profile_graph(graph_of("Residual"), runtime="abacus")


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


@pytest.mark.usefixtures("quick")
def test_refused_kernels_are_left_out_and_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUNTIMES, "get", lambda name: Refusing)
    profile = profile_graph(graph_of("Sequential"), widths={}, whole_models=3)
    assert {row.operator for row in profile.kernels} == {"pool", "linear"}
    assert "no convolutions here" in profile.header.validation.notes[0]
    assert profile.header.validation.models == 0


@pytest.mark.usefixtures("quick")
def test_a_runtime_that_refuses_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    class All(Refusing):
        def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
            small = len(model.onnx()) < 150
            return self._real.compile(model, settings) if small else Failure("compile", "no", "")

    monkeypatch.setattr(RUNTIMES, "get", lambda name: All)
    with pytest.raises(AutopruneError, match="refused every kernel, the first with: compile: no"):
        profile_graph(graph_of("Sequential"), widths={}, whole_models=0)


def test_plans_begin_with_the_ends_and_cover_the_grid() -> None:
    graph = graph_of("Residual")
    dense = dense_of("Residual")
    widths = {name: tuple(range(1, size + 1)) for name, size in dense.items()}
    planned = plan_kernels(kernel_slots(graph.program), widths, dense, 1)
    assert len({item.kernel for item in planned}) == len(planned)
    details = [item.detail for item in planned]
    assert details == sorted(details)
    for slot in kernel_slots(graph.program):
        for name, size in dense.items():
            for width in (1, size // 2, size):
                kernel = slot.kernel({**dense, name: width})
                assert any(item.kernel == kernel for item in planned), kernel


@pytest.mark.parametrize(
    ("dense", "quantum", "expected"),
    [(128, 16, (10, 16, 32, 48, 64, 80, 96, 112, 128)), (32, 16, (4, 8, 16, 24, 32)), (16, 16, (2, 4, 8, 12, 16)),
     (10, 16, (1, 2, 4, 6, 8, 10)), (3, 16, (1, 2, 3)), (20, 1, (3, 7, 20))],
)  # fmt: skip
def test_aligned_widths(dense: int, quantum: int, expected: tuple[int, ...]) -> None:
    given = (3, 7) if quantum == 1 else tuple(range(max(1, dense // 8) if dense != 128 else 10, dense + 1))
    assert aligned_widths(given, dense, quantum) == expected


def test_multiples_of_the_quantum_come_before_other_widths() -> None:
    graph = graph_of("Sequential")
    dense = dense_of("Sequential")
    widths = {name: tuple(range(1, size + 1)) for name, size in dense.items()}
    plain = plan_kernels(kernel_slots(graph.program), widths, dense, 1)
    aligned = plan_kernels(kernel_slots(graph.program), widths, dense, 1, quantum=4)
    assert {item.kernel for item in plain} == {item.kernel for item in aligned}
    linear = [item for item in aligned if item.operator == "linear" and len(item.kernel.sizes) == 2]
    first = next(i for i, item in enumerate(linear) if item.kernel.sizes[1] == 7)
    assert all(item.kernel.sizes[1] != 7 for item in linear[:first])


def test_many_groups_in_one_dimension_are_sampled() -> None:
    from autoprune.graph.dimension import Concatenation, Width

    whole = Concatenation(tuple(Width(f"g{i}", 8) for i in range(6)))
    dense = {f"g{i}": 8 for i in range(6)}
    sizes = plan._sizes(whole, dict.fromkeys(dense, (1, 2, 4, 8)), dense)
    assert {6, 48} <= sizes
    assert len(sizes) <= 8


def test_policies_for_whole_models_span_the_space_and_follow_the_seed() -> None:
    dense = dense_of("Residual")
    widths = {name: tuple(range(1, size + 1)) for name, size in dense.items()}
    policies = sample_policies(widths, dense, 12, seed=3)
    assert policies.shape == (12, len(dense))
    assert policies[0].tolist() == list(dense.values())
    assert (policies[1] == 1).all()
    assert (policies >= 1).all()
    np.testing.assert_array_equal(policies, sample_policies(widths, dense, 12, seed=3))
    assert not np.array_equal(policies, sample_policies(widths, dense, 12, seed=4))
    assert len(sample_policies(widths, dense, 0, seed=3)) == 0


@pytest.mark.parametrize("step", [1, *CANDIDATES])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_quantum_of_a_staircase(step: int, noise: float) -> None:
    random = np.random.default_rng(step)
    widths = np.array(list(PROBED))
    times = (5.0 + 0.6 * np.ceil(widths / step) * step) * (1.0 + noise * random.standard_normal(len(widths)))
    found = quantum_of(widths.tolist(), times.tolist())
    assert found == step or (found == 1 and step <= 4 and noise > 0) or step <= 2 >= found  # small steps drown in noise


def test_quantum_of_flat_times_is_one() -> None:
    assert quantum_of(list(PROBED), [10.0] * len(PROBED)) == 1


def test_the_probe_runs_and_a_refusal_is_no_quantum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantum, "PROTOCOL", TINY)
    assert quantum.alignment_quantum() in (1, *CANDIDATES)
    assert quantum.probe_quantum(Refusing(), RunSettings()) == 1  # type: ignore[arg-type]


def test_ratios_of_whole_models_are_plausible() -> None:
    """Not a timing: a network with a hundredth of the work is not slower than the dense one."""
    graph = graph_of("Residual")
    rules = Protocol(sessions=3, minimum_runs=20, maximum_runs=20, warmup_us=0.0)
    dense, small = measure_models([graph.module(), graph.module(graph.uniform(0.9))], protocol=rules)
    assert not isinstance(dense, Failure)
    assert not isinstance(small, Failure)
    assert small.n == dense.n == 60

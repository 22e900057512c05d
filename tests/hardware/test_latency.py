"""`LatencyTable` against summing kernels one policy at a time, and what `Cost` says."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph
from autoprune.graph.dimension import Batch
from autoprune.graph.fusion import kernel_slots
from autoprune.graph.run import run_operation
from autoprune.hardware.cost import predict_cost, weight_bytes
from autoprune.hardware.interpolation import ESTIMATED, INTERPOLATED, MEASURED
from autoprune.hardware.latency import UNFITTED, LatencyTable
from autoprune.hardware.memory import lifetimes, peak_memory_bytes
from autoprune.hardware.profile import PERCENTILES, Composition, HardwareProfile, Residuals, Validation
from tests.graph.models import MODELS, SHAPE
from tests.hardware.samples import bilinear_us, graph_of, header, row, synthetic_profile

Array = np.ndarray[tuple[int, int], np.dtype[np.int64]]


def ends(graph: DependencyGraph) -> dict[str, tuple[int, ...]]:
    return {group.id: (1, group.size) for group in graph.groups.values()}


def policies(graph: DependencyGraph, count: int, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    sizes = np.array([group.size for group in graph.groups.values()])
    return random.integers(1, sizes + 1, size=(count, len(sizes)))


def named(graph: DependencyGraph, row_: Array) -> dict[str, int]:
    return {group: int(width) for group, width in zip(graph.groups, row_, strict=True)}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_table_equals_summing_kernels_one_policy_at_a_time(name: str) -> None:
    """Times are multilinear in the widths, so interpolation between the ends is exact wherever it is defined."""
    graph = graph_of(name)
    composition = {
        p: Composition(sum_factor=0.8 + i, constant_us=5.0, kernel_us=0.1 * i) for i, p in enumerate(PERCENTILES)
    }
    table = LatencyTable(synthetic_profile(graph, dict(ends(graph)), composition=composition), graph)
    widths = policies(graph, 40)
    predicted = table.latency_us(widths)
    _, kinds = table.slot_us(widths)
    for index, policy in enumerate(widths):
        slots = kernel_slots(graph.program)
        kernels = [slot.kernel(named(graph, policy)) for slot in slots]
        if (kinds[index] == ESTIMATED).any():
            continue
        total = sum(bilinear_us(kernel.family, kernel.sizes) for kernel in kernels)
        for percentile, found in predicted.items():
            made = composition[percentile]
            expected = made.sum_factor * total + made.constant_us + made.kernel_us * len(kernels)
            assert found[index] == pytest.approx(expected, rel=1e-9)
    assert (kinds != ESTIMATED).mean() > 0.9


def test_batches_of_policies_and_single_ones_agree() -> None:
    graph = graph_of("Grouped")
    profile = synthetic_profile(graph, dict(ends(graph)))
    widths = policies(graph, 64)
    together = LatencyTable(profile, graph).latency_us(widths)["p50"]
    one_table = LatencyTable(profile, graph)
    alone = [one_table.latency_us(widths[i : i + 1])["p50"][0] for i in range(len(widths))]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    np.testing.assert_array_equal(one_table.latency_us(widths)["p50"], together)


def test_measured_interpolated_and_estimated_are_told_apart() -> None:
    graph = graph_of("Residual")
    group = next(iter(graph.groups))
    profile = synthetic_profile(graph, {g: (s.size // 2, s.size) for g, s in graph.groups.items()})
    table = LatencyTable(profile, graph)
    dense = np.array([[g.size for g in graph.groups.values()]])
    half, between, outside = (dense.copy() for _ in range(3))
    column = list(graph.groups).index(group)
    half[0, column] //= 2
    between[0, column] = dense[0, column] - 1
    outside[0, column] = 1
    assert table.shares(dense)["measured"][0] == pytest.approx(1.0)
    assert table.shares(half)["measured"][0] == pytest.approx(1.0)
    assert table.shares(between)["interpolated"][0] > 0
    assert table.shares(outside)["estimated"][0] > 0
    for widths in (dense, half, between, outside):
        assert sum(share[0] for share in table.shares(widths).values()) == pytest.approx(1.0)
    _, kinds = table.slot_us(between)
    assert set(kinds.ravel().tolist()) == {MEASURED, INTERPOLATED}


def test_convolutions_between_multiples_of_the_quantum_cost_the_next_one() -> None:
    graph = graph_of("Residual")
    widths = {g: (s.size // 2, s.size) for g, s in graph.groups.items()}
    plain = synthetic_profile(graph, dict(widths))
    stepped = HardwareProfile(plain.header.model_copy(update={"alignment_quantum": 4}), plain.kernels)
    policy = np.array([[g.size for g in graph.groups.values()]])
    policy[0, 0] -= 1  # the stem's channels: 7 of 8
    linear, stairs = (LatencyTable(profile, graph).slot_us(policy)[0][0] for profile in (plain, stepped))
    dense = LatencyTable(plain, graph).slot_us(policy + (policy == 7))[0][0]
    assert stairs[0] == dense[0] > linear[0]
    slots = kernel_slots(graph.program)
    others = [i for i, slot in enumerate(slots) if slot.operator not in ("conv", "pointwise")]
    np.testing.assert_array_equal(stairs[others], linear[others])


def test_estimates_agree_with_the_nearest_measured_kernel() -> None:
    graph = graph_of("Sequential")
    widths = {g: (s.size // 2, s.size) for g, s in graph.groups.items()}
    slow = synthetic_profile(graph, dict(widths), lambda family, sizes: 5.0 * bilinear_us(family, sizes))
    fast = synthetic_profile(graph, dict(widths))
    least = np.ones((1, len(graph.groups)), dtype=np.int64)
    ratio = LatencyTable(slow, graph).sum_us(least)[0] / LatencyTable(fast, graph).sum_us(least)[0]
    assert ratio[0] == pytest.approx(5.0, rel=1e-6)


def test_a_profile_of_other_kernels_only_estimates() -> None:
    graph = graph_of("Sequential")
    other = synthetic_profile(graph_of("Depthwise"), dict(ends(graph_of("Depthwise"))), batch=4)
    table = LatencyTable(HardwareProfile(header(batch=1), other.kernels), graph)
    widths = policies(graph, 5)
    assert (table.latency_us(widths)["p50"] > 0).all()
    np.testing.assert_allclose(table.shares(widths)["estimated"], 1.0)


@pytest.mark.parametrize("name", ["Residual", "Depthwise"])
def test_removed_branches_cost_what_the_reduced_program_costs(name: str) -> None:
    graph = graph_of(name)
    removable = [group.id for group in graph.groups.values() if group.removable]
    table = LatencyTable(synthetic_profile(graph, dict(ends(graph))), graph)
    for chosen in itertools.product([False, True], repeat=len(removable)):
        gone = [group for group, wanted in zip(removable, chosen, strict=True) if wanted]
        policy = graph.check(dict.fromkeys(gone, 0))
        row = np.array([list(graph.widths(policy).values()), list(graph.widths({}).values())])
        alone = LatencyTable(table.profile, replace(graph, program=graph.program.at(policy)))
        expected, dense = alone.sum_us(row[:1]), LatencyTable(table.profile, graph).sum_us(row[1:])
        for found, one, other in zip(table.sum_us(row), expected, dense, strict=True):
            np.testing.assert_allclose(found, [one[0], other[0]])
        assert table.cost(policy).params == sum(p.numel() for p in graph.module(policy).parameters())


@pytest.mark.parametrize("name", ["Residual", "Depthwise"])
def test_energy_counts_what_is_left_of_kernels_that_lost_a_part(name: str) -> None:
    graph = graph_of(name)
    plain = synthetic_profile(graph, dict(ends(graph)))
    watts = {operator: 2.0 + place for place, operator in enumerate(sorted({row.operator for row in plain.kernels}))}
    rows = tuple(replace(row, energy_uj=watts[row.operator] * row.p50_us) for row in plain.kernels)
    profile = HardwareProfile(plain.header, rows)
    table = LatencyTable(profile, graph)
    for group in [group.id for group in graph.groups.values() if group.removable]:
        policy = graph.check({group: 0})
        row = np.array([list(graph.widths(policy).values())])
        alone = LatencyTable(profile, replace(graph, program=graph.program.at(policy)))
        np.testing.assert_allclose(table.energy_uj(row), alone.energy_uj(row))


def test_percentiles_ascend_even_where_their_fits_cross() -> None:
    graph = graph_of("Sequential")
    composition = {"p50": Composition(sum_factor=2.0, constant_us=0, kernel_us=0)}
    composition |= {p: Composition(sum_factor=1.0, constant_us=9, kernel_us=0) for p in PERCENTILES[1:]}
    table = LatencyTable(synthetic_profile(graph, dict(ends(graph)), composition=composition), graph)
    found = table.latency_us(policies(graph, 20))
    for low, high in itertools.pairwise(PERCENTILES):
        assert (found[low] <= found[high]).all()


def test_without_a_composition_tails_follow_the_kernels() -> None:
    graph = graph_of("Sequential")
    found = LatencyTable(synthetic_profile(graph, dict(ends(graph))), graph).latency_us(policies(graph, 3))
    np.testing.assert_allclose(found["p99"] / found["p50"], 1.5)


def test_intervals_come_from_residuals_and_widen_with_what_is_estimated() -> None:
    graph = graph_of("Sequential")
    residuals = {p: Residuals(mean_absolute=0.05, low=-0.1, high=0.2) for p in PERCENTILES}
    composition = {p: Composition(sum_factor=1.0, constant_us=0, kernel_us=0) for p in PERCENTILES}
    widths = {g: (s.size // 2, s.size) for g, s in graph.groups.items()}
    validation = Validation(models=9, residuals=residuals)
    profile = synthetic_profile(graph, dict(widths), composition=composition, validation=validation)
    table = LatencyTable(profile, graph)
    dense = np.array([[g.size for g in graph.groups.values()]])
    low, high = table.interval_us(dense)["p50"]
    time_us = table.latency_us(dense)["p50"]
    np.testing.assert_allclose([low / time_us, high / time_us], [[0.9], [1.2]])
    low, high = table.interval_us(np.ones_like(dense))["p50"]
    time_us = table.latency_us(np.ones_like(dense))["p50"]
    assert low / time_us < 0.9
    assert high / time_us > 1.2


def test_intervals_without_whole_models_are_wide() -> None:
    graph = graph_of("Sequential")
    table = LatencyTable(synthetic_profile(graph, dict(ends(graph))), graph)
    dense = np.array([[g.size for g in graph.groups.values()]])
    low, high = table.interval_us(dense)["p50"]
    time_us = table.latency_us(dense)["p50"]
    np.testing.assert_allclose([low / time_us - 1, high / time_us - 1], [[UNFITTED[0]], [UNFITTED[1]]])


def test_wrong_number_of_columns() -> None:
    graph = graph_of("Sequential")
    table = LatencyTable(synthetic_profile(graph, dict(ends(graph))), graph)
    with pytest.raises(InputError, match=rf"shape \(n, {len(graph.groups)}\), got \(2, 9\)"):
        table.latency_us(np.ones((2, 9), dtype=np.int64))


def test_rows_of_another_number_of_sizes() -> None:
    graph = graph_of("Sequential")
    profile = synthetic_profile(graph, dict(ends(graph)))
    wrong = row(profile.kernels[0].family, (1, 2, 3, 4), 5.0)
    with pytest.raises(InputError, match=r"expected \d sizes for the kernels of .*got \(1, 2, 3, 4\)"):
        LatencyTable(HardwareProfile(profile.header, (*profile.kernels, wrong)), graph)


def test_cost_says_what_the_graph_and_the_table_say(tmp_path: object) -> None:
    graph = graph_of("Depthwise")
    profile = synthetic_profile(graph, dict(ends(graph)), batch=2)
    policy = graph.uniform(0.5)
    cost = predict_cost(graph, policy, profile)
    module = graph.module(policy)
    widths = {**module.widths, Batch.KEY: 2}
    assert cost.params == sum(p.numel() for p in module.parameters())
    assert cost.macs == graph.macs(widths)
    assert cost.energy_uj is None
    assert cost.throughput_per_s == pytest.approx(2e6 / cost.latency_us["p50"])
    tensors = [t for name, t in module.state_dict().items() if "num_batches_tracked" not in name]
    assert cost.weight_bytes == weight_bytes(graph.program, widths) == sum(t.numel() * 4 for t in tensors)
    assert cost.peak_memory_bytes == peak_memory_bytes(graph.program, widths)
    row_ = np.array([[module.widths[group] for group in graph.groups]])
    assert cost.latency_us["p50"] == LatencyTable(profile, graph).latency_us(row_)["p50"][0]
    with pytest.raises(InputError, match="unknown group"):
        predict_cost(graph, {"nothing": 3}, profile)


def test_energy_is_each_kernels_time_at_the_power_of_its_class() -> None:
    graph = graph_of("Residual")
    plain = synthetic_profile(graph, dict(ends(graph)))
    table = LatencyTable(plain, graph)
    widths = policies(graph, 5)
    with pytest.raises(InputError, match="'test' has none"):
        table.energy_uj(widths)
    watts = {"conv": 3.0, "pointwise": 2.0}
    rows = tuple(
        replace(r, energy_uj=watts[r.operator] * r.p50_us) if r.operator in watts else r for r in plain.kernels
    )
    table = LatencyTable(HardwareProfile(plain.header, rows), graph)
    found, parts = table.energy_uj(widths), table.parts(widths)
    assert {"conv", "pointwise"} < {part.operator for part in parts}
    other = float(np.median([watts[r.operator] for r in rows if r.operator in watts]))
    expected = sum(watts.get(part.operator, other) * part.times_us for part in parts)
    np.testing.assert_allclose(found, expected)
    assert table.cost({}).energy_uj == pytest.approx(table.energy_uj(np.array([[*graph.widths({}).values()]]))[0])


def brute_force_peak(graph: DependencyGraph, policy: dict[str, int], batch: int) -> int:
    """Step through the kernels, keeping a set of live tensors by hand."""
    program = graph.program
    slots = kernel_slots(program)
    uses: dict[str, int] = {}
    owner: dict[str, str] = {}
    inside = {name for slot in slots for name in slot.operations}
    for operation in program.operations:
        if operation.name not in inside and operation.target.startswith("aten.") and "sym" not in operation.target:
            source = operation.refs()[0]
            owner[operation.name] = owner.get(source, source)
    for step, slot in enumerate(slots):
        for name in slot.inputs:
            uses[owner.get(name, name)] = step
    for output in program.outputs:
        assert output is not None
        uses[owner.get(output, output)] = len(slots)

    def bytes_of(name: str) -> int:
        total = 4
        for size in module_shapes[name]:
            total *= size
        return total

    module_shapes = shapes(graph, policy, batch)
    live = set(program.inputs)
    peak = 0
    for step, slot in enumerate(slots):
        live |= set(slot.outputs)
        peak = max(peak, sum(bytes_of(name) for name in live))
        live = {name for name in live if uses.get(name, -1) > step}
    return peak


def shapes(graph: DependencyGraph, policy: dict[str, int], batch: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all values as torch finds them when it runs the module."""
    found: dict[str, tuple[int, ...]] = {}
    module = graph.module(policy)
    values: dict[str, Any] = {name: torch.zeros(batch, *SHAPE) for name in graph.program.inputs}
    values |= module.state_dict()
    with torch.no_grad():
        for operation in module.program.operations:
            result = run_operation(operation, values, module.widths)
            several = result if len(operation.results) > 1 else (result,)
            values.update(zip(operation.results, several, strict=True))
    for name, value in values.items():
        found[name] = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
    return found


@pytest.mark.parametrize("name", sorted(MODELS))
def test_peak_memory_against_stepping_through_the_kernels(name: str) -> None:
    graph = graph_of(name)
    widths = policies(graph, 4, seed=3)
    columns = {group: widths[:, i] for i, group in enumerate(graph.groups)} | {Batch.KEY: 3}
    together = peak_memory_bytes(graph.program, columns)
    for index, policy in enumerate(widths):
        expected = brute_force_peak(graph, named(graph, policy), batch=3)
        assert together[index] == expected
        assert peak_memory_bytes(graph.program, {**named(graph, policy), Batch.KEY: 3}) == expected


def test_residual_streams_stay_alive_over_their_branch() -> None:
    graph = graph_of("Residual")
    slots = kernel_slots(graph.program)
    lives = lifetimes(graph.program, slots)
    stem = slots[0].outputs[0]
    assert lives[stem] == (0, 2)

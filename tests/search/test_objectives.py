"""Objectives and bounds: names, table-side values against one policy at a time, and what cannot be reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph
from autoprune.search.evaluation import Evaluation
from autoprune.search.objectives import (
    Costs,
    Objective,
    check_reachable,
    known_objectives,
    nearest_reachable,
    parse_bounds,
    parse_objective,
    parse_objectives,
)
from autoprune.search.space import SearchSpace
from tests.search.models import SPACE, small_graph, small_task

QUALITIES = ("error", "accuracy")


class ProductTable:
    """A table whose latency couples neighbours, in closed form: 1000 us and 10 us a product of widths."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def latency_us(self, widths: npt.NDArray[np.int64]) -> Mapping[str, npt.NDArray[np.float64]]:
        base = self.scale * (1000.0 + 10.0 * (widths[:, :1] * widths[:, 1:]).sum(axis=1))
        return {"p50": base, "p90": 1.1 * base, "p95": 1.2 * base, "p99": 1.5 * base}

    def energy_uj(self, widths: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return widths.sum(axis=1).astype(np.float64)


@pytest.fixture(scope="module")
def graph() -> DependencyGraph:
    return small_graph()


@pytest.fixture(scope="module")
def costs(graph: DependencyGraph) -> Costs:
    return Costs(graph, SearchSpace.load(SPACE, graph), {"cpu": ProductTable()})


def objectives(*names: str, profiles: tuple[str, ...] = ("cpu",)) -> tuple[Objective, ...]:
    return parse_objectives(names, QUALITIES, profiles)


def test_names_become_objectives() -> None:
    found = objectives("error", "latency_p50", "size", "latency_p50@cpu")
    assert [(o.name, o.kind, o.profile, o.evaluated) for o in found] == [
        ("error", "error", None, True),
        ("latency_p50", "latency_p50", "cpu", False),
        ("size", "size", None, False),
    ]
    assert [o.column for o in found] == ["error", "latency_p50_us", "size_bytes"]


def test_several_profiles_are_told_apart() -> None:
    found = objectives("latency_p99", "latency_p50@phone", profiles=("cpu", "phone"))
    assert [(o.name, o.profile) for o in found] == [
        ("latency_p99@cpu", "cpu"),
        ("latency_p99@phone", "phone"),
        ("latency_p50@phone", "phone"),
    ]
    assert found[1].column == "latency_p99_us@phone"
    assert "energy@phone" in known_objectives(QUALITIES, ("cpu", "phone"))


@pytest.mark.parametrize(
    ("name", "profiles", "message"),
    [
        (
            "latency_p5",
            ("cpu",),
            "unknown objective 'latency_p5'. Did you mean 'latency_p95'? Known: accuracy, energy,",
        ),
        ("eror", ("cpu",), "Did you mean 'error'?"),
        ("size@cpu", ("cpu",), "unknown objective 'size@cpu'"),
        ("latency_p50@gpu", ("cpu",), "unknown profile in objective 'latency_p50@gpu': 'gpu'"),
        ("latency_p50", (), "expected a hardware profile to tell it, got none"),
    ],
)
def test_unknown_names_list_the_known(name: str, profiles: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_objective(name, QUALITIES, profiles)
    assert message in str(caught.value)


def test_no_objectives_are_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        parse_objectives([], QUALITIES, ("cpu",))


def test_values_for_many_policies_are_those_of_one_at_a_time(graph: DependencyGraph, costs: Costs) -> None:
    names = ("latency_p50", "latency_p99", "macs", "params", "size", "peak_memory")
    rng = np.random.default_rng(0)
    choices = [costs.space.random(rng) for _ in range(9)]
    found = costs.values(objectives(*names), choices)
    assert found.shape == (9, 6)
    of_four = Costs(graph, costs.space, {}, batch=4).values(objectives("macs", "peak_memory", "size"), choices)
    np.testing.assert_allclose(of_four, found[:, [2, 5, 4]] * [4, 4, 1])
    for row, choice in zip(found, choices, strict=True):
        policy = costs.space.policy(choice)
        latency = 1000.0 + 10.0 * policy["stem"] * (policy["block1.conv1"] + policy["block2.conv1"])
        module = graph.module(policy)
        parameters = sum(p.numel() for p in module.parameters())
        stored = sum(t.numel() * t.element_size() for n, t in module.state_dict().items() if "num_batches" not in n)
        assert row[0] == pytest.approx(latency)
        assert row[1] == pytest.approx(1.5 * latency)
        assert row[2] == graph.macs(dict(policy))
        assert row[3] == parameters
        assert row[4] == stored
        assert row[5] > 0


def test_energy_comes_from_the_table_that_has_it(graph: DependencyGraph, costs: Costs) -> None:
    assert costs.values(objectives("energy"), [costs.space.dense]).tolist() == [[36.0]]
    with pytest.raises(InputError, match="only evaluation tells it"):
        costs.values(objectives("error"), [costs.space.dense])


def test_throughput_is_bounded_and_not_minimised(costs: Costs) -> None:
    with pytest.raises(InputError, match=r"Minimise latency_p50 instead.*'throughput >= 200'"):
        objectives("throughput")
    [bound] = parse_bounds(["throughput >= 1000"], QUALITIES, ("cpu",))
    latency_us = ProductTable().latency_us(costs.space.group_widths([costs.space.dense]))["p50"][0]
    assert latency_us > 1000.0
    short = 1.0 - 1e6 / latency_us / 1000.0
    assert costs.violations([bound], [costs.space.dense]).tolist() == pytest.approx([short])


def test_evaluated_objectives_are_minimised() -> None:
    task = small_task()
    evaluation = Evaluation(0.25, {"accuracy": 0.75, "loss": 0.5}, 1.0)
    error, accuracy = objectives("error", "accuracy")
    assert error.of(evaluation, task) == 0.25
    assert accuracy.of(evaluation, task) == -0.75
    lossy = replace(task, metrics={**task.metrics, "loss": task.metrics["accuracy"]}, minimize=("loss",))
    assert Objective("loss", "loss", evaluated=True).of(evaluation, lossy) == 0.5


def test_bounds_hold_on_every_profile(graph: DependencyGraph, costs: Costs) -> None:
    bounds = parse_bounds(["latency_p50 <= 2ms", "macs < 1G", "error <= 0.1"], QUALITIES, ("cpu", "phone"))
    assert [str(bound) for bound in bounds] == [
        "latency_p50@cpu <= 2 ms",
        "latency_p50@phone <= 2 ms",
        "macs < 1G",
        "error <= 0.1",
    ]
    both = Costs(graph, costs.space, {"cpu": ProductTable(), "phone": ProductTable(2.0)})
    # narrowest: 1000 + 10*4*(4+4) = 1320 us, twice that on the phone: 32 % above 2 ms
    assert both.violations(bounds, [costs.space.narrowest]).tolist() == pytest.approx([0.32])
    assert both.violations(bounds[:1], [costs.space.narrowest]).tolist() == [0.0]


def test_bounds_count_strictness_and_missing_numbers() -> None:
    below, above = parse_bounds(["params < 10", "params >= 10"], QUALITIES, ("cpu",))
    values = np.array([9.0, 10.0, 11.0, np.nan])
    assert (below.violation(values) > 0).tolist() == [False, True, True, True]
    assert (above.violation(values) > 0).tolist() == [True, False, False, True]


def test_unreachable_constraint_names_the_nearest_value(costs: Costs) -> None:
    bounds = parse_bounds(["latency_p50 <= 1.3ms"], QUALITIES, ("cpu",))
    with pytest.raises(InputError) as caught:
        check_reachable(costs, bounds)
    assert "constraint 'latency_p50 <= 1.3 ms': no policy of search space 'custom' meets it" in str(caught.value)
    assert "the nearest reachable latency_p50 is 1.32 ms" in str(caught.value)
    check_reachable(costs, parse_bounds(["latency_p50 <= 1.32ms", "error <= 0.0"], QUALITIES, ("cpu",)))


def test_lower_bounds_are_reached_from_above(costs: Costs) -> None:
    (bound,) = parse_bounds(["latency_p50 >= 100ms"], QUALITIES, ("cpu",))
    assert nearest_reachable(costs, bound) == pytest.approx(1000.0 + 10.0 * 8 * (16 + 12))
    with pytest.raises(InputError, match=r"nearest reachable latency_p50 is 3\.24 ms"):
        check_reachable(costs, [bound])


def test_constraints_that_exclude_each_other_are_named(costs: Costs) -> None:
    bounds = parse_bounds(["latency_p50 <= 1.5ms", "params >= 4000"], QUALITIES, ("cpu",))
    with pytest.raises(InputError, match=r"no policy found that meets all; the nearest has latency_p50 = .*params = "):
        check_reachable(costs, bounds)

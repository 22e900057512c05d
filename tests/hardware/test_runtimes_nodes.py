"""Whose time a node is, on graphs as runtimes report them, and what is taken off for reporting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from autoprune.hardware.runtimes.nodes import Node, by_operation, in_turn, operations_of, without_overhead
from autoprune.hardware.runtimes.openvino import typical_us
from autoprune.hardware.runtimes.parts import INPUT, Parts


def parts(*kernels: tuple[str, tuple[int, ...]], flops: Sequence[float] = ()) -> Parts:
    """Kernels by their operations (space between) and sources."""
    names = [operations.split() for operations, _ in kernels]
    return Parts(
        places={operation: place for place, own in enumerate(names) for operation in own},
        names=tuple(own[0] for own in names),
        work=tuple((work, 0.0) for work in flops or (1.0,) * len(kernels)),
        sources=tuple(sources for _, sources in kernels),
    )


def node(name: str, reads: str, gives: str = "", moves: bool = False, labels: tuple[str, ...] | None = None) -> Node:
    return Node(name, (name,) if labels is None else labels, tuple(reads.split()), (gives or name,), moves)


CHAIN = parts(("conv relu", (INPUT,)), ("pool", (0,)), ("linear", (1,)))


def test_nodes_keep_names_endings_or_parts() -> None:
    nodes = [node("relu_nchwc", "x", "a"), node("pool/MaxPool_token_3", "a", "b"), node("linear.product/MatMul", "b")]
    assert list(operations_of(nodes, CHAIN).values()) == ["conv", "pool", "linear"]


def test_a_change_of_layout_is_for_what_consumes_it() -> None:
    nodes = [node("Reorder", "x", "a", moves=True), node("relu", "a"), node("Back", "relu", "b", moves=True)]
    nodes += [node("Again", "b", "c", moves=True), node("linear", "c")]
    found = operations_of(nodes, CHAIN)
    assert (found["Reorder"], found["Back"], found["Again"]) == ("conv", "linear", "linear")


def test_the_last_change_of_layout_is_for_what_made_its_input() -> None:
    nodes = [node("linear", "x"), node("Back", "linear", moves=True)]
    assert operations_of(nodes, CHAIN)["Back"] == "linear"


def test_a_node_of_nothing_known_is_nobodys() -> None:
    assert operations_of([node("Odd", "x", moves=True)], CHAIN) == {"Odd": ""}


def test_a_node_of_several_kernels_is_the_ones_with_the_most_work() -> None:
    both = Node("Fused", ("linear/Gemm,pool/MaxPool",), ("x",), ("y",))
    three = [("conv", (INPUT,)), ("pool", (0,)), ("linear", (1,))]
    assert operations_of([both], parts(*three, flops=(1.0, 5.0, 2.0))) == {"Fused": "pool"}


def test_a_node_without_a_name_is_the_kernel_that_is_missing_there() -> None:
    nodes = [node("relu", "x"), node("Multiply_7", "relu"), node("linear", "Multiply_7")]
    assert operations_of(nodes, CHAIN)["Multiply_7"] == "pool"


def test_several_without_names_follow_each_other() -> None:
    nodes = [node("A1", "x"), node("A2", "A1"), node("A3", "A2")]
    assert list(operations_of(nodes, CHAIN).values()) == ["conv", "pool", "linear"]


def test_an_addition_fused_into_the_other_branch_changes_no_times() -> None:
    """The model adds in the shortcut's kernel, the runtime in the main branch's."""
    model = parts(
        ("stem relu", (INPUT,)),
        ("first relu_1", (0,)),
        ("second", (1,)),
        ("shortcut add relu_2", (0, 2)),
        ("pool", (3,)),
    )
    nodes = [
        node("M1", "x", labels=("M1,relu/Relu",)),
        node("M2", "M1", labels=("M2,relu_1/Relu",)),
        node("M3", "M1", labels=("M3",)),
        node("M4", "M2 M3", labels=("M4,add/Add,relu_2/Relu",)),
        node("pool/Pool", "M4"),
    ]
    assert list(operations_of(nodes, model).values()) == ["stem", "first", "shortcut", "second", "pool"]


def test_a_residual_without_a_convolution_stays_where_it_is() -> None:
    model = parts(("stem relu", (INPUT,)), ("first relu_1", (0,)), ("second add relu_2", (1, 0)))
    nodes = [
        node("M1", "x", labels=("M1,relu/Relu",)),
        node("M2", "M1", labels=("M2,relu_1/Relu",)),
        node("M3", "M2 M1", labels=("M3,add/Add,relu_2/Relu",)),
    ]
    assert list(operations_of(nodes, model).values()) == ["stem", "first", "second"]


def test_graphs_with_cycles_end() -> None:
    nodes = [node("A", "b", "a", moves=True), node("B", "a", "b", moves=True), node("C", "b", "c")]
    assert set(operations_of(nodes, CHAIN).values()) <= {"", *CHAIN.names}


def test_times_add_up_to_the_whole() -> None:
    nodes = [
        node("Reorder", "x", "a", moves=True),
        node("relu", "a"),
        node("pool", "relu"),
        node("Odd", "", moves=True),
    ]
    times = {"Reorder": np.array([1.0, 2.0]), "relu": np.array([10.0, 11.0]), "Odd": np.array([3.0, 3.0])}
    found = by_operation(times, nodes, CHAIN, whole_us=20.0)
    assert found["conv"].tolist() == [11.0, 13.0]
    assert found["pool"].tolist() == found["linear"].tolist() == [0.0, 0.0]
    assert sum(float(np.median(own)) for own in found.values()) == pytest.approx(20.0)
    assert found[""].min() >= 3.0


def test_reporting_costs_every_node_the_same() -> None:
    true = {"a": 100.0, "b": 40.0, "c": 6.0}
    reported = {name: np.full(5, time + 4.0) for name, time in true.items()}
    found = without_overhead(reported, whole_us=sum(true.values()))
    for name, time in true.items():
        assert np.median(found[name]) == pytest.approx(time, rel=1e-6)


def test_reporting_never_costs_a_node_all_its_time() -> None:
    found = without_overhead({"a": np.full(3, 100.0), "b": np.full(3, 2.0)}, whole_us=50.0)
    assert np.median(found["b"]) == pytest.approx(0.1)
    assert sum(float(np.median(own)) for own in found.values()) == pytest.approx(50.0)


def test_nodes_that_take_no_time_keep_none() -> None:
    found = without_overhead({"a": np.full(3, 100.0), "b": np.zeros(3)}, whole_us=50.0)
    assert found["a"].tolist() == pytest.approx([50.0] * 3)
    assert found["b"].tolist() == [0.0] * 3


def test_nothing_is_taken_off_where_nothing_is_too_much() -> None:
    times = {"a": np.array([3.0, 4.0])}
    assert without_overhead(times, whole_us=10.0) == times


def test_turns_are_short_and_complete() -> None:
    order: list[str] = []

    class Counted:
        def __init__(self, name: str) -> None:
            self._name = name

        def run_us(self, count: int) -> np.ndarray:
            order.append(f"{self._name}{count}")
            return np.full(count, 2.0)

    assert in_turn(Counted("a"), Counted("b"), warm=3, runs=14).shape == (14,)
    assert order == ["a3", "b3", "a10", "b10", "a4", "b4"]


def counters(times: np.ndarray) -> np.ndarray:
    """What OpenVINO keeps of runs: means so far, every time and every mean cut off to whole microseconds."""
    return np.floor(np.cumsum(np.floor(times), axis=0) / np.arange(1, len(times) + 1)[:, None])


def test_counters_give_times_back_in_spite_of_a_cold_start_and_interruptions() -> None:
    random = np.random.default_rng(0)
    true = np.array([3.4, 25.3, 160.0, 0.0])
    times = true * random.normal(1.0, 0.02, size=(70, 4))
    times[0] *= 30
    times[[25, 40, 55], [1, 2, 1]] += [5000.0, 900.0, 12000.0]
    found = typical_us(counters(times), warm=10)
    assert found[3] == 0.0
    np.testing.assert_allclose(found[:3], true[:3], atol=3.0)
    raw = counters(times)[-1]
    assert raw[1] > 200  # what the mean alone says

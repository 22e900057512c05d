"""Width 0: the branch leaves the program, and what is left equals the oracle with nothing kept of the group."""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph, SparsityPolicy, TracedModule, trace
from autoprune.graph.dimension import Indices
from autoprune.graph.serialize import program_from_data, program_to_data
from tests.graph.models import SHAPE, trained
from tests.graph.oracle import Oracle
from tests.graph.transformers import TRANSFORMERS, transformer

MODELS = (*TRANSFORMERS, "Residual", "Depthwise")


@functools.cache
def traced(name: str) -> tuple[DependencyGraph, Tensor]:
    if name in TRANSFORMERS:
        inputs = TRANSFORMERS[name][1]()
        return trace(transformer(name), inputs), inputs
    inputs = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    return trace(trained(name), inputs), inputs


def removable(graph: DependencyGraph) -> list[str]:
    return [group.id for group in graph.groups.values() if group.removable]


def first_units(policy: SparsityPolicy, graph: DependencyGraph) -> dict[str, Indices]:
    return {group: np.arange(width) for group, width in graph.widths(policy).items()}


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_removed_branches_equal_the_oracle(name: str, data: st.DataObject) -> None:
    graph, inputs = traced(name)
    gone = data.draw(st.sets(st.sampled_from(removable(graph))))
    widths = {g.id: data.draw(st.integers(1, g.size)) for g in graph.groups.values()}
    policy = graph.check({**widths, **dict.fromkeys(gone, 0)})
    module = graph.module(policy)
    with torch.no_grad():
        torch.testing.assert_close(
            module(inputs), Oracle(graph, first_units(policy, graph))(inputs), rtol=1e-4, atol=1e-5
        )
    assert sum(p.numel() for p in module.parameters()) == graph.parameter_count(policy)
    assert graph.macs(policy) == graph.macs({**policy}) <= graph.macs(widths)


EXPECTED = {
    "VisionTransformer": {"blocks.0.attn.qkv", "blocks.0.attn.qkv:head_dim", "blocks.0.fc1", "blocks.1.fc1"},
    "TextEncoder": {"layers.0.query", "layers.0.up", "layers.1.up"},
    "Decoder": {"layers.0.q_proj", "layers.0.gate_proj", "layers.1.gate_proj"},
    "WindowTransformer": {"blocks.0.fc1", "blocks.1.fc1"},
    "ConvNeXt": {"expand"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_blocks_of_every_kind_can_go(name: str) -> None:
    assert set(removable(traced(name)[0])) >= EXPECTED[name]


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_a_removed_branch_is_left(name: str) -> None:
    graph, inputs = traced(name)
    policy = graph.check(dict.fromkeys(removable(graph), 0))
    module = graph.module(policy)
    gone = {group for group, width in policy.items() if width == 0}
    assert gone >= set(removable(graph))
    assert not gone & set(module.program.group_sizes)
    assert len(module.program.operations) < len(graph.program.operations) / 2 or name in ("Depthwise", "Residual")
    assert not any(0 in tensor.shape for tensor in module.state_dict().values())
    assert module(inputs).shape == graph.module()(inputs).shape


def test_a_bias_right_before_takes_up_the_constant() -> None:
    graph, _ = traced("VisionTransformer")
    module = graph.module(graph.check({"blocks.1.fc1": 0}))
    assert "blocks.1.attn.proj" in dict(module.named_modules())
    assert not any("constant" in name for name in module.state_dict())
    assert not any(name.startswith("blocks.1.fc") for name in module.state_dict())


def test_a_sum_over_positions_takes_up_what_no_bias_can() -> None:
    graph, _ = traced("VisionTransformer")
    module = graph.module(graph.check({"blocks.0.attn.qkv": 0}))
    assert not any("constant" in name for name in module.state_dict())
    assert not torch.equal(module.state_dict()["positions"], graph.state["positions"])


def test_a_branch_without_biases_vanishes_without_a_trace() -> None:
    graph, _ = traced("Decoder")
    module = graph.module(graph.check({"layers.0.gate_proj": 0}))
    assert not any("constant" in name or name.startswith("layers.0.norm2") for name in module.state_dict())


def test_a_constant_that_nothing_takes_up_is_a_parameter_and_trains() -> None:
    graph, inputs = traced("Residual")
    module = graph.module(graph.check({"a1": 0})).clone_tensors()
    constant = dict(module.named_parameters())["norm.constant"]
    assert constant.shape == (1, 8, 1, 1)
    module.train()
    module(inputs).sum().backward()
    assert constant.grad is not None
    assert constant.grad.abs().sum() > 0


def test_a_reduced_module_is_rebuilt_from_its_tensors_and_its_policy() -> None:
    graph, inputs = traced("Residual")
    policy = graph.check({"a1": 0, "stem": 5})
    module = graph.module(policy)
    again = graph.rebuild(policy, module.state_dict())
    read = program_from_data(program_to_data(graph.program))
    loaded = TracedModule.from_sliced(read, graph.widths(policy), module.state_dict())
    for other in (again, loaded, pickle.loads(pickle.dumps(module))):  # noqa: S301 - our own bytes
        torch.testing.assert_close(other(inputs), module(inputs))


def test_groups_inside_a_removed_branch_go_with_it() -> None:
    graph, _ = traced("VisionTransformer")
    attention = {"blocks.0.attn.qkv", "blocks.0.attn.qkv:head_dim", "blocks.0.attn.qkv:head_dim2"}
    assert set(graph.closure["blocks.0.attn.qkv"]) == attention & set(graph.groups)
    policy = graph.check({"blocks.0.attn.qkv": 0, "blocks.0.attn.qkv:head_dim": 2})
    assert policy["blocks.0.attn.qkv:head_dim"] == 0
    assert policy == graph.check({"blocks.0.attn.qkv": 0})


def test_counts_of_many_policies_are_those_of_each() -> None:
    graph, _ = traced("TextEncoder")
    rows = [graph.widths(graph.check(dict.fromkeys(gone, 0))) for gone in ([], ["layers.0.up"], ["layers.1.query"])]
    arrays = {group: np.array([row[group] for row in rows]) for group in graph.groups}
    assert graph.parameter_count(arrays).tolist() == [graph.parameter_count(row) for row in rows]
    assert graph.macs(arrays).tolist() == [graph.macs(row) for row in rows]


def test_what_is_no_residual_branch_must_keep_a_unit() -> None:
    graph = trace(trained("Sequential"), torch.zeros(2, *SHAPE))
    assert not removable(graph)
    group = next(iter(graph.groups))
    with pytest.raises(InputError, match=f"expected 1 to {graph.groups[group].size} units for '{group}', got 0"):
        graph.check({group: 0})


class TwoBranches(nn.Module):
    """Each branch may go, not both."""

    def __init__(self) -> None:
        super().__init__()
        self.a1, self.a2 = nn.Linear(6, 5), nn.Linear(5, 4)
        self.b1, self.b2 = nn.Linear(6, 3), nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.a2(self.a1(x).relu()) + self.b2(self.b1(x).relu()))
        return logits


def test_removals_that_leave_nothing_are_refused() -> None:
    graph = trace(TwoBranches(), torch.randn(2, 6))
    assert removable(graph) == ["a1", "b1"]
    graph.check({"a1": 0})
    with pytest.raises(InputError, match=r"'a1', 'b1', got 0: an output of the model would not depend on its inputs"):
        graph.check({"a1": 0, "b1": 0})


class Gated(nn.Module):
    """The branch meets a gate that is computed from parameters alone before it joins the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 5), nn.Linear(5, 6)
        self.gamma = nn.Parameter(torch.rand(3))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.cat([self.gamma, self.gamma.split(1)[0], self.gamma[:2]]).reshape(1, -1)
        logits: Tensor = self.head(x.relu() + gate * self.down(self.up(x).relu()))
        return logits


def test_what_parameters_alone_decide_belongs_to_the_constant() -> None:
    inputs = torch.randn(4, 6)
    graph = trace(Gated().eval(), inputs)
    policy = graph.check({"up": 0})
    module = graph.module(policy)
    torch.testing.assert_close(module(inputs), Oracle(graph, first_units(policy, graph))(inputs))
    assert set(module.state_dict()) == {"down.constant", "head.weight", "head.bias"}

"""What `trace` finds, what it freezes and why, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.errors import InputError
from autoprune.graph import SparsityPolicy, trace
from autoprune.graph.dimension import Batch, text
from autoprune.graph.macs import fvcore_macs
from tests.graph.models import MODELS, SHAPE, trained
from tests.graph.test_slicing import traced


def test_groups_are_named_after_their_first_producer() -> None:
    assert {g.id: g.size for g in traced("Residual").groups.values()} == {
        "stem": 8, "a1": 6, "b1": 10, "down": 12,
    }  # fmt: skip
    assert list(trace(trained("Residual"), torch.zeros(1, *SHAPE)).groups) == list(traced("Residual").groups)


def test_grouped_convolutions_give_groups_and_channels() -> None:
    units = {group.id: (group.size, group.unit) for group in traced("Grouped").groups.values()}
    assert (4, "group") in units.values()
    assert all(size in (1, 2, 3, 4, 6) for size, _ in units.values())


def test_dimensions_are_sums_and_products() -> None:
    values = traced("Concatenated").program.values
    assert text(values["layer2.weight"].dimensions[1]) == "[stem:4]+[layer1:6]"
    assert text(values["out.weight"].dimensions[1]) == "[gate:7]*4"


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_frozen_with_a_reason(name: str) -> None:
    reasons = {(item.parameter, item.axis): item.reason for item in traced(name).frozen}
    assert reasons["out.weight", 0] == "is an output of the model"


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=3, deadline=None)
@given(ratio=st.floats(0.0, 0.9))
def test_macs_equal_fvcore(name: str, ratio: float) -> None:
    graph = traced(name)
    policy = graph.uniform(ratio)
    counted = fvcore_macs(graph.module(policy), (torch.zeros(1, *SHAPE),))
    assert graph.macs(graph.widths(policy)) == counted


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.b(torch.special.i0(self.a(x))))
        return y


def test_an_operator_without_a_rule_freezes_what_it_touches_and_says_so() -> None:
    graph = trace(Unknown(), torch.zeros(1, *SHAPE))
    assert list(graph.groups) == ["b"]
    assert {f.reason for f in graph.frozen if f.parameter == "a.weight" and f.axis == 0} == {
        "operator aten.special_i0.default has no rule"
    }


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else -self.conv(x)


def test_data_dependent_control_flow_is_refused_with_its_place() -> None:
    with pytest.raises(InputError, match=r"torch.export cannot capture this model.*test_trace.py:\d+ in forward"):
        trace(Branching(), torch.zeros(1, *SHAPE))


class Shared(nn.Module):
    """One convolution used twice, and two linear layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.conv(F.relu(self.stem(x))))))
        y: Tensor = self.out(F.relu(self.second(F.relu(self.first(x.mean((2, 3)))))))
        return y


def test_shared_modules_and_tied_weights_shrink_together() -> None:
    model = Shared().eval()
    graph = trace(model, torch.zeros(1, *SHAPE))
    assert len(graph.groups) == 1
    assert next(iter(graph.groups.values())).size == 6
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(graph.module()(x), model(x))
    assert graph.module(graph.uniform(0.5))(x).shape == (2, 2)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        F.relu(x, inplace=True)
        x += 1.0
        y: Tensor = self.b(x)
        return y


def test_in_place_operators_keep_their_meaning() -> None:
    model = InPlace().eval()
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(trace(model, x).module()(x), model(x))


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cumprod(self.a(x), dim=1).reshape(2, 6, 8, 8)
        y: Tensor = self.out(F.relu(self.b(x)))
        return y


def test_a_model_that_fixes_its_batch_is_traced_at_that_batch() -> None:
    model, x = FixedBatch().eval(), torch.randn(2, *SHAPE)
    graph = trace(model, x)
    assert list(graph.groups) == ["b"]
    torch.testing.assert_close(graph.module()(x), model(x))


class Outputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        x = self.a(x) * scale[:, :, None, None]
        features = self.b(x)
        return {"logits": self.out(features.mean((2, 3))), "rest": (features,)}


def test_nested_outputs_and_keyword_inputs() -> None:
    model = Outputs().eval()
    inputs = {"x": torch.randn(2, *SHAPE), "scale": torch.rand(2, 1)}
    graph = trace(model, inputs)
    assert list(graph.groups) == ["a"]
    expected, got = model(**inputs), graph.module(graph.uniform(0.0))(**inputs)
    torch.testing.assert_close(got, expected)


def test_modes_are_restored() -> None:
    model = trained("Sequential").train()
    drop = model.get_submodule("drop").eval()
    trace(model, torch.zeros(1, *SHAPE))
    assert model.training
    assert not drop.training


def test_bad_inputs_are_named() -> None:
    model = trained("Sequential")
    with pytest.raises(InputError, match=r"expected a torch\.nn\.Module, got str"):
        trace("model", torch.zeros(1, *SHAPE))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected tensors whose first dimension is a batch"):
        trace(model, ())
    with pytest.raises(InputError, match="meta device"):
        trace(nn.Conv2d(3, 4, 1, device="meta"), torch.zeros(1, *SHAPE))
    with pytest.raises(InputError, match="got int"):
        trace(model, 3)  # type: ignore[arg-type]


def test_policies_are_checked() -> None:
    graph = traced("Residual")
    with pytest.raises(InputError, match=r"unknown group 'steam'\. Did you mean 'stem'\?"):
        graph.module({"steam": 4})
    with pytest.raises(InputError, match="expected 1 to 8 units for 'stem', got 9"):
        graph.module({"stem": 9})
    with pytest.raises(InputError, match="expected 1 to 8 units for 'stem', got 0"):
        graph.module({"stem": 0})
    with pytest.raises(InputError, match="whole number of units"):
        SparsityPolicy({"stem": 1.5})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="ratio"):
        graph.uniform(1.0)
    with pytest.raises(InputError, match="multiple_of"):
        graph.uniform(0.5, multiple_of=0)


def test_uniform_rounds_to_multiples() -> None:
    assert dict(traced("Residual").uniform(0.5, multiple_of=4)) == {"a1": 4, "b1": 4, "down": 8, "stem": 4}


def test_policies_are_values() -> None:
    first, second = SparsityPolicy({"b": 2, "a": 1}), SparsityPolicy({"a": 1, "b": 2})
    assert first == second
    assert hash(first) == hash(second)
    assert first.json == '{"a":1,"b":2}'
    assert first.id == second.id != SparsityPolicy({"a": 1}).id


def test_summary_names_groups_and_reasons() -> None:
    summary = traced("Residual").summary()
    assert "stem  8 channel" in summary
    assert "frozen out.weight[0] (5): is an output of the model" in summary


def test_costs_follow_the_batch() -> None:
    graph = traced("Sequential")
    assert graph.macs({Batch.KEY: 4}) == 4 * graph.macs({})

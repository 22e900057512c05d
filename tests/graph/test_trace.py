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


class Autocast(nn.Module):
    """A region in bfloat16, one where autocast is off, and one without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.out = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.norm(self.a(x))
            with torch.autocast("cpu", enabled=False):
                x = F.relu(self.b(x.float()))
        with torch.no_grad():
            scale = x.mean(1, keepdim=True)
        y: Tensor = self.out(x * scale)
        return y


def test_autocast_regions_are_traced_with_their_casts() -> None:
    model, x = Autocast().eval(), torch.randn(3, 5)
    graph = trace(model, x)
    assert [group.size for group in graph.groups.values()] == [8, 6]
    dtypes = [graph.program.values[op.name].dtype for op in graph.program.operations if "linear" in op.target]
    assert dtypes == ["bfloat16", "float32", "float32"]
    module = graph.module()
    torch.testing.assert_close(module(x), model(x))
    assert isinstance(module.get_submodule("norm"), nn.BatchNorm1d)
    assert graph.module(graph.uniform(0.5))(x).shape == (3, 2)


class Quiet(nn.Module):
    """Autocast that is off, as rotary embeddings have it, inside a region without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            turn = torch.cos(torch.arange(8).float())
            bias, turn = turn + 1.0, turn * 2.0
        y: Tensor = self.out(x * turn + bias)
        return y


def test_regions_that_change_nothing_are_inlined() -> None:
    model, x = Quiet().eval(), torch.randn(3, 5)
    graph = trace(model, x)
    assert [op.module for op in graph.program.operations if "linear" in op.target] == ["a", "out"]
    torch.testing.assert_close(graph.module()(x), model(x))


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.cond(x.sum() > 0, lambda z: self.a(z), lambda z: z * 2, (x,))
        return y


class Reading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(x) * x.max().item()
        return y


def test_control_flow_and_numbers_read_at_run_time_are_refused() -> None:
    with pytest.raises(InputError, match=r"control flow operator 'cond' .* Write it without control flow"):
        trace(Conditional(), torch.randn(3, 5))
    with pytest.raises(InputError, match=r"reads a number out of a tensor .* Keep it a tensor"):
        trace(Reading(), torch.randn(3, 5))


@torch.library.custom_op("autoprune_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return x * 2


@doubled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = doubled(self.a(x))
        return y


def test_custom_operators_are_refused() -> None:
    with pytest.raises(InputError, match=r"'autoprune_tests\.doubled\.default' .* is a custom operator"):
        trace(Custom(), torch.randn(3, 5))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # what torch.compile imports
def test_wrappers_are_looked_through() -> None:
    model, x = trained("Residual"), torch.randn(2, *SHAPE)
    expected = trace(model, x)
    for wrapped in (nn.DataParallel(model), torch.compile(model), torch.compile(nn.DataParallel(model))):
        graph = trace(wrapped, x)  # type: ignore[arg-type]
        assert list(graph.groups) == list(expected.groups)
        assert list(graph.state) == list(expected.state)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_models_whose_weights_cannot_be_cut_are_refused() -> None:
    x = torch.randn(2, 5)
    plain = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 2)).eval()
    with pytest.raises(InputError, match=r"the model is a TorchScript module\. Pass the nn\.Module"):
        trace(torch.jit.trace(plain, x), x)
    with pytest.raises(InputError, match=r"'0' \(LazyLinear\) has no weights yet\. Run the model once"):
        trace(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), x)
    packed = nn.Sequential(nn.Linear(5, 8))
    packed[0].weight = nn.Parameter(torch.zeros(8, 5, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match=r"'0' is quantised .* Prune the floating-point model, then quantise"):
        trace(packed, x)


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)
        self.a.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(F.relu(self.a(x)))
        return y


def test_frozen_parameters_stay_frozen() -> None:
    graph = trace(Frozen(), torch.randn(2, 5))
    for policy in ({}, {"a": 3}):
        small = graph.module(policy)
        assert {name: p.requires_grad for name, p in small.named_parameters()} == {
            "a.weight": False, "a.bias": False, "b.weight": True, "b.bias": True,
        }  # fmt: skip


class Unread(nn.Module):
    """A value of which only the shape is read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        places = torch.arange(x[:, :, -1].shape[1])
        y: Tensor = self.b(x + places[:, None])
        return y


def test_values_read_for_their_shape_alone_freeze_nothing() -> None:
    assert list(trace(Unread(), torch.randn(2, 6, 5)).groups) == ["a"]


def test_every_reason_names_its_operator() -> None:
    graph = trace(Unknown(), torch.zeros(1, *SHAPE))
    others = ("is an output of the model", "is dimension 1 of input 'x'", "is dimension 1 of input 'input'")
    assert {f.reason for f in graph.frozen} - set(others) == {"operator aten.special_i0.default has no rule"}
    graph = trace(nn.Sequential(nn.Linear(5, 8), nn.Softmax(-1), nn.Linear(8, 2)), torch.randn(2, 5))
    assert {f.reason for f in graph.frozen} - set(others) == {"aten.softmax.int: runs along it"}


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

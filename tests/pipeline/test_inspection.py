"""Inspections: figures against closed forms and brute force, what is told where most is frozen, text and JSON."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import autoprune as ap
from autoprune.core.errors import InputError
from autoprune.graph import trace
from autoprune.graph.macs import operation_macs
from autoprune.pipeline.inspection import FrozenReason, Inspection, blame, inspect_graph
from tests.graph.models import MODELS, SHAPE, trained
from tests.search.architectures import ARCHITECTURES, traced
from tests.search.models import small_graph


class Transformed(nn.Module):
    """A Fourier transform, for which there is no rule, between wide layers and a narrow tail that is free."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 64), nn.Linear(64, 64)
        self.three, self.out = nn.Linear(64, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.fft.rfft(torch.fft.rfft(self.one(x)).abs(), n=64).abs()
        y = torch.fft.rfft(torch.nn.functional.pad(y, (0, 31)), n=64).abs()
        y = torch.fft.rfft(self.two(torch.nn.functional.pad(y, (0, 31))), n=126).abs()
        z: Tensor = self.out(torch.relu(self.three(y)))
        return z


class Hidden(nn.Module):
    """Returns the embedding width itself."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(50, 32), nn.Linear(32, 4), nn.Linear(4, 32)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        y: Tensor = x + self.down(torch.relu(self.up(x)))
        return y


def test_parameters_and_macs_of_a_group_are_those_that_go_with_it() -> None:
    """`Net` of the search tests: a stream of 8, inner widths 16 and 12, at 8 x 8 pixels."""
    found = {group.id: group for group in inspect_graph(small_graph()).groups}
    inner = found["block1.conv1"]
    assert inner.params == 16 * 8 * 9 + 4 * 16 - 2 * 16 + 8 * 16 * 9  # conv1, bn1's weight and bias, conv2
    assert inner.macs == 64 * (16 * 8 * 9 + 8 * 16 * 9)
    convolutions = 9 * (8 * 16 + 16 * 8 + 8 * 12 + 12 * 8)
    assert found["stem"].params == 8 * 3 * 9 + 8 + convolutions + 2 * 2 * 8 + 4 * 8
    assert found["stem"].macs == 64 * (8 * 3 * 9 + convolutions) + 4 * 8
    assert found["stem"].stream
    assert not inner.stream
    assert inner.removable


@pytest.mark.parametrize("name", [*MODELS, "Vit", "Bert", "Llama", "Swin"])
def test_macs_of_groups_against_one_group_at_a_time(name: str) -> None:
    graph = traced(name) if name in ARCHITECTURES else trace(trained(name), torch.zeros(2, *SHAPE))
    for group in inspect_graph(graph).groups:
        falls = 0
        for operation in graph.program.operations:
            falls += operation_macs(graph.program, operation, {}) - operation_macs(
                graph.program, operation, {group.id: 0}
            )
        assert group.macs == falls > 0
        assert 0 < group.params <= graph.parameter_count({})
        assert set(group.parameters) == {member.parameter for member in graph.groups[group.id].members}


@pytest.mark.parametrize("name", ["Vit", "Llama", "Swin", "Resnet", "Parallel"])
def test_reach_is_what_the_built_models_have(name: str) -> None:
    graph = traced(name)
    found = inspect_graph(graph, space={"extends": ["cnn", "depth"]})
    for policy, place in (({}, 0), (found.narrowest, 1)):
        module = graph.module(policy)
        assert found.params[place] == sum(p.numel() for p in module.parameters())
        assert found.macs[place] == graph.macs(graph.widths(policy))
    assert found.params[0] > found.params[1] > found.params[2] > 0
    assert found.macs[0] > found.macs[1] > found.macs[2] > 0


def test_the_space_is_the_one_for_the_kind_of_model() -> None:
    assert inspect_graph(traced("Vit")).space == "transformer"
    assert inspect_graph(traced("Resnet")).space == "cnn"
    assert inspect_graph(traced("Llama"), space="llm").space == "llm"


def test_frozen_dimensions_by_reason() -> None:
    found = inspect_graph(traced("Llama")).frozen
    assert [(item.reason, item.dimensions, item.params, item.locked) for item in found] == [
        ("aten.embedding.default: is the vocabulary of an embedding", 1, 20 * 128, 0),
        ("is an output of the model", 1, 20 * 128, 0),
    ]
    assert found[1].examples == ("out.weight[0]",)
    assert [item.operator for item in found] == ["aten.embedding.default", None]


def test_an_operator_without_a_rule_is_blamed() -> None:
    found = inspect_graph(trace(Transformed().eval(), torch.zeros(2, 8)))
    (warning,) = found.warnings
    assert "of the parameters can shrink" in warning
    assert "locked by operator aten.fft_rfft.default, which has no rule" in warning
    assert "CONTRIBUTING.md, 'Adding an operator rule'" in warning
    assert found.frozen[0].operator == "aten.fft_rfft.default"
    assert found.frozen[0].locked > 0.5 * found.params[0]
    assert "aten.fft_rfft.default" in found.summary()


def test_outputs_are_blamed_with_what_to_do() -> None:
    found = inspect_graph(trace(Hidden().eval(), torch.zeros(2, 3, dtype=torch.long)))
    (warning,) = found.warnings
    assert "are locked as outputs of the model, whose sizes callers rely on: inspect the model with the head" in warning


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "operator aten.sort.default has no rule",
            "20% are locked by operator aten.sort.default, which has no rule: wri",
        ),
        (
            "aten.sum.default: this form of it has no rule",
            "by operator aten.sum.default, this form of which has no rule",
        ),
        (
            "aten.roll.default: reorders it",
            "by operator aten.roll.default (reorders it): rewrite that part of the model",
        ),
        (
            "aten.embedding.default: is the vocabulary of an embedding",
            "since each dimension is the vocabulary of an emb",
        ),
        ("is produced by no parameter", "20% are locked, since each dimension is produced by no parameter"),
        ("is an output of the model", "inspect the model with the head that it is used with"),
    ],
)
def test_each_kind_of_reason_says_what_to_do(reason: str, told: str) -> None:
    operator = next((word.strip(":") for word in reason.split() if word.startswith("aten.")), None)
    assert told in blame(FrozenReason(reason, operator, 1, 40, 20, ("a.weight[0]",)), 100)


def test_an_operator_without_a_rule_is_told_of_where_it_holds_much() -> None:
    """Half the model is free, and yet a transform that could have a rule locks the rest."""
    wide = nn.Sequential(nn.Linear(8, 400), nn.ReLU(), nn.Linear(400, 8), Transformed()).eval()
    (warning,) = inspect_graph(trace(wide, torch.zeros(2, 8))).warnings
    assert "locked by operator aten.fft_rfft.default, which has no rule" in warning
    assert "can shrink" not in warning


def test_a_model_in_which_nothing_can_be_pruned_is_no_error() -> None:
    found = inspect_graph(trace(nn.Linear(8, 4).eval(), torch.zeros(2, 8)))
    assert found.groups == ()
    assert found.params == (36, 36, 36)
    assert found.warnings[0].startswith("nothing can be pruned; ")
    assert "0 groups, 0.0% of 36 parameters" in found.summary()
    json.dumps(found.to_data())


def test_a_space_that_leaves_nothing_is_one() -> None:
    with pytest.raises(InputError, match="the rules freeze them"):
        inspect_graph(small_graph(), space={"rules": [{"freeze": True}]})


def test_the_data_has_everything() -> None:
    found = inspect_graph(traced("Vit"))
    data = json.loads(json.dumps(found.to_data()))
    assert data["schema"] == "autoprune.inspection/1"
    assert set(data) == {
        "schema", "space", "prunable_share", "groups", "frozen", "frozen_reasons", "macs", "params",
        "latency_p50_us", "narrowest", "warnings",
    }  # fmt: skip
    assert data["groups"][1] == {
        "id": "blocks.0.mix.qkv",
        "unit": "head",
        "size": 4,
        "narrowest": 1,
        "parameters": ["blocks.0.mix.proj.weight", "blocks.0.mix.qkv.bias", "blocks.0.mix.qkv.weight"],
        "params": 3 * 32 * 33 + 32 * 32,
        "macs": found.groups[1].macs,
        "stream": False,
        "removable": True,
    }
    assert set(data["frozen_reasons"][0]) == {
        "reason", "operator", "dimensions", "params", "locked", "locked_share", "examples",
    }  # fmt: skip
    assert set(data["frozen"][0]) == {"parameter", "axis", "size", "reason"}
    assert list(data["macs"]) == list(data["params"]) == ["dense", "narrowest", "limit"]
    assert data["narrowest"] == dict(found.narrowest)


def test_the_text_folds_blocks_that_are_alike() -> None:
    found = inspect_graph(traced("Vit"))
    lines = found.summary().splitlines()
    assert "blocks.{0..2}  x3" in lines
    assert sum("qkv:head_dim" in line for line in lines) == 1
    every = found.summary(everything=True).splitlines()
    assert sum("qkv:head_dim" in line for line in every) == 3
    assert sum("is an output of the model" in line for line in every) == 1 + 2


def test_warnings_are_wrapped_and_rows_are_not() -> None:
    found: Inspection = inspect_graph(trace(Transformed().eval(), torch.zeros(2, 8)))
    narrow = found.summary(width=70).splitlines()
    start = next(place for place, line in enumerate(narrow) if line.startswith("warning: "))
    assert len(narrow[start:]) > 2
    assert all(len(line) <= 70 for line in narrow[start:])
    assert len(found.summary(width=400).splitlines()) < len(narrow)


def test_the_door_is_the_same_inspection() -> None:
    model, inputs = ARCHITECTURES["Resnet"]
    found = ap.inspect(model().eval(), inputs)
    assert isinstance(found, Inspection)
    assert [group.id for group in found.groups] == list(traced("Resnet").groups)

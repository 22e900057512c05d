"""Integers that remember where they come from, and the attributes that they are put into."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoprune.graph.dimension import Concatenation, Constant, Product, Width
from autoprune.graph.native.attributes import assign, integers, preserved, tracked
from autoprune.graph.native.evidence import parts
from autoprune.graph.native.recording import record
from autoprune.graph.native.tracked import Origin, Place, TrackedInt, evaluate, places, plain, tracked_integers
from tests.graph.native_models import WIDTH, Blocks, Configured, FusedAttention, features

A, B = Place("m", ("a",)), Place("m", ("b", 1))


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 9))
def test_arithmetic_is_that_of_ints_and_replays_with_other_values(a: int, b: int, c: int) -> None:
    x, y = TrackedInt(a, A), TrackedInt(b, B)
    for result, expected in (
        (x * y, a * b), (c * x + y, c * a + b), (x // c, a // c), (x % y, a % b), (100 // y, 100 // b), (x - c, a - c),
        (c - x, c - a), (100 % x, 100 % a),
    ):  # fmt: skip
        assert result == expected
        assert isinstance(result, TrackedInt)
        assert evaluate(result.origin, {A: a, B: b}) == expected
    total = x * y + c
    assert isinstance(total, TrackedInt)
    assert evaluate(total.origin, {A: 2, B: 3}) == 6 + c
    assert list(places(total.origin)) == [A, B]


def test_floats_are_plain_and_leave_a_note() -> None:
    escapes: set[Origin] = set()
    x = TrackedInt(16, A, escapes)
    assert x**-0.5 == 0.25
    assert type(x**2) is int
    assert escapes == {A}
    escapes.clear()
    assert (math.sqrt(x * 4), 2 ** TrackedInt(3, B, escapes), 8 / x, x / 8) == (8.0, 8, 0.5, 2.0)
    assert escapes == {("mul", A, 4), A, B}


def test_other_types_are_left_to_themselves() -> None:
    x = TrackedInt(4, A)
    assert x * 1.5 == 6.0
    assert torch.equal(x * torch.ones(2), torch.full((2,), 4.0))
    assert (x == 4, x < 5, hash(x) == hash(4), list(range(x))) == (True, True, True, [0, 1, 2, 3])
    assert copy.deepcopy(x).origin == A


def test_arguments_are_searched_and_made_plain() -> None:
    x = TrackedInt(4, A)
    arguments = ((1, x), {"size": [x, 2]}, slice(None, x))
    assert [key for key, _ in tracked_integers(arguments)] == [(0, 1), (1, "size", 0), (2, "stop")]
    cleaned = plain(arguments)
    assert not list(tracked_integers(cleaned))
    assert cleaned == ((1, 4), {"size": [4, 2]}, slice(None, 4))


def test_integers_of_attributes_tuples_and_configurations_are_found() -> None:
    model = Configured()
    found = integers(model)
    assert found[Place("attentions.1", ("config", "hidden_size"))] == WIDTH
    assert found[Place("norm", ("normalized_shape", 0))] == WIDTH
    assert found[Place("", ("model_dim",))] == WIDTH
    convolution = nn.Conv2d(4, 8, 3, stride=2, padding=1)
    assert {place.path[0] for place in integers(convolution)} == {"in_channels", "out_channels"}


def test_tracking_ends_with_the_block_even_when_it_raises() -> None:
    model = Configured()
    config = model.config
    with tracked(model):
        assert isinstance(model.model_dim, TrackedInt)
        assert model.config is not config
    assert model.config is config
    with pytest.raises(RuntimeError, match="stop"), tracked(model):
        raise RuntimeError("stop")
    assert type(model.model_dim) is int
    assert model.config is config
    assert type(config.hidden_size) is int


def test_assignments_can_be_undone() -> None:
    model = Configured()
    before = integers(model)
    mlps = [Place(f"mlps.{i}", ("config", "intermediate_size")) for i in range(2)]
    revert = assign(model, {Place("norm", ("normalized_shape", 0)): 7, mlps[0]: 9, mlps[1]: 11})
    assert model.norm.normalized_shape == (7,)
    assert [integers(model)[place] for place in mlps] == [9, 11]
    revert()
    assert integers(model) == before
    assert vars(model.mlps[0])["config"] is model.config


def test_what_a_run_fills_is_put_back() -> None:
    model, cache = nn.Linear(2, 2), {"a": 1}
    vars(model).update(cache=cache, seen=[1])
    with preserved(model):
        vars(model)["cache"]["b"] = 2
        vars(model)["seen"].append(2)
        vars(model)["count"] = 3
        model.register_buffer("made", torch.zeros(1))
    assert vars(model)["cache"] is cache
    assert (cache, vars(model)["seen"]) == ({"a": 1}, [1])
    assert "count" not in vars(model)
    assert not list(model.buffers())


def test_a_recording_says_which_call_got_which_attribute() -> None:
    recording = record(Blocks(FusedAttention()).eval(), ((features(),), {}))
    reshapes = [use for use in recording.uses if use.function == "reshape"]
    named = [str(place) for use in reshapes for _, integer in use.integers for place in places(integer.origin)]
    assert named == ["attentions.0.num_heads", "attentions.0.head_dim", "attentions.0.attn_dim"]
    assert len(recording.attentions) == 1  # its scale is the default one


def test_parts_of_a_dimension() -> None:
    heads, width = Width("h", 4), Width("d", 8)
    fused = Product((Constant(3), heads, width))
    assert Product((heads, width)) in list(parts(fused))
    assert {heads, width, Constant(3)} <= set(parts(fused))
    joined = Concatenation((heads, width, Constant(2)))
    assert Concatenation((heads, width)) in list(parts(joined))

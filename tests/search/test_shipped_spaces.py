"""The spaces that ship, on models of all families: every policy drawn builds and equals the oracle."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoprune.search.space import SearchSpace
from autoprune.search.traits import Traits, traits
from tests.graph.oracle import Oracle
from tests.search.architectures import ARCHITECTURES, traced

FAMILIES = ("Vit", "Bert", "Llama", "Swin", "Resnet")
SPACES: dict[str, Any] = {
    **{name: name for name in ("auto", "cnn", "transformer", "llm", "depth")},
    "transformer and depth": {"extends": "transformer", "rules": [{"remove": True}]},
    "llm and depth": {"extends": "llm", "rules": [{"remove": True}]},
}


@functools.cache
def space_of(name: str, kind: str) -> SearchSpace:
    return SearchSpace.load(SPACES[kind], traced(name), quantum=4)


def found(name: str, kind: str) -> list[tuple[Traits, int, tuple[int, ...]]]:
    """Traits, size and widths of every group."""
    graph = traced(name)
    widths = space_of(name, kind).widths
    return [(trait, graph.groups[group].size, widths[group]) for group, trait in traits(graph).items()]


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in FAMILIES for kind in SPACES])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_policy_builds_and_equals_the_oracle(name: str, kind: str, data: st.DataObject) -> None:
    graph, space = traced(name), space_of(name, kind)
    inputs = ARCHITECTURES[name][1]
    policy = space.policy(data.draw(st.tuples(*(st.integers(0, count - 1) for count in space.levels))))
    assert graph.check(policy) == policy
    kept = {group: np.arange(width, dtype=np.int64) for group, width in policy.items()}
    with torch.no_grad():
        torch.testing.assert_close(graph.module(policy)(inputs), Oracle(graph, kept)(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", SPACES)
def test_both_ends_build(name: str, kind: str) -> None:
    graph, space = traced(name), space_of(name, kind)
    inputs = ARCHITECTURES[name][1]
    with torch.no_grad():
        for choice in (space.narrowest, space.uniform(0.5), space.dense):
            assert graph.module(space.policy(choice))(inputs).isfinite().all()
    assert not any(traced(name).groups[g].size != width for g, width in space.policy(space.dense).items())


@pytest.mark.parametrize("name", ["Vit", "Bert", "Swin"])
def test_transformer_leaves_embedding_and_head_widths_alone(name: str) -> None:
    for trait, size, widths in found(name, "transformer"):
        if trait.stream or trait.unit == "head_dim":
            assert widths == (size,)
        elif trait.unit == "head":
            assert widths == tuple(range(1, size + 1))
        else:
            assert len(widths) > 4
            assert all(width % 4 == 0 for width in widths)


def test_the_comment_in_transformer_frees_the_embedding_width() -> None:
    rule = {"stream": True, "freeze": False, "minimum": 0.5, "levels": 5, "tie": "embedding"}
    space = SearchSpace.load({"extends": "transformer", "rules": [rule]}, traced("Swin"))
    embedding = next(variable for variable in space.variables if variable.name == "embedding")
    assert embedding.groups == ("patches", "merge")
    assert embedding.widths == ((8, 16), (10, 20), (12, 24), (14, 28), (16, 32))


def test_llm_has_one_number_for_each_kind_of_width() -> None:
    space = space_of("Llama", "llm")
    assert {variable.name: len(variable.groups) for variable in space.variables} == {
        "embedding 128": 1, "heads 2": 3, "queries 3": 3, "mlp 40": 3,
    }  # fmt: skip
    assert space.widths["embed"] == (64, 128)
    for choice in (space.narrowest, space.uniform(0.3)):
        policy = space.policy(choice)
        for part in ("q", "q:head", "gate"):
            assert len({policy[f"layers.{layer}.{part}"] for layer in range(3)}) == 1


def test_llm_has_one_number_a_stage_where_stages_differ() -> None:
    assert [variable.name for variable in space_of("Swin", "llm").variables] == [
        "heads 2", "mlp 24", "heads 4", "mlp 48",
    ]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_depth_removes_blocks_and_nothing_else(name: str) -> None:
    space = space_of(name, "depth")
    for trait, size, widths in found(name, "depth"):
        assert widths in ((size,), (0, size))
        assert not (trait.stream and 0 in widths)
    gone = space.policy(space.narrowest)
    left = traced(name).module(gone)
    assert sum(p.numel() for p in left.parameters()) < traced(name).parameter_count({}) / 2


def test_depth_of_one_kind_of_block_in_part_of_a_model() -> None:
    rules = [{"freeze": True}, {"unit": "hidden", "remove": True}, {"match": "stage1.*", "remove": False}]
    space = SearchSpace.load({"rules": rules}, traced("Swin"))
    assert [variable.name for variable in space.variables] == ["stage2.0.think.one", "stage2.1.think.one"]

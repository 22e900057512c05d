"""What groups are, told from the program: the same answers whatever the modules are called."""

from __future__ import annotations

import pytest

from autoprune.search.traits import default_space, traits
from tests.graph.models import SHAPE, trained
from tests.search.architectures import traced

STREAMS = {"Vit": {"patches"}, "Bert": {"words"}, "Llama": {"embed"}, "Swin": {"patches", "merge"},
           "Resnet": {"stem", "down"}, "Parallel": set()}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_what_blocks_add_to(name: str) -> None:
    assert {group for group, found in traits(traced(name)).items() if found.stream} == STREAMS[name]


def test_units_of_grouped_query_attention() -> None:
    units = {group: found.unit for group, found in traits(traced("Llama")).items()}
    assert units["layers.1.q"] == "head"
    assert units["layers.1.q:head"] == "query"
    assert units["layers.0.q:head_dim"] == units["layers.1.v"] == "head_dim"
    assert units["layers.1.gate"] == "hidden"


def test_the_width_of_a_head_is_one_however_attention_is_written() -> None:
    units = {group: found.unit for group, found in traits(traced("Bert")).items()}
    assert units["layers.0.query"] == "head"
    assert units["layers.0.query:head_dim"] == units["layers.0.value"] == "head_dim"
    assert units["pooler"] == "hidden"


def test_removable_is_what_the_graph_says() -> None:
    graph = traced("Vit")
    assert {g for g, found in traits(graph).items() if found.removable} == set(graph.closure)


@pytest.mark.parametrize(
    ("name", "space"), [("Vit", "transformer"), ("Llama", "transformer"), ("Swin", "transformer"), ("Resnet", "cnn")]
)
def test_the_default_space_follows_the_units(name: str, space: str) -> None:
    assert default_space(traced(name)) == space


def test_depthwise_and_grouped_models_have_streams_of_their_own() -> None:
    import torch

    from autoprune.graph import trace

    graph = trace(trained("Depthwise"), torch.zeros(1, *SHAPE))
    found = traits(graph)
    assert found["stem"].stream
    assert not found["expand"].stream

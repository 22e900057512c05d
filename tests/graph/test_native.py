"""`native_model`: the user's own class at pruned sizes gives what the traced module gives, or there is a reason."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.graph import DependencyGraph, trace
from autoprune.graph.native import patch
from tests.graph.native_models import (
    HEAD,
    HEADS,
    TOKENS,
    VOCABULARY,
    WIDTH,
    Blocks,
    CachedBiasAttention,
    Config,
    Configured,
    FusedAttention,
    GroupedQueryAttention,
    ShapedAttention,
    TorchAttention,
    TransposedAttention,
    features,
)

ATTENTIONS: dict[str, Callable[[], nn.Module]] = {
    kind.__name__: kind
    for kind in (
        FusedAttention, ShapedAttention, GroupedQueryAttention, TransposedAttention, TorchAttention,
        CachedBiasAttention,
    )
}  # fmt: skip
NAMES = (*ATTENTIONS, "Configured")


def tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, VOCABULARY, (3, TOKENS), generator=torch.Generator().manual_seed(1))}


def made(name: str) -> tuple[nn.Module, Any]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        if name == "Configured":
            return Configured().eval(), tokens()
        return Blocks(ATTENTIONS[name](), ATTENTIONS[name]()).eval(), features()


@functools.cache
def traced(name: str) -> DependencyGraph:
    return trace(*made(name))


def outputs(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return found


def halved(graph: DependencyGraph, keep: str) -> dict[str, int]:
    """All groups halved but the heads, or the widths of heads: both together then shrink as the residual width does."""
    kinds = {
        name: "head" if group.unit == "head" else "width" if group.size == HEAD else ""
        for name, group in graph.groups.items()
    }
    return {name: group.size // 2 for name, group in graph.groups.items() if kinds[name] != keep}


def of_unit(graph: DependencyGraph, unit: str, width: int) -> dict[str, int]:
    return {name: width for name, group in graph.groups.items() if group.unit == unit}


def native(name: str, policy: Mapping[str, int]) -> tuple[nn.Module, nn.Module]:
    """The patched model, checked against the traced one: outputs on other inputs, names and shapes of the state."""
    model, inputs = made(name)
    small = traced(name).module(policy)
    patched, reason = patch(model, small, inputs)
    assert reason == ""
    assert patched is not None
    assert type(patched) is type(model)
    rows = {k: v.flip(0)[:2] for k, v in inputs.items()} if isinstance(inputs, dict) else -2.0 * inputs[:2]
    torch.testing.assert_close(outputs(patched, rows), outputs(small, rows), rtol=1e-4, atol=1e-5)
    mine, theirs = patched.state_dict(), small.state_dict()
    assert {key: mine[key].shape for key in theirs if key in model.state_dict()} == {
        key: value.shape for key, value in theirs.items() if key in model.state_dict()
    }
    assert set(mine) == set(model.state_dict())
    return patched, small


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", ["head", "width"])
def test_heads_or_head_width_with_the_residual_width(name: str, keep: str) -> None:
    native(name, halved(traced(name), keep))


@pytest.mark.parametrize("name", ["FusedAttention", "GroupedQueryAttention", "TransposedAttention", "Configured"])
def test_classes_with_a_width_of_their_own_take_any_uniform_policy(name: str) -> None:
    graph = traced(name)
    for ratio in (0.25, 0.5, 0.75):
        native(name, graph.uniform(ratio))
    native(name, of_unit(graph, "head", 1))


@pytest.mark.parametrize("name", NAMES)
def test_hidden_layers_alone(name: str) -> None:
    graph = traced(name)
    native(name, {group: 5 + i for i, group in enumerate(graph.groups) if group.startswith(("ups", "mlps"))})


def test_units_are_the_ones_kept_and_attributes_say_so() -> None:
    graph, (model, inputs) = traced("FusedAttention"), made("FusedAttention")
    kept = {"attentions.0.qkv": np.array([1, 3]), "attentions.1.qkv:head_dim": np.array([0, 2, 3])}
    small = graph.module(kept=kept)
    patched, reason = patch(model, small, inputs)
    assert reason == ""
    assert patched is not None
    first, second = patched.get_submodule("attentions.0"), patched.get_submodule("attentions.1")
    assert isinstance(first, FusedAttention)
    assert isinstance(second, FusedAttention)
    assert (first.num_heads, first.head_dim, first.attn_dim, first.scale) == (2, 4, 8, 0.5)
    assert (second.num_heads, second.head_dim, second.attn_dim, second.scale) == (4, 3, 12, 0.5)
    assert first.qkv.out_features == 24
    torch.testing.assert_close(outputs(patched, features(7)), outputs(small, features(7)))


def test_scales_made_from_the_width_are_made_up_for_in_the_queries_alone() -> None:
    policy = halved(traced("ShapedAttention"), "head")
    patched, small = native("ShapedAttention", policy)
    mine, theirs = patched.state_dict(), small.state_dict()
    differing = {name for name in mine if not torch.equal(mine[name], theirs[name])}
    assert differing == {f"attentions.{i}.qkv.{leaf}" for i in range(2) for leaf in ("weight", "bias")}
    ratio = mine["attentions.0.qkv.weight"] / theirs["attentions.0.qkv.weight"]  # (24, 8): queries, keys, values
    changed = ratio.mean(1).reshape(3, 8)
    expected = torch.ones(3, 8)
    expected[int((changed[1] < 0.9).all())] = 0.5**0.5  # queries or keys: the product is the same
    torch.testing.assert_close(changed, expected)


def test_a_shared_configuration_stays_shared_where_one_value_fits_all() -> None:
    graph = traced("Configured")
    patched, _ = native("Configured", {"attentions.0.dense": 10, "mlps.0.up": 9, "mlps.1.up": 9})
    assert isinstance(patched, Configured)
    configs = [patched.config, *(m.config for m in (*patched.attentions, *patched.mlps))]
    assert all(config is patched.config for config in configs)
    assert (patched.config.hidden_size, patched.config.intermediate_size) == (10, 9)
    assert patched.config.num_hidden_layers == HEADS  # a coincidence, not a size
    assert graph.groups["attentions.0.dense"].size == WIDTH


def test_layers_that_need_another_value_get_their_own_configuration() -> None:
    patched, _ = native("Configured", {"mlps.0.up": 9, "mlps.1.up": 17, "attentions.1.query": 2})
    assert isinstance(patched, Configured)
    sizes = [mlp.config.intermediate_size for mlp in patched.mlps]  # type: ignore[union-attr]
    assert sizes == [9, 17]
    assert [a.num_attention_heads for a in patched.attentions] == [HEADS, 2]
    assert all(isinstance(mlp.config, Config) for mlp in patched.mlps)


def test_an_integer_that_is_only_a_factor_keeps_the_trained_value() -> None:
    patched, _ = native("Configured", {"attentions.0.dense": 10})
    assert patched.model_dim == WIDTH  # logits are divided by its root, and that root was traced


def test_tied_parameters_stay_tied() -> None:
    patched, _ = native("Configured", traced("Configured").uniform(0.5))
    assert isinstance(patched, Configured)
    assert patched.decoder.weight is patched.embeddings.weight


class CountsCopies:
    """An attribute that knows how often it was deep-copied."""

    def __init__(self) -> None:
        self.copies: list[int] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> CountsCopies:
        self.copies.append(1)
        return CountsCopies()


def test_the_dense_model_is_copied_once_and_not_changed() -> None:
    model, inputs = made("Configured")
    counter = CountsCopies()
    model.counter = counter  # type: ignore[assignment]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    identities = [id(parameter) for parameter in model.parameters()]
    config = vars(model.get_submodule("mlps.0"))["config"]
    graph = trace(model, inputs)
    patched, _ = patch(model, graph.module(graph.uniform(0.5)), inputs)
    assert patched is not None
    assert counter.copies == [1]
    with torch.no_grad():
        for parameter in patched.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert vars(config) == vars(Config())
    assert type(config.hidden_size) is int


def test_modes_hooks_and_gradient_flags_are_kept() -> None:
    model, inputs = made("FusedAttention")
    seen: list[str] = []
    model.get_submodule("head").register_forward_hook(lambda *_: seen.append("head"))
    model.get_submodule("stem").requires_grad_(False)
    model.train()
    model.get_submodule("norms").eval()
    graph = traced("FusedAttention")
    small = graph.module(graph.uniform(0.5))
    patched, reason = patch(model, small, inputs)
    assert reason == ""
    assert patched is not None
    assert {n: m.training for n, m in patched.named_modules()} == {n: m.training for n, m in model.named_modules()}
    assert model.training
    assert not small.training
    assert {n: p.requires_grad for n, p in patched.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
    seen.clear()
    outputs(patched, inputs)
    assert seen == ["head"]


def test_a_patched_model_trains() -> None:
    patched, _ = native("GroupedQueryAttention", traced("GroupedQueryAttention").uniform(0.5))
    patched.train()
    patched(features()).square().mean().backward()
    assert all(parameter.grad is not None for parameter in patched.parameters())


def test_random_inputs_do_where_there_are_no_examples() -> None:
    for name in ("FusedAttention", "Configured"):
        graph, (model, _) = traced(name), made(name)
        patched, reason = patch(model, graph.module(graph.uniform(0.5)))
        assert reason == ""
        assert type(patched) is type(model)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x]])
def test_examples_as_for_trace(wrap: Callable[[Tensor], Any]) -> None:
    graph, (model, _) = traced("FusedAttention"), made("FusedAttention")
    assert patch(model, graph.module(graph.uniform(0.5)), wrap(features()))[1] == ""


def test_torch_attention_names_the_widths_that_do_not_fit() -> None:
    graph, (model, inputs) = traced("TorchAttention"), made("TorchAttention")
    patched, reason = patch(model, graph.module(of_unit(graph, "head", 2)), inputs)
    assert patched is None
    assert "nn.MultiheadAttention 'attentions.0.attention' cannot have heads of 8 features together" in reason
    assert "on inputs of 16" in reason


def test_a_class_that_derives_widths_names_the_module() -> None:
    graph, (model, inputs) = traced("ShapedAttention"), made("ShapedAttention")
    patched, reason = patch(model, graph.module(of_unit(graph, "head", 2)), inputs)
    assert patched is None
    assert "does not run at these sizes: in 'attentions.0' (ShapedAttention): shape" in reason


def test_one_attribute_for_two_widths_is_named() -> None:
    graph, (model, inputs) = traced("Configured"), made("Configured")
    patched, reason = patch(model, graph.module({"attentions.0.query:head_dim": 2}), inputs)
    assert patched is None
    assert "attentions.0.attention_head_size stands for sizes that are now 2 and 4" in reason


def test_a_removed_block_cannot_be_left_out() -> None:
    graph, (model, inputs) = traced("FusedAttention"), made("FusedAttention")
    small = graph.module(graph.uniform(0.5))
    small.widths["ups.0"] = 0
    patched, reason = patch(model, small, inputs)
    assert patched is None
    assert reason.startswith("a block was removed ('ups.0' has width 0)")


class SilentHeads(nn.Module):
    """Heads counted by a literal, behind a scale that starts at zero: trained weights hide what is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.gamma = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y: Tensor = ((q @ k.transpose(-1, -2) * 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.gamma * self.proj(y)


def test_a_branch_that_contributes_nothing_yet_is_compared_all_the_same() -> None:
    model = Blocks(SilentHeads()).eval()
    graph = trace(model, features())
    heads = of_unit(graph, "head", 2)
    assert heads
    small = graph.module(heads)
    patched, reason = patch(model, small, features())
    assert patched is None  # runs, with four heads of two where there should be two of four
    assert reason == "the model's class gives other outputs with random weights at these sizes"


class TwoHeads(nn.Module):
    """Returns one output of two: the other branch runs, but is not in the traced program."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.main, self.side = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 2)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu()
        self.side(x)
        y: Tensor = self.main(x)
        return y


def test_a_branch_outside_the_program_is_named() -> None:
    model = TwoHeads().eval()
    graph = trace(model, features())
    patched, reason = patch(model, graph.module({"body": 8}), features())
    assert patched is None
    assert "in 'side' (Linear, which the traced program does not read)" in reason


class Paths(nn.Module):
    """Channels split into paths by a quotient of attributes that no parameter has the size of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Linear(5, WIDTH), nn.LSTM(WIDTH, 6, batch_first=True)
        self.in_channels, self.num_paths = WIDTH, 2
        self.paths = nn.ModuleList(nn.Linear(WIDTH // 2, 7) for _ in range(2))
        self.out = nn.Linear(7 + 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        first, second = torch.split(x, self.in_channels // self.num_paths, -1)
        y = self.paths[0](first) + self.paths[1](second)
        z: Tensor = self.out(torch.cat([y, self.mix(x)[0]], -1).mean(1))
        return z


def test_a_quotient_of_attributes_is_solved_for_the_size() -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = Paths().eval()
    graph = trace(model, features())
    small = graph.module(graph.uniform(0.5))
    patched, reason = patch(model, small, features())
    assert reason == ""
    assert isinstance(patched, Paths)
    assert (patched.in_channels, patched.num_paths, patched.mix.input_size) == (8, 2, 8)
    torch.testing.assert_close(outputs(patched, features(2)), outputs(small, features(2)))

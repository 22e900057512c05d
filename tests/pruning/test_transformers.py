"""Every kind of consumer: what is a copy or a combination of what stays goes at no loss."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.graph import DependencyGraph, trace
from autoprune.pruning import Pruner
from autoprune.pruning.consumers import find_consumers
from autoprune.pruning.norms import find_norms
from tests.pruning.transformers import (
    Attending,
    Equation,
    Experts,
    Gated,
    Inverted,
    Line,
    Normed,
    Shared,
    Tied,
    Upsampling,
)

Make = Callable[[], nn.Module]
TOKENS, IMAGES, VIDEO = (6, 5), (3, 8, 8), (3, 5, 5, 4)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shrinkage: solutions are those of plain least squares."""
    monkeypatch.setattr("autoprune.pruning.compensation.damping_for", lambda columns, samples: 1e-10)
    monkeypatch.setattr("autoprune.pruning.attention.LEAST_DAMPING", 1e-10)


def traced(make: Make, shape: tuple[int, ...]) -> tuple[nn.Module, DependencyGraph, list[tuple[Tensor]]]:
    torch.manual_seed(0)
    model = make().eval()
    batches = [(torch.randn(20, *shape),) for _ in range(2)]
    if isinstance(model, Tied):
        batches = [(torch.randint(0, 11, (20, 6)),) for _ in range(2)]
    return model, trace(model, batches[0]), batches


def outputs(module: nn.Module, batches: list[tuple[Tensor]]) -> Tensor:
    with torch.no_grad():
        return torch.cat([module(*batch).flatten() for batch in batches])


def distance(module: nn.Module, model: nn.Module, batches: list[tuple[Tensor]]) -> float:
    """Share of the output's variance that is missed."""
    y = outputs(model, batches)
    return float((outputs(module, batches) - y).square().mean() / y.var())


COPIED: dict[str, tuple[Make, tuple[int, ...], tuple[tuple[str, int], ...], dict[str, int]]] = {
    # model, input, parameters whose outputs (along an axis) are made copies of each other, policy
    "inputs first (addmm)": (Inverted, TOKENS, (("fc.weight", 1), ("fc.bias", 0)), {"fc": 5}),
    "gated": (Gated, TOKENS, (("gate.weight", 0), ("up.weight", 0)), {"gate": 5}),
    "shared": (Shared, TOKENS, (("first.weight", 0), ("first.bias", 0)), {"first": 5}),
    "experts (bmm)": (Experts, TOKENS, (("up", 2),), {"up": 5}),
    "transposed": (Upsampling, IMAGES, (("conv.weight", 0), ("conv.bias", 0)), {"conv": 5}),
    "overlapping": (lambda: Upsampling(3), IMAGES, (("conv.weight", 0), ("conv.bias", 0)), {"conv": 5}),
    "conv1d": (Line, (3, 9), (("first.weight", 0), ("first.bias", 0)), {"first": 5}),
    "conv3d": (lambda: Line(3), VIDEO, (("first.weight", 0), ("first.bias", 0)), {"first": 5}),
}


def copy_halves(parameter: Tensor, axis: int) -> None:
    """The second half of a dimension becomes the first, in another order."""
    half = parameter.shape[axis] // 2
    with torch.no_grad():
        parameter.narrow(axis, half, half).copy_(parameter.narrow(axis, 0, half).flip(axis))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", COPIED)
def test_copies_go_at_no_loss(name: str) -> None:
    make, shape, copied, policy = COPIED[name]
    model, graph, batches = traced(make, shape)
    for parameter, axis in copied:
        copy_halves(model.get_parameter(parameter), axis)
    assert distance(Pruner(graph, "obs", batches).build(policy), model, batches) < 1e-6
    assert distance(Pruner(graph, "obs", batches, compensate=False).build(policy), model, batches) > 1e-3


@pytest.mark.usefixtures("exact")
def test_einsum_over_two_axes_is_fitted_over_both() -> None:
    model, graph, batches = traced(Equation, TOKENS)
    with torch.no_grad():
        for parameter in model.first.parameters():  # type: ignore[union-attr]
            shaped = parameter.unflatten(0, (3, 4))
            shaped[:, 2:] = shaped[:, :2]
    policy = {"first:hidden": 2}
    assert distance(Pruner(graph, "obs", batches).build(policy), model, batches) < 1e-6


def combine(model: Attending, layer: nn.Linear, start: int, axis: str) -> None:
    """Head dims 3 to 5 of every head become combinations of dims 0 to 2; or heads 2 and 3 copies of heads 0 and 1."""
    with torch.no_grad():
        for parameter in layer.parameters():
            heads = parameter[start : start + model.heads * model.dim].unflatten(0, (model.heads, model.dim))
            if axis == "head":
                heads[2:] = heads[:2]
            else:
                mixing = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
                heads[:, 3:] = torch.einsum("ij,hj...->hi...", mixing, heads[:, :3])


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("explicit", [False, True], ids=["sdpa", "matmul"])
def test_heads_and_head_dims_that_are_combinations_of_others_go_at_no_loss(explicit: bool) -> None:
    model, graph, batches = traced(lambda: Attending(explicit=explicit), TOKENS)
    assert isinstance(model, Attending)
    combine(model, model.v, 0, "dim")
    pruner = Pruner(graph, "obs", batches)
    assert distance(pruner.build({"v": 3}), model, batches) < 1e-6
    for layer in (model.q, model.k, model.v):
        combine(model, layer, 0, "head")
    pruner = Pruner(graph, "obs", batches)
    assert distance(pruner.build({"q": 2}), model, batches) < 1e-6
    assert distance(pruner.build({"q": 2, "v": 3}), model, batches) < 1e-6


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("rank_of", ["q", "k"])
@pytest.mark.parametrize("kind", ["sdpa", "matmul", "shared keys"])
def test_queries_of_low_rank_need_no_more_dimensions(kind: str, rank_of: str) -> None:
    """Rank three a head: three of six dimensions do, once both layers are rotated; no three of them alone would."""
    pairs = 2 if kind == "shared keys" else 4
    model, graph, batches = traced(lambda: Attending(pairs=pairs, explicit=kind == "matmul"), TOKENS)
    with torch.no_grad():
        layer: nn.Linear = getattr(model, rank_of)
        mixing = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
        mixing = mixing[:, :3] @ mixing[:3]
        for parameter in layer.parameters():
            heads = parameter.unflatten(0, (-1, 6))
            heads.copy_(torch.einsum("ij,hj...->hi...", mixing, heads))
    policy = {"q:head_dim": 3}
    plain = distance(Pruner(graph, "obs", batches, compensate=False).build(policy), model, batches)
    assert distance(Pruner(graph, "obs", batches).build(policy), model, batches) < 1e-6 < 0.01 * plain


@pytest.mark.usefixtures("exact")
def test_fused_query_key_value_layers_are_refitted_side_by_side() -> None:
    model, graph, batches = traced(lambda: Attending(fused=True), TOKENS)
    assert isinstance(model, Attending)
    combine(model, model.qkv, 0, "dim")
    combine(model, model.qkv, 2 * model.heads * model.dim, "dim")
    policy = {"qkv:head_dim": 3}
    assert distance(Pruner(graph, "obs", batches).build(policy), model, batches) < 1e-6


def test_rotations_are_better_than_the_best_dimensions() -> None:
    model, graph, batches = traced(Attending, TOKENS)
    errors = [
        distance(Pruner(graph, "obs", batches, compensate=c).build({"q:head_dim": 3}), model, batches)
        for c in (True, False)
    ]
    assert errors[0] < errors[1]


NORMS = ("layer", "rms", "written", "group")


@pytest.mark.parametrize("kind", NORMS)
def test_norms_over_a_cut_width_give_about_what_they_gave(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, graph, batches = traced(lambda: Normed(kind), IMAGES if kind == "group" else TOKENS)
    (norm,) = find_norms(graph)
    group = next(iter(graph.groups)) if kind != "group" else "first:channel"
    width = graph.groups[group].size // 2

    def errors() -> tuple[float, float]:
        """Of the norm's output on kept units, and of the model's."""
        pruner = Pruner(graph, "obs", batches)
        module = pruner.slice({group: width})
        seen: dict[str, Tensor] = {}
        hooks = [
            m.get_submodule("last").register_forward_pre_hook(lambda _, args, k=k: seen.update({k: args[0]}))
            for k, m in (("pruned", module), ("dense", model))
        ]
        distances = distance(module, model, batches)
        for hook in hooks:
            hook.remove()
        kept = pruner.orders[group].kept(width)
        if kind == "group":
            kept = (np.arange(3)[:, None] * 8 + kept).flatten()
        dense = seen["dense"].index_select(1 if kind == "group" else -1, torch.from_numpy(kept))
        return float((seen["pruned"] - dense).square().mean()), distances

    corrected = errors()
    monkeypatch.setattr("autoprune.pruning.repairs.find_norms", lambda graph: ())
    plain = errors()
    assert norm.weight == "norm.weight"
    assert corrected[0] < 0.5 * plain[0]
    assert corrected[1] < plain[1]


def test_groups_of_a_group_norm_that_go_whole_leave_the_others_as_they_are() -> None:
    model, graph, batches = traced(lambda: Normed("group"), IMAGES)
    module = Pruner(graph, "obs", batches).slice({"first": 2})
    rows = [int((model.get_parameter("norm.weight") == w).nonzero()[0]) for w in module.get_parameter("norm.weight")]
    assert len(rows) == 16
    plain = Pruner(graph, "obs", batches, compensate=False).slice({"first": 2})
    assert torch.equal(module.get_parameter("norm.bias"), plain.get_parameter("norm.bias"))


def test_tied_weights_order_and_stay() -> None:
    model, graph, batches = traced(Tied, TOKENS)
    by_name = {consumer.parameter: consumer for consumer in find_consumers(graph)}
    assert by_name["embed.weight"].fixed
    assert not by_name["fc1.weight"].fixed
    (group,) = by_name["embed.weight"].groups
    with torch.no_grad():
        model.get_parameter("embed.weight")[:, 4] = 0.0
        model.get_parameter("norm.weight")[4] = 0.0
        model.get_parameter("norm.bias")[4] = 0.0
    pruner = Pruner(graph, "obs", batches)
    assert pruner.orders[group].order[-1] == 4
    kept = torch.from_numpy(pruner.orders[group].kept(6))
    module = pruner.slice({group: 6})
    found = next(p for p in module.parameters() if p.shape == (11, 6))
    assert torch.equal(found.detach(), model.get_parameter("embed.weight").detach()[:, kept])


def test_inputs_too_wide_to_fit_are_ordered_by_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.pruning.consumers.LARGEST", 9)
    model, graph, batches = traced(Gated, TOKENS)
    (consumer,) = find_consumers(graph)
    assert consumer.fixed
    with torch.no_grad():
        model.get_parameter("up.weight")[7] = 0.0
    pruner = Pruner(graph, "obs", batches)
    assert pruner.orders["gate"].order[-1] == 7
    assert distance(pruner.build({"gate": 9}), model, batches) < 1e-10


def test_wide_heads_are_not_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.pruning.consumers.POOL_ABOVE", 4)
    _, graph, _ = traced(Attending, TOKENS)
    out = next(c for c in find_consumers(graph) if c.parameter == "out.weight")
    assert out.source.split == 1
    assert out.columns == 24


CASES: Mapping[str, tuple[Make, tuple[int, ...]]] = {
    **{name: (make, shape) for name, (make, shape, _, _) in COPIED.items()},
    "separate": (Attending, TOKENS),
    "fused": (lambda: Attending(fused=True), TOKENS),
    "matmul": (lambda: Attending(explicit=True), TOKENS),
    "shared keys": (lambda: Attending(pairs=2), TOKENS),
    "einsum": (Equation, TOKENS),
    "tied": (Tied, TOKENS),
    **{kind: (lambda kind=kind: Normed(kind), IMAGES if kind == "group" else TOKENS) for kind in NORMS},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("criterion", ["obs", "l1", "l2", "random"])
def test_every_criterion_on_every_group(name: str, criterion: str) -> None:
    model, graph, batches = traced(*CASES[name])
    pruner = Pruner(graph, criterion, batches)
    assert set(pruner.orders) == set(graph.groups)
    dense = pruner.slice({group.id: group.size for group in graph.groups.values()})
    state: dict[str, Any] = dict(model.state_dict())
    assert all(torch.equal(tensor, state[key]) for key, tensor in dense.state_dict().items() if key in state)
    torch.testing.assert_close(outputs(dense, batches), outputs(model, batches), rtol=1e-4, atol=1e-4)
    module = pruner.build(graph.uniform(0.5))
    assert module.widths == graph.widths(graph.uniform(0.5))
    assert bool(torch.isfinite(outputs(module, batches)).all())


@pytest.mark.parametrize("name", ["separate", "fused", "shared keys", "written", "experts (bmm)", "tied"])
def test_deterministic_and_the_same_after_pickling(name: str) -> None:
    _, graph, batches = traced(*CASES[name])
    policy = graph.uniform(0.5)
    one = Pruner(graph, "obs", batches)
    first = one.build(policy).state_dict()
    for other in (Pruner(graph, "obs", batches), pickle.loads(pickle.dumps(one))):  # noqa: S301 (our own bytes)
        assert all(torch.equal(tensor, first[key]) for key, tensor in other.build(policy).state_dict().items())

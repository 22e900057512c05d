"""The pruner end to end on small traced models."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph, trace
from autoprune.graph.dimension import indices
from autoprune.pruning import Pruner, prune
from tests.pruning.models import MODELS, make

Batches = list[tuple[Tensor, ...]]


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shrinkage: solutions are those of plain least squares."""
    monkeypatch.setattr("autoprune.pruning.compensation.damping_for", lambda columns, samples: 1e-9)


def traced(name: str, seed: int = 0) -> tuple[nn.Module, DependencyGraph, Batches]:
    model, batches = make(name, seed)
    return model, trace(model, batches[0]), batches


def outputs(module: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
    with torch.no_grad():
        return torch.cat([module(*batch) for batch in batches]).double()


def layer(module: nn.Module, name: str) -> Any:
    """A layer by name, typed as what has a weight and a bias."""
    return module.get_submodule(name)


def inputs_of(module: nn.Module, name: str, batches: Batches) -> Tensor:
    """What a layer reads over all batches."""
    seen: list[Tensor] = []
    hook = module.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0].double()))
    outputs(module, batches)
    hook.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("criterion", ["obs", "l1", "l2", "random"])
def test_a_dense_policy_changes_nothing(name: str, criterion: str) -> None:
    model, graph, batches = traced(name)
    pruner = Pruner(graph, criterion, batches, recalibrate=False)
    torch.testing.assert_close(outputs(pruner.build({}), batches), outputs(model, batches))
    dense = {group.id: group.size for group in graph.groups.values()}
    state = pruner.slice(dense).state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("criterion", ["obs", "l1", "l2", "random"])
def test_pruned_models_run_and_have_the_widths_asked_for(name: str, criterion: str) -> None:
    model, graph, batches = traced(name)
    pruner = Pruner(graph, criterion, batches)
    assert set(pruner.orders) == set(graph.groups)
    module = pruner.build(graph.uniform(0.5))
    assert module.widths == graph.widths(graph.uniform(0.5))
    assert outputs(module, batches).shape == outputs(model, batches).shape
    assert not any(m.training for m in module.modules())
    assert sum(p.numel() for p in module.parameters()) == graph.parameter_count(module.widths)


@pytest.mark.usefixtures("exact")
def test_linear_consumer_is_brute_force_least_squares_with_bias() -> None:
    model, graph, batches = traced("chain")
    pruner = Pruner(graph, "obs", batches)
    (group,) = graph.groups
    kept = pruner.orders[group].kept(4)
    x, y = inputs_of(model, "second", batches).numpy(), outputs(model, batches).numpy()
    fit = np.linalg.lstsq(np.c_[x[:, kept], np.ones(len(x))], y, rcond=None)[0]
    second = layer(pruner.slice({group: 4}), "second")
    np.testing.assert_allclose(second.weight.detach().numpy(), fit[:-1].T, atol=1e-5)
    np.testing.assert_allclose(second.bias.detach().numpy(), fit[-1], atol=1e-5)


@pytest.mark.usefixtures("exact")
def test_obs_removes_the_unit_whose_loss_is_least_after_the_best_fit() -> None:
    model, graph, batches = traced("chain", seed=3)
    (group,) = graph.groups
    x, y = inputs_of(model, "second", batches).numpy(), outputs(model, batches).numpy()

    def error(gone: int) -> float:
        design = np.c_[np.delete(x, gone, axis=1), np.ones(len(x))]
        return float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())

    assert Pruner(graph, "obs", batches).orders[group].order[-1] == int(np.argmin([error(unit) for unit in range(10)]))


@pytest.mark.usefixtures("exact", "alike")
def test_concatenated_input_is_fitted_jointly() -> None:
    model, graph, batches = traced("concatenated")
    pruner = Pruner(graph, "obs", batches)
    policy = {"left": 3, "right": 2}
    dimension = graph.program.values["merge.weight"].dimensions[1]
    kept = indices(dimension, {name: pruner.orders[name].kept(width) for name, width in policy.items()})
    x = inputs_of(model, "merge", batches).movedim(1, -1).reshape(-1, 15).numpy()
    weight, bias = (t.detach().double().numpy() for t in (layer(model, "merge").weight, layer(model, "merge").bias))
    y = x @ weight[:, :, 0, 0].T + bias
    fit = np.linalg.lstsq(np.c_[x[:, kept], np.ones(len(x))], y, rcond=None)[0]
    merge = layer(pruner.slice(policy), "merge")
    np.testing.assert_allclose(merge.weight.detach().numpy()[:, :, 0, 0], fit[:-1].T, atol=1e-5)
    np.testing.assert_allclose(merge.bias.detach().numpy(), fit[-1], atol=1e-5)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("pool_above", [2048, 8], ids=["exact", "shared over positions"])
def test_flatten_units_own_their_positions(pool_above: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.pruning.consumers.POOL_ABOVE", pool_above)
    model, graph, batches = traced("concatenated")
    pruner = Pruner(graph, "obs", batches)
    kept = pruner.orders["merge"].kept(3)
    y = outputs(model, batches)
    plain = Pruner(graph, "obs", batches, compensate=False)
    errors = [float((outputs(p.slice({"merge": 3}), batches) - y).square().mean()) for p in (pruner, plain)]
    assert errors[0] < errors[1]
    if pool_above == 2048:  # 48 columns and 48 samples: the exact fit reproduces the outputs it was fitted to
        x = inputs_of(model, "head", batches).reshape(-1, 4, 16)[:, kept].flatten(1).numpy()
        design = np.c_[x, np.ones(len(x))]
        best = ((y.numpy() - design @ np.linalg.lstsq(design, y.numpy(), rcond=None)[0]) ** 2).mean()
        assert errors[0] <= best + 1e-3 * float(y.square().mean())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 50), name=st.sampled_from(["chain", "concatenated", "residual"]), data=st.data())
def test_compensation_never_increases_the_reconstruction_error(seed: int, name: str, data: st.DataObject) -> None:
    """Of every consumer of a cut group, on its dense inputs; up to the mean where a batch norm behind takes that up."""
    model, graph, batches = traced(name, seed)
    group = graph.groups[data.draw(st.sampled_from(sorted(graph.groups)))]
    policy = {group.id: data.draw(st.integers(1, group.size))}
    criterion = data.draw(st.sampled_from(["obs", "l1", "random"]))

    def errors(compensate: bool) -> list[float]:
        pruner = Pruner(graph, criterion, batches, compensate=compensate, seed=seed)
        module = pruner.slice(policy)
        found = []
        for member in group.consumers:
            reader = member.parameter.removesuffix(".weight")
            dense = inputs_of(model, reader, batches).float()
            kept = indices(member.dimension, {group.id: pruner.orders[group.id].kept(policy[group.id])})
            with torch.no_grad():
                gap = layer(module, reader)(dense[:, kept]) - layer(model, reader)(dense)
            if layer(model, reader).bias is None:
                gap = gap - gap.mean(dim=(0, 2, 3), keepdim=True)
            found.append(float(gap.square().mean()))
        return found

    for fitted, plain in zip(errors(True), errors(False), strict=True):
        assert fitted <= plain * (1 + 1e-4) + 1e-9


@pytest.mark.usefixtures("exact", "alike")
def test_small_convolution_is_least_squares_over_its_patches() -> None:
    """3 x 3 with padding, no bias, a batch norm behind: brute force on unfolded patches, means removed."""
    model, graph, batches = traced("residual")
    pruner = Pruner(graph, "obs", batches)
    stream = next(name for name, group in graph.groups.items() if len(group.consumers) > 1)
    x = inputs_of(model, "conv1", batches)
    patches = nn.functional.unfold(x, 3, padding=1).movedim(1, -1).reshape(-1, 8, 9).numpy()
    weight = layer(model, "conv1").weight.detach().double().flatten(1).numpy()
    y = patches.reshape(-1, 72) @ weight.T
    kept = patches[:, pruner.orders[stream].kept(5)].reshape(-1, 45)
    fit = np.linalg.lstsq(kept - kept.mean(axis=0), y - y.mean(axis=0), rcond=None)[0]
    found = layer(pruner.slice({stream: 5}), "conv1").weight.detach().flatten(1).numpy()
    np.testing.assert_allclose(found, fit.T, atol=1e-5)


@pytest.mark.parametrize("joint_up_to", [1152, 0], ids=["joint", "shared"])
@pytest.mark.parametrize("name", MODELS)
def test_compensated_models_stay_nearer_to_the_dense_one(
    name: str, joint_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoprune.pruning.consumers.JOINT_UP_TO", joint_up_to)
    model, graph, batches = traced(name)
    y = outputs(model, batches)
    policy = graph.uniform(0.25)
    pruners = [Pruner(graph, "obs", batches, compensate=compensate, recalibrate=False) for compensate in (True, False)]
    errors = [float((outputs(pruner.build(policy), batches) - y).square().mean()) for pruner in pruners]
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.usefixtures("alike")
@pytest.mark.parametrize("joint_up_to", [1152, 0], ids=["joint", "shared"])
@pytest.mark.parametrize(("cut", "norm"), [("conv1", "bn2"), ("stem.0", "bn1")], ids=["1 x 1", "3 x 3"])
def test_slice_takes_up_means_in_batch_norm(
    cut: str, norm: str, joint_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running mean behind a re-fitted convolution is shifted: the mean behind the norm is the dense one at once."""
    monkeypatch.setattr("autoprune.pruning.consumers.JOINT_UP_TO", joint_up_to)
    model, graph, batches = traced("residual")
    module = Pruner(graph, "obs", batches).slice({cut: 3})

    def mean_behind(m: nn.Module) -> Tensor:
        return inputs_of(m, norm, batches).mean(dim=(0, 2, 3)) - layer(m, norm).running_mean

    torch.testing.assert_close(mean_behind(module), mean_behind(model), rtol=1e-4, atol=1e-4)


def test_residual_group_is_ordered_by_all_its_consumers() -> None:
    model, graph, batches = traced("residual")
    stream = next(group for group in graph.groups.values() if len(group.consumers) > 1)
    assert {member.parameter for member in stream.consumers} == {"conv1.weight", "expand.weight", "head.weight"}
    before = Pruner(graph, "obs", batches).orders[stream.id].order
    silenced = trace(model, batches[0])
    worthless = int(before[0])
    with torch.no_grad():
        for name in ("conv1", "expand", "head"):
            layer(model, name).weight[:, worthless] = 0
    after = Pruner(silenced, "obs", batches).orders[stream.id].order
    assert after.tolist() != before.tolist()
    assert int(np.flatnonzero(after == worthless)[0]) >= stream.size - 2


def test_own_tensors_and_the_dense_model_untouched() -> None:
    model, graph, batches = traced("residual")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module = Pruner(graph, "obs", batches).build({"conv1": 3})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_norms_re_estimated_on_the_first_samples() -> None:
    _, graph, batches = traced("residual")
    policy = graph.uniform(0.5)
    pruner = Pruner(graph, "l1", batches, compensate=False)
    size = len(batches[0][0])
    assert pruner.recalibrated == sum(len(batch[0]) for batch in batches)
    assert Pruner(graph, "l1", batches, recalibrate=False).recalibrated == 0
    few = pruner.build(policy, size).state_dict()
    expected = Pruner(graph, "l1", batches[:1], compensate=False).build(policy).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in few.items())
    whole, same = pruner.build(policy).state_dict(), pruner.build(policy, 10**6).state_dict()
    assert all(torch.equal(tensor, same[key]) for key, tensor in whole.items())
    assert any(not torch.equal(tensor, few[key]) for key, tensor in whole.items())


@pytest.mark.parametrize("name", ["residual", "concatenated"])
def test_deterministic_and_the_same_after_pickling(name: str) -> None:
    _, graph, batches = traced(name)
    policy = graph.uniform(0.4)
    one = Pruner(graph, "obs", batches)
    first = one.build(policy).state_dict()
    for other in (Pruner(graph, "obs", batches), pickle.loads(pickle.dumps(one))):  # noqa: S301 (our own bytes)
        assert all(one.orders[g].order.tolist() == other.orders[g].order.tolist() for g in graph.groups)
        assert all(torch.equal(tensor, first[key]) for key, tensor in other.build(policy).state_dict().items())
    assert all(torch.equal(tensor, first[key]) for key, tensor in one.build(policy).state_dict().items())  # warm caches


def test_random_follows_the_seed() -> None:
    _, graph, _ = traced("residual")
    orders = [Pruner(graph, "random", seed=seed).orders for seed in (0, 0, 1)]
    assert all((orders[0][g].order == orders[1][g].order).all() for g in graph.groups)
    assert any((orders[0][g].order != orders[2][g].order).any() for g in graph.groups)


def test_magnitude_orders_by_producers() -> None:
    model, graph, _ = traced("residual")
    norms = layer(model, "conv1").weight.detach().abs().sum(dim=(1, 2, 3))
    assert Pruner(graph, "l1").orders["conv1"].order.tolist() == norms.argsort(descending=True).tolist()


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.pruning.repairs.CACHE_BYTES", 1000)
    _, graph, batches = traced("residual")
    pruner = Pruner(graph, "obs", batches)
    for width in range(1, 6):
        pruner.slice({"conv1": width, "expand": width})
    repairs = pruner._repairs
    assert repairs is not None
    assert len(repairs._cache) < 10
    assert repairs._cached_bytes <= 1000 or len(repairs._cache) == 1


def test_batches_may_be_tensors_or_keywords() -> None:
    model, graph, batches = traced("chain")
    by_name = trace(model, {"x": batches[0][0]})
    named = [{"x": batch[0]} for batch in batches]
    pruners = [
        Pruner(graph, "obs", batches),
        Pruner(graph, "obs", [b[0] for b in batches]),
        Pruner(by_name, "obs", named),
    ]
    orders = [pruner.orders["first"].order.tolist() for pruner in pruners]
    assert orders[0] == orders[1] == orders[2]


def test_pickles_carry_batches_and_not_what_they_were_cut_from() -> None:
    _, graph, batches = traced("chain")
    dataset = torch.randn(100_000, 6)
    views = [(dataset[:16],), (dataset[16:32],)]
    assert len(pickle.dumps(Pruner(graph, "obs", views))) < len(pickle.dumps(Pruner(graph, "obs", batches))) + 10_000


def test_prune_is_one_build() -> None:
    _, graph, batches = traced("concatenated")
    policy = {"left": 2}
    one, two = prune(graph, policy, calibration=iter(batches)), Pruner(graph, "obs", batches).build(policy)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    sliced = prune(graph, policy, "l1")
    assert sliced.widths["left"] == 2


def test_messages() -> None:
    _, graph, batches = traced("chain")
    with pytest.raises(
        InputError, match=r"unknown criterion 'ob'. Did you mean 'obs'\? Known: activation, bn_scale, .*taylor"
    ):
        Pruner(graph, "ob", batches)
    with pytest.raises(InputError, match=r"criterion 'obs': expected calibration batches, got none. Pass calibration="):
        Pruner(graph)
    with pytest.raises(InputError, match=r"expected tuples of input tensors, got an item with Tensor, int"):
        Pruner(graph, "obs", [(batches[0][0], 3)])
    with pytest.raises(InputError, match="expected batches with samples, got an empty one"):
        Pruner(graph, "obs", [torch.zeros(0, 6)])
    with pytest.raises(InputError, match="got an item with nothing"):
        Pruner(graph, "obs", [()])
    with pytest.raises(InputError, match=r"finite activations, got NaN or infinity at the input of 'second'"):
        Pruner(graph, "obs", [(torch.full((2, 6), float("inf")),)])
    with pytest.raises(InputError, match=r"unknown group 'frist'. Did you mean 'first'\?"):
        prune(graph, {"frist": 3}, calibration=batches)
    with pytest.raises(InputError, match=r"expected 1 to 10 units for 'first', got 11"):
        Pruner(graph, "obs", batches).build({"first": 11})

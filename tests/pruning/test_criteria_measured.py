"""Activations, first-order Taylor and Fisher against plain loops over samples on the user's own module."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph, UnitOrder, trace
from autoprune.graph.dimension import Batch, Constant, Dimension, Product, Width, units_of
from autoprune.pruning import Pruner
from autoprune.pruning.criteria import Need
from autoprune.pruning.statistics import measure
from autoprune.pruning.taps import Tap, find_taps
from tests.pruning.models import MODELS, Chain, make
from tests.pruning.test_pruner import Batches, inputs_of, layer, traced
from tests.pruning.test_transformers import CASES, TOKENS
from tests.pruning.test_transformers import traced as traced_transformer
from tests.pruning.transformers import Attending

MEASURED: tuple[Need, ...] = ("activation", "taylor", "fisher")


@functools.cache
def prepared(case: str) -> tuple[DependencyGraph, Batches]:
    _, graph, batches = traced(case) if case in MODELS else traced_transformer(*CASES[case])
    return graph, [*batches]


def labels(batches: Batches, classes: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, classes, (len(batch[0]),), generator=generator) for batch in batches]


def cross_entropy(batches: Batches) -> Callable[[Tensor, int], Tensor]:
    known = labels(batches)
    return lambda outputs, position: F.cross_entropy(outputs.flatten(1)[:, :3], known[position])


def measured(
    graph: DependencyGraph, batches: Sequence[Any], name: Need, loss: Any = None, seed: int = 0
) -> dict[str, Tensor]:
    return dict(measure(graph, batches, [name], loss, seed)[name])


def assert_same(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], rtol: float = 1e-5, atol: float = 1e-12
) -> None:
    assert one.keys() == other.keys()
    for key, values in one.items():
        torch.testing.assert_close(values, other[key], rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", MODELS)
def test_activations_are_shares_of_energy_where_units_are_read(name: str) -> None:
    model, graph, batches = traced(name)
    found = measured(graph, batches, "activation")
    assert found.keys() == graph.groups.keys()
    for group in graph.groups.values():
        expected = np.zeros(group.size)
        for member in group.consumers:
            x = inputs_of(model, member.parameter.removesuffix(".weight"), batches)
            energy = x.square().movedim(1, 0).flatten(1).mean(dim=1).numpy()
            units = units_of(member.dimension, group.id)
            units = np.tile(units, len(energy) // len(units))  # blocks of a grouped convolution
            own = np.array([energy[units == unit].sum() for unit in range(group.size)])
            expected += own / own.sum()
        np.testing.assert_allclose(found[group.id], expected, rtol=1e-5)


def test_the_loudest_unit_stays_longest() -> None:
    model, batches = make("chain")
    with torch.no_grad():
        layer(model, "first").weight.zero_()
        layer(model, "first").bias.copy_(torch.tensor([3.0, -9.0, 1.0, 0.0, 2.0, 5.0, 0.5, 4.0, -1.0, 0.2]))
    pruner = Pruner(trace(model, batches[0]), "activation", batches, compensate=False)
    assert pruner.orders["first"].order.tolist() == [5, 7, 0, 4, 2, 6, 9, 1, 3, 8]  # what ReLU cuts sends nothing


def plain_taylor(model: nn.Module, graph: DependencyGraph, batches: Batches, loss: Any) -> dict[str, Tensor]:
    """A loop over batches, members and units."""
    found = {group.id: torch.zeros(group.size, dtype=torch.float64) for group in graph.groups.values()}
    for position, batch in enumerate(batches):
        model.zero_grad()
        loss(model(*batch), position).backward()
        for group in graph.groups.values():
            for member in group.members:
                parameter = dict(model.named_parameters()).get(member.parameter)
                if parameter is None:  # a running mean
                    continue
                assert parameter.grad is not None
                squares = (parameter.detach().double() * parameter.grad.double()).square()
                for place, unit in enumerate(units_of(member.dimension, group.id)):
                    if unit >= 0:
                        found[group.id][unit] += squares.select(member.axis, place).sum() / len(batches)
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_taylor_is_weight_times_gradient_squared_over_all_members(name: str) -> None:
    model, graph, batches = traced(name)
    loss = cross_entropy(batches)
    assert_same(
        measured(graph, batches, "taylor", loss), plain_taylor(model, graph, batches, loss), rtol=1e-4, atol=1e-14
    )


@contextmanager
def gates(model: nn.Module, group: Any) -> Iterator[Tensor]:
    """Every consumer's input times a gate a unit."""
    gate = torch.ones(group.size, requires_grad=True)
    hooks = []
    for member in group.consumers:
        units = torch.from_numpy(units_of(member.dimension, group.id))

        def gated(_: nn.Module, args: tuple[Tensor, ...], units: Tensor = units) -> tuple[Tensor, ...]:
            factors = torch.where(units >= 0, gate[units.clamp(min=0)], 1.0)
            return (args[0] * factors.reshape(-1, *[1] * (args[0].dim() - 2)),)

        reader = model.get_submodule(member.parameter.removesuffix(".weight"))
        hooks.append(reader.register_forward_pre_hook(gated))
    try:
        yield gate
    finally:
        for hook in hooks:
            hook.remove()


def plain_fisher(model: nn.Module, group: Any, batches: Batches) -> Tensor:
    """Mean over samples of the squared derivative by a unit's gate, a backward pass a sample."""
    known = labels(batches)
    total, samples = torch.zeros(group.size, dtype=torch.float64), 0
    with gates(model, group) as gate:
        for (x,), y in zip(batches, known, strict=True):
            for one, label in zip(x.split(1), y.split(1), strict=True):
                (derivative,) = torch.autograd.grad(F.cross_entropy(model(one)[:, :3], label), gate)
                total += derivative.double().square()
                samples += 1
    return total / samples


@pytest.mark.parametrize("name", ["residual", "concatenated", "chain"])
def test_fisher_is_the_squared_derivative_by_one_gate_on_every_reading(name: str) -> None:
    model, graph, batches = traced(name)
    found = measured(graph, batches, "fisher", cross_entropy(batches))
    assert found.keys() == graph.groups.keys()
    for group in graph.groups.values():
        torch.testing.assert_close(found[group.id], plain_fisher(model, group, batches), rtol=1e-4, atol=1e-12)


def test_a_gate_on_heads_and_on_query_key_dimensions() -> None:
    """Of one attention: derivatives by gates put into its own formula."""

    class Gated(Attending):
        gate: Tensor
        query_dims: Tensor
        value_dims: Tensor

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            q, k, v = self.parts(x)
            q, k = q * self.query_dims, k * self.query_dims
            mixed = F.scaled_dot_product_attention(q, k, v) * self.gate[:, None, None] * self.value_dims
            out: Tensor = self.head(x + self.out(mixed.transpose(1, 2).reshape(*x.shape[:2], -1)))
            return out

    torch.manual_seed(0)
    model = Attending().eval()
    batches = [(torch.randn(7, 6, 5),) for _ in range(2)]
    graph = trace(model, batches[0])
    found = measured(graph, batches, "fisher", lambda outputs, _: outputs.square().sum() / len(outputs))
    gated = Gated().eval()
    gated.load_state_dict(model.state_dict())
    sums = [torch.zeros(4), torch.zeros(6), torch.zeros(6)]
    for (x,) in batches:
        for one in x.split(1):
            gated.gate, gated.query_dims, gated.value_dims = leaves = [
                torch.ones(n, requires_grad=True) for n in (4, 6, 6)
            ]
            for total, gradient in zip(sums, torch.autograd.grad(gated(one).square().sum(), leaves), strict=True):
                total += gradient.square() / 14
    heads, dims = graph.groups["q"], graph.groups["q:head_dim"]
    values = next(group for group in graph.groups.values() if group.unit == "head_dim" and group.id != dims.id)
    for group, expected in zip((heads, dims, values), sums, strict=True):
        torch.testing.assert_close(found[group.id].float(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_group_has_its_numbers(case: str, name: Need) -> None:
    model, graph, batches = traced_transformer(*CASES[case])
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = measured(graph, batches, name)
    assert found.keys() == graph.groups.keys()
    for group, score in found.items():
        assert score.shape == (graph.groups[group].size,)
        assert bool((score > 0).any())
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("criterion", ["activation", "taylor", "fisher", "fpgm"])
@pytest.mark.parametrize("case", ["residual", "separate", "shared keys", "einsum", "tied", "experts (bmm)", "group"])
def test_pruned_models_have_the_widths_asked_for(case: str, criterion: str) -> None:
    graph, batches = prepared(case)
    module = Pruner(graph, criterion, batches).build(graph.uniform(0.5))
    assert module.widths == graph.widths(graph.uniform(0.5))
    with torch.no_grad():
        assert module(*batches[0]).shape == graph.module()(*batches[0]).shape


def scaled(model: nn.Module, factors: Tensor) -> nn.Module:
    """Channels of conv1 times factors that its batch norm takes back, and of its inputs' readers likewise."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        layer(changed, "conv1").weight.mul_(factors[:, None, None, None])
        layer(changed, "bn1").running_mean.mul_(factors)
        layer(changed, "bn1").weight.div_(factors)
    return changed


@settings(max_examples=5, deadline=None)
@given(powers=st.lists(st.integers(-4, 4), min_size=6, max_size=6))
def test_what_a_batch_norm_takes_back_changes_no_order(powers: list[int]) -> None:
    model, batches = make("residual")
    graph, loss = trace(model, batches[0]), cross_entropy(batches)
    other = trace(scaled(model, 2.0 ** torch.tensor(powers)), batches[0])
    for name in MEASURED:
        one, two = (measured(g, batches, name, loss if name != "activation" else None)["conv1"] for g in (graph, other))
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-12)
    if any(powers):
        assert Pruner(graph, "fisher", batches).orders["conv1"].order.tolist() == (
            Pruner(other, "fisher", batches).orders["conv1"].order.tolist()
        )


@settings(max_examples=30, deadline=None)
@given(
    case=st.sampled_from(["residual", "concatenated", "grouped", "chain", "separate", "gated", "layer"]),
    criterion=st.sampled_from([*MEASURED, "fpgm", "l1", "l2"]),
    seed=st.integers(0, 1000),
)
def test_permuted_units_permute_the_order(case: str, criterion: Any, seed: int) -> None:
    graph, batches = prepared(case)
    rng = np.random.default_rng(seed)
    moved = {name: rng.permutation(group.size) for name, group in graph.groups.items()}
    shuffled = graph.ordered({name: UnitOrder(name, places) for name, places in moved.items()})
    if criterion in MEASURED:  # units without activations tie
        one, two = (measured(g, batches, criterion) for g in (graph, shuffled))
        for name, places in moved.items():
            torch.testing.assert_close(two[name], one[name][torch.from_numpy(places)], rtol=1e-3, atol=1e-10)
        return
    first, second = (Pruner(g, criterion).orders for g in (graph, shuffled))
    for name, places in moved.items():
        if len(places) > 2:  # two are as far from each other
            assert places[second[name].order].tolist() == first[name].order.tolist()


class TestStreaming:
    @pytest.mark.parametrize("case", ["residual", "separate", "einsum"])
    def test_batches_of_any_size_give_the_same(self, case: str) -> None:
        """Of what is a mean over samples; also what is drawn without labels goes with the sample."""
        graph, batches = prepared(case)
        whole: Batches = [(torch.cat([batch[0] for batch in batches]),)]
        single: Batches = [(sample,) for sample in whole[0][0].split(1)]
        names: tuple[Need, ...] = ("activation", "fisher")
        for name in names:
            first = measured(graph, batches, name, seed=3)
            for other in (whole, single):
                assert_same(measured(graph, other, name, seed=3), first, rtol=1e-4, atol=1e-10)

    @pytest.mark.parametrize("case", ["residual", "separate"])
    def test_parts_of_a_batch_give_the_same(self, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
        graph, batches = prepared(case)
        names: tuple[Need, ...] = ("taylor", "fisher")
        whole = measure(graph, batches, names, None, 0)
        monkeypatch.setattr("autoprune.pruning.gradients.ACTIVATION_BYTES", 40_000)
        split = measure(graph, batches, names, None, 0)
        for name in names:
            assert_same(whole[name], split[name], rtol=1e-4, atol=1e-10)

    def test_taylor_is_the_mean_over_batches(self) -> None:
        _, graph, batches = traced("residual")
        loss = cross_entropy(batches)
        parts = [measured(graph, batches[i : i + 1], "taylor", lambda out, _, i=i: loss(out, i)) for i in range(3)]
        mean = {group: torch.stack([part[group] for part in parts]).mean(dim=0) for group in graph.groups}
        assert_same(measured(graph, batches, "taylor", loss), mean)

    def test_both_at_once_are_each_alone(self) -> None:
        _, graph, batches = traced("residual")
        names: tuple[Need, ...] = ("taylor", "fisher")
        both = measure(graph, batches, names, None, 1)
        for name in names:
            assert_same(both[name], measured(graph, batches, name, seed=1))

    @pytest.mark.parametrize("name", ["taylor", "fisher"])
    def test_the_seed_decides(self, name: Need) -> None:
        _, graph, batches = traced("residual")
        first, again, other = (measured(graph, batches, name, seed=seed) for seed in (4, 4, 5))
        assert all(torch.equal(first[group], again[group]) for group in graph.groups)
        assert any(not torch.equal(first[group], other[group]) for group in graph.groups)


def test_without_labels_fisher_is_the_squared_change_of_outputs() -> None:
    """Over many draws: the squared derivatives of all outputs by the gate, summed."""
    torch.manual_seed(0)
    model = Chain().eval()
    x = torch.randn(1, 6)
    graph = trace(model, torch.randn(2, 6))
    found = measured(graph, [(x.repeat(4000, 1),)], "fisher")["first"]
    hidden, weight = torch.relu(model.first(x))[0].detach(), model.second.weight.detach()
    expected = (weight * hidden).square().sum(dim=0).double()
    torch.testing.assert_close(found, expected, rtol=0.1, atol=1e-12)


class Two(nn.Module):
    """Two outputs, one of them a thousand times the other, and a label that no gradient comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.first(x))
        y = self.left(x)
        return {"left": y, "right": 1000.0 * self.right(x), "label": y.argmax(dim=-1)}


def test_several_outputs_count_alike() -> None:
    torch.manual_seed(0)
    model = Two().eval()
    batches: Batches = [(torch.randn(500, 6),)]
    graph = trace(model, batches[0])
    with torch.no_grad():
        model.left.weight[:, 3] *= 20
        model.right.weight[:, 3] = 0
    assert int(measured(graph, batches, "fisher")["first"].argmax()) == 3
    loss = measured(graph, batches, "taylor", lambda out, _: out["left"].square().mean())
    assert float(loss["first"][3]) == float(loss["first"].max())


class Rounded(nn.Module):
    """Nothing but the index of the largest output."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain()

    def forward(self, x: Tensor) -> Tensor:
        best: Tensor = self.chain(x).argmax(dim=-1)
        return best


def test_messages() -> None:
    _, graph, batches = traced("chain")
    with pytest.raises(InputError, match=r"criterion 'fisher': expected calibration batches, got none"):
        Pruner(graph, "fisher")
    for criterion in ("activation", "taylor", "fisher"):
        broken = [(torch.full((2, 6), float("nan")),)]
        with pytest.raises(InputError, match=f"'{criterion}': expected finite .* group 'first'.* preprocessed"):
            Pruner(graph, criterion, broken)
    with pytest.raises(InputError, match=r"loss: expected a scalar that depends .* got a tensor of shape \(16, 4\)"):
        Pruner(graph, "taylor", batches, loss=lambda outputs, _: outputs)
    with pytest.raises(InputError, match=r"loss: expected a scalar .* got float"):
        Pruner(graph, "taylor", batches, loss=lambda outputs, _: 0.5)  # type: ignore[arg-type,return-value]
    rounded = Rounded().eval()
    with pytest.raises(InputError, match=r"outputs that depend on the weights .* got none\. Use criterion='obs'"):
        Pruner(trace(rounded, batches[0]), "taylor", batches)


LAYOUTS: dict[str, tuple[tuple[Dimension, ...], int]] = {
    "samples first": ((Batch(), Constant(5), Width("g", 3)), 2),
    "channels before places": ((Batch(), Width("g", 3), Constant(5), Constant(2)), 1),
    "windows": ((Product((Batch(), Constant(4))), Constant(5), Width("g", 3)), 2),
    "samples last": ((Width("g", 3), Constant(5), Batch()), 0),
    "samples between": ((Product((Constant(2), Batch(), Constant(3))), Width("g", 3)), 1),
    "one axis": ((Product((Batch(), Width("g", 3))),), 0),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_samples_are_told_apart_in_every_layout(name: str) -> None:
    """The sum over a sample's places is that of the tensor in which the other samples are zero."""
    dimensions, axis = LAYOUTS[name]
    samples = 6
    sizes: list[int] = []
    owners: list[tuple[Any, Any]] = []
    for dimension in dimensions:
        factors = dimension.factors if isinstance(dimension, Product) else (dimension,)
        counts = [samples if isinstance(f, Batch) else f.value if isinstance(f, Constant) else 3 for f in factors]
        where = np.indices(counts).reshape(len(counts), -1)
        batch = [i for i, factor in enumerate(factors) if isinstance(factor, Batch)]
        units = [i for i, factor in enumerate(factors) if isinstance(factor, Width)]
        sizes.append(int(np.prod(counts)))
        owners.append((where[batch[0]] if batch else None, where[units[0]] if units else None))
    x = torch.randn(sizes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = np.zeros((samples, 3))
    for place in np.ndindex(*sizes):
        sample = next(int(owner[i]) for (owner, _), i in zip(owners, place, strict=True) if owner is not None)
        unit = next(int(owner[i]) for (_, owner), i in zip(owners, place, strict=True) if owner is not None)
        expected[sample, unit] += float(x[place])
    tap = Tap("op", "x", axis, dimensions, ("g",))
    assert tap.by_sample
    np.testing.assert_allclose(tap.per_sample(x), expected)


def test_values_without_samples_are_one() -> None:
    tap = Tap("op", "x", 1, (Constant(4), Width("g", 3)), ("g",))
    x = torch.randn(4, 3)
    assert not tap.by_sample
    torch.testing.assert_close(tap.per_sample(x), x.double().sum(dim=0, keepdim=True))


def test_readings_of_an_attention() -> None:
    """Heads and the values' dimensions where the output layer reads them, the others where queries meet keys."""
    _, graph, _ = traced_transformer(Attending, TOKENS)
    taps = find_taps(graph)
    targets = {operation.name: operation.kind for operation in graph.program.operations}
    where = {group: [targets[tap.operation] for tap in taps if group in tap.groups] for group in graph.groups}
    assert where["q"] == ["linear"]
    assert where["q:head_dim"] == ["scaled_dot_product_attention"] * 2
    assert where["embed"] == ["linear"] * 4


def test_only_what_is_needed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without compensation no Gram matrix is collected for a criterion that does not ask for any."""

    def refused(*_: object) -> None:
        raise AssertionError("not asked for")

    monkeypatch.setattr("autoprune.pruning.pruner.Findings.of", refused)
    _, graph, batches = traced("chain")
    for criterion in ("taylor", "fisher", "activation", "fpgm"):
        Pruner(graph, criterion, batches, compensate=False)
    with pytest.raises(AssertionError, match="not asked for"):
        Pruner(graph, "obs", batches, compensate=False)

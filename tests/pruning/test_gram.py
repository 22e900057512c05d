"""Moments of what consumers read against explicit patches (unfold)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.errors import InputError
from autoprune.graph.dimension import Constant, Dimension, Product, Width
from autoprune.graph.program import Operation, Ref
from autoprune.pruning.consumers import Consumer, Source
from autoprune.pruning.contractions import Layout, Reading
from autoprune.pruning.gram import Moments, Sums
from autoprune.pruning.window import Window, window_of


def window(layer: nn.Conv1d | nn.Conv2d) -> Window:
    """As it is read off the program."""
    pieces = (Ref("x"), Ref("w"), None, layer.stride, layer.padding, layer.dilation, layer.groups)
    found = window_of(Operation("y", "aten.conv2d.default", pieces, (), None, ("y",)), layer.kernel_size)
    assert found is not None
    return found


def collect(layer: nn.Conv1d | nn.Conv2d, joint: bool, batches: Sequence[Tensor]) -> Moments:
    columns = layer.in_channels // layer.groups * (math.prod(layer.kernel_size) if joint else 1)
    reading = Reading("x", (), (1,), layer.groups, window(layer))
    return summed(Source((reading,), ("y",), joint, 1, columns, "layer"), batches)


def matrix_source(columns: int, split: int = 1, diagonal: bool = False) -> Source:
    return Source((Reading("x", (), (2,)),), ("y",), False, split, columns, "layer", diagonal)


def summed(source: Source, batches: Sequence[Tensor]) -> Moments:
    sums = Sums(source, len(batches))
    for batch in batches:
        sums.add(source.readings[0], batch)
    return sums.moments()


def patch_moments(x: Tensor, layer: nn.Conv2d, shared: bool) -> Moments:
    """The moments from the patches themselves."""
    pad, kernel, dilation, stride = layer.padding, layer.kernel_size, layer.dilation, layer.stride
    assert not isinstance(pad, str)
    patches = nn.functional.unfold(x.double(), kernel, dilation, pad, stride)  # (n, c k, outputs)
    taps = kernel[0] * kernel[1]
    shaped = patches.reshape(x.shape[0], layer.groups, -1, taps, patches.shape[-1])
    count = x.shape[0] * patches.shape[-1]
    if not shared:
        flat = shaped.flatten(2, 3)
        return Moments(torch.einsum("nbco,nbdo->bcd", flat, flat) / count, flat.sum((0, 3))[:, None] / count, count)
    second = torch.einsum("nbcto,nbdto->bcd", shaped, shaped) / (count * taps)
    return Moments(second, shaped.sum(dim=(0, 4)).transpose(1, 2) / count, count)


LAYERS = [
    nn.Conv2d(4, 3, 3, padding=1),
    nn.Conv2d(4, 3, 3, stride=2, padding=1),
    nn.Conv2d(4, 3, 1, stride=2),
    nn.Conv2d(4, 3, (3, 1), padding=(2, 0), dilation=(2, 1)),
    nn.Conv2d(4, 6, 3, padding=1, groups=2),
    nn.Conv2d(4, 2, 5, padding=2, stride=3),
]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "joint"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_convolution_moments_are_those_of_its_patches(layer: nn.Conv2d, shared: bool) -> None:
    x = torch.randn(6, 4, 7, 9, generator=torch.Generator().manual_seed(0))
    found = collect(layer, not shared, [x[:4], x[4:]])
    expected = patch_moments(x, layer, shared)
    torch.testing.assert_close(found.second, expected.second)
    torch.testing.assert_close(found.mean, expected.mean)
    assert found.samples == expected.samples


def test_patches_are_sampled_the_same_way_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = torch.randn(4, 8, 4, 12, 12, generator=torch.Generator().manual_seed(0)).unbind()
    layer = nn.Conv2d(4, 3, 3, padding=1)
    whole = collect(layer, True, batches)
    assert whole.samples == 4 * 8 * 144
    monkeypatch.setattr("autoprune.pruning.gram.LEAST_SAMPLES", 0)
    one, two = (collect(layer, True, batches) for _ in range(2))
    assert one.samples == 32 * 36
    assert torch.equal(one.second, two.second)
    torch.testing.assert_close(one.second, whole.second, atol=0.15, rtol=0.0)


def test_tokens_are_sampled_too_and_wide_products_are_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = torch.randn(3, 20, 100, 8, generator=torch.Generator().manual_seed(0)).unbind()
    whole = summed(matrix_source(8), batches)
    monkeypatch.setattr("autoprune.pruning.gram.DOUBLE_UP_TO", 4)
    single = summed(matrix_source(8), batches)
    torch.testing.assert_close(single.second, whole.second, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("autoprune.pruning.gram.LEAST_SAMPLES", 0)
    assert summed(matrix_source(8), batches).samples == 3 * math.ceil(32 * 8 / 3)


def test_energies_alone() -> None:
    x = torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(0))
    found = summed(matrix_source(6, diagonal=True), [x])
    torch.testing.assert_close(found.second[0], x.double().square().mean(dim=(0, 1)))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "joint"])
def test_same_padding_and_other_ranks(shared: bool) -> None:
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    same, explicit = nn.Conv2d(4, 2, 3, padding="same"), nn.Conv2d(4, 2, 3, padding=1)
    found = [collect(m, not shared, [x]) for m in (same, explicit)]
    torch.testing.assert_close(found[0].second, found[1].second)
    line = nn.Conv1d(4, 2, 3, padding="valid")
    moments = collect(line, not shared, [x[:, :, 0]])
    assert moments.mean.shape == ((1, 3, 4) if shared else (1, 1, 12))


TRANSPOSED = [
    nn.ConvTranspose2d(4, 3, 2, stride=2),
    nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
    nn.ConvTranspose2d(4, 3, (3, 2), stride=(1, 3), padding=(2, 0), dilation=(2, 1)),
]


@pytest.mark.parametrize("layer", TRANSPOSED, ids=str)
def test_transposed_convolution_counts_the_pixels_that_each_tap_spreads(layer: nn.ConvTranspose2d) -> None:
    """The mean of the output is the taps' means through the weights, whatever is cropped."""
    x = torch.randn(6, 4, 5, 7, generator=torch.Generator().manual_seed(0)) + 1
    pieces = (Ref("x"), Ref("w"), None, layer.stride, layer.padding, layer.output_padding, 1, layer.dilation)
    found = window_of(
        Operation("y", "aten.conv_transpose2d.input", pieces, (), None, ("y",)),
        layer.kernel_size,
    )
    moments = summed(Source((Reading("x", (), (1,), 1, found),), ("y",), False, 1, 4, "layer"), [x])
    with torch.no_grad():
        y = layer(x) - layer.bias[:, None, None]  # type: ignore[index]
    assert moments.samples == y[:, 0].numel()
    weight = layer.weight.detach().double().flatten(2)  # (inputs, outputs, taps)
    mean = torch.einsum("iot,ti->o", weight, moments.mean[0])
    torch.testing.assert_close(mean.float(), y.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_linear_moments_over_tokens_and_shared_over_positions() -> None:
    tokens = torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(2))
    found = summed(matrix_source(6), [tokens])
    flat = tokens.reshape(-1, 6).double()
    torch.testing.assert_close(found.second[0], flat.T @ flat / 15)
    torch.testing.assert_close(found.mean[0, 0], flat.mean(dim=0))

    shared = summed(matrix_source(2, split=3), [tokens])
    by_position = flat.reshape(-1, 2, 3)
    torch.testing.assert_close(shared.second[0], torch.einsum("ncp,ndp->cd", by_position, by_position) / 45)
    torch.testing.assert_close(shared.mean[0], by_position.mean(dim=0).T)


def test_blocks_of_experts() -> None:
    x = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(2))  # (samples, experts, tokens, columns)
    source = Source((Reading("x", (1,), (3,)),), ("y",), False, 1, 5, "experts")
    found = summed(source, [x])
    torch.testing.assert_close(found.second, torch.einsum("netc,netd->ecd", x.double(), x.double()) / 14)
    torch.testing.assert_close(found.mean[:, 0], x.double().mean(dim=(0, 2)))


def test_centred_gram_is_the_covariance() -> None:
    x = torch.randn(10, 5, 3, generator=torch.Generator().manual_seed(3)) + 5
    moments = summed(matrix_source(3), [x])
    torch.testing.assert_close(moments.gram(centred=True)[0], torch.cov(x.double().flatten(0, 1).T, correction=0))
    assert moments.gram(centred=False) is moments.second


G = Width("g", 3)
INVERSES: dict[str, tuple[tuple[int, ...], Layout, tuple[Dimension, ...], int]] = {  # shape, layout, column axes, split
    "shared taps": ((4, 3, 5, 5), Layout(2, (0,), (2,)), (G,), 1),
    "joint taps": ((4, 3, 5, 5), Layout(2, (0,), (2, 3, 4)), (G, Constant(5), Constant(5)), 1),
    "transposed": ((3, 4, 2, 2), Layout(1, (0,), (1,)), (G,), 1),
    "linear": ((5, 3), Layout(None, (), (1,)), (G,), 1),
    "inputs first": ((3, 5), Layout(None, (), (0,)), (G,), 1),
    "experts": ((2, 3, 5), Layout(None, (0,), (1,)), (G,), 1),
    "two column axes": ((3, 2, 5), Layout(None, (), (0, 1)), (G, Constant(2)), 1),
    "flattened": ((5, 12), Layout(None, (), (1,)), (Product((G, Constant(4))),), 4),
}


@pytest.mark.parametrize("name", INVERSES)
def test_weights_and_rows_are_inverses(name: str) -> None:
    shape, layout, axes, split = INVERSES[name]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    consumer = Consumer("w", Source((), (), False, split, 0, ""), G, axes, layout)
    rows = consumer.rows(weight)
    assert torch.equal(consumer.weight(rows, weight, {}), weight)
    units = rows.unflatten(2, (3, -1))[:, :, [0, 2]].flatten(2)
    axis = next(a for a, n in enumerate(shape) if n in (3, 12))
    parts = weight.unflatten(axis, (3, -1)).index_select(axis, torch.tensor([0, 2])).flatten(axis, axis + 1)
    kept = consumer.weight(units, weight, {"g": torch.tensor([0, 2]).numpy()})
    assert torch.equal(kept, parts)


def test_activations_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match=r"finite activations.*'layer'.*preprocessed"):
        summed(matrix_source(3), [torch.full((2, 1, 3), float("nan"))])

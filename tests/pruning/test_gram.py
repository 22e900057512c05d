"""Moments of consumers' inputs against explicit patches (unfold)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.errors import InputError
from autoprune.graph.dimension import Constant, Product, Width
from autoprune.pruning.consumers import Consumer
from autoprune.pruning.gram import Moments, collect_moments


def consumer(columns: int, blocks: int = 1, positions: int = 1) -> Consumer:
    return Consumer("0.weight", "0", Width("g", columns), blocks, positions, None)


def joint(channels: int, taps: int, blocks: int = 1) -> Consumer:
    """Each channel at each kernel position is a column."""
    return Consumer("0.weight", "0", Product((Width("g", channels), Constant(taps))), blocks, 1, None)


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
    channels, taps = layer.in_channels // layer.groups, math.prod(layer.kernel_size)
    reader = consumer(channels, layer.groups, taps) if shared else joint(channels, taps, layer.groups)
    found = collect_moments(nn.Sequential(layer), [reader], [(x[:4],), x[4:]])["0.weight"]
    expected = patch_moments(x, layer, shared)
    torch.testing.assert_close(found.second, expected.second)
    torch.testing.assert_close(found.mean, expected.mean)
    assert found.samples == expected.samples


def test_patches_are_sampled_the_same_way_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = torch.randn(4, 8, 4, 12, 12, generator=torch.Generator().manual_seed(0)).unbind()
    layer = nn.Conv2d(4, 3, 3, padding=1)
    whole = collect_moments(nn.Sequential(layer), [joint(4, 9)], batches)["0.weight"]
    assert whole.samples == 4 * 8 * 144
    monkeypatch.setattr("autoprune.pruning.gram.LEAST_PATCHES", 0)
    one, two = (collect_moments(nn.Sequential(layer), [joint(4, 9)], batches)["0.weight"] for _ in range(2))
    assert one.samples == 32 * 36
    assert torch.equal(one.second, two.second)
    torch.testing.assert_close(one.second, whole.second, atol=0.15, rtol=0.0)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "joint"])
def test_same_padding_and_other_ranks(shared: bool) -> None:
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    same, explicit = nn.Conv2d(4, 2, 3, padding="same"), nn.Conv2d(4, 2, 3, padding=1)
    reader = consumer(4, 1, 9) if shared else joint(4, 9)
    found = [collect_moments(nn.Sequential(m), [reader], [x])["0.weight"] for m in (same, explicit)]
    torch.testing.assert_close(found[0].second, found[1].second)
    line = nn.Conv1d(4, 2, 3, padding="valid")
    reader = consumer(4, 1, 3) if shared else joint(4, 3)
    moments = collect_moments(nn.Sequential(line), [reader], [x[:, :, 0]])["0.weight"]
    assert moments.mean.shape == ((1, 3, 4) if shared else (1, 1, 12))
    single = collect_moments(nn.Sequential(line), [reader], list(x[:, :, 0]))["0.weight"]
    torch.testing.assert_close(single.second, moments.second)


def test_linear_moments_over_tokens_and_shared_over_positions() -> None:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(5, 3, 6, generator=generator)
    found = collect_moments(nn.Sequential(nn.Linear(6, 2)), [consumer(6)], [tokens])["0.weight"]
    flat = tokens.reshape(-1, 6).double()
    torch.testing.assert_close(found.second[0], flat.T @ flat / 15)
    torch.testing.assert_close(found.mean[0, 0], flat.mean(dim=0))

    pooled = Consumer("0.weight", "0", Width("g", 2), 1, 3, None)
    shared = collect_moments(nn.Sequential(nn.Linear(6, 2)), [pooled], [tokens])["0.weight"]
    by_position = flat.reshape(-1, 2, 3)
    torch.testing.assert_close(shared.second[0], torch.einsum("ncp,ndp->cd", by_position, by_position) / 45)
    torch.testing.assert_close(shared.mean[0], by_position.mean(dim=0).T)


def test_centred_gram_is_the_covariance() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(3)) + 5
    moments = collect_moments(nn.Sequential(nn.Linear(3, 2)), [consumer(3)], [x])["0.weight"]
    torch.testing.assert_close(moments.gram(centred=True)[0], torch.cov(x.double().T, correction=0))
    assert moments.gram(centred=False) is moments.second


def test_weights_and_rows_are_inverses() -> None:
    weight = torch.randn(4, 3, 5, 5)
    for grouped in (consumer(3, 2, 25), joint(3, 25, 2)):
        assert torch.equal(grouped.weight(grouped.rows(weight), weight), weight)
    assert torch.equal(grouped.weight(grouped.rows(weight)[:, :, 25:], weight), weight[:, 1:])
    flattened = Consumer("w", "", Product((Width("g", 3), Constant(1))), 1, 4, None)
    dense = torch.randn(5, 12)
    assert torch.equal(flattened.weight(flattened.rows(dense), dense), dense)
    fewer = flattened.weight(flattened.rows(dense)[:, :, [0, 2]], dense)
    assert torch.equal(fewer, dense[:, [0, 1, 2, 3, 8, 9, 10, 11]])


def test_activations_that_are_not_finite_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    x = torch.full((2, 3), float("nan"))
    with pytest.raises(InputError, match=r"finite activations.*'0'.*preprocessed"):
        collect_moments(model, [consumer(3)], [x])


def test_hooks_are_gone_when_the_model_raises() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(RuntimeError):
        collect_moments(model, [consumer(3)], [torch.randn(2, 4)])
    assert not model[0]._forward_pre_hooks

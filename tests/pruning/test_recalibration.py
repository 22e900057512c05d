"""Batch-norm statistics after re-estimation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from autoprune.core.errors import InputError
from autoprune.pruning import recalibrate
from autoprune.pruning.recalibration import anchors


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5), nn.BatchNorm2d(4))


def test_statistics_are_those_of_one_big_batch() -> None:
    net, x = model(), torch.randn(32, 3, 6, 6)
    recalibrate(net, [(x,)])
    with torch.no_grad():
        features = net[0](x)
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, features.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, features.var(dim=(0, 2, 3)))


def test_equal_batches_average_to_the_big_batch() -> None:
    whole, parts, x = model(), model(), torch.randn(32, 3, 6, 6)
    recalibrate(whole, [(x,)])
    recalibrate(parts, [(part,) for part in torch.split(x, 8)])
    torch.testing.assert_close(parts[1].running_mean, whole[1].running_mean)
    torch.testing.assert_close(parts[1].running_var, whole[1].running_var, rtol=0.05, atol=0.0)


def test_old_statistics_are_forgotten_and_twice_is_once() -> None:
    net, x = model(), torch.randn(16, 3, 6, 6)
    nn.init.constant_(net[1].running_mean, 100.0)  # type: ignore[arg-type]
    recalibrate(net, [x])
    once = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    recalibrate(net, [x])
    assert all(torch.equal(tensor, once[name]) for name, tensor in net.state_dict().items())


def trained_statistics() -> tuple[nn.Sequential, nn.Sequential, torch.Tensor]:
    """A model with the statistics of much data, one whose first layer lacks a ninth, and the data."""
    dense, x = model(), torch.randn(4096, 3, 6, 6)
    recalibrate(dense, [x])
    other = copy.deepcopy(dense)
    with torch.no_grad():
        other.get_parameter("0.weight")[:, :, 0, 0] = 0.0
    return dense.eval(), other.eval(), x


def test_the_dense_model_stays_as_it_is_whatever_the_data() -> None:
    dense, _, x = trained_statistics()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    recalibrate(dense, [x[:4]], anchors(copy.deepcopy(dense), [x[:4]]))
    for name, tensor in dense.state_dict().items():
        assert torch.equal(tensor, before[name]) or name.endswith("num_batches_tracked")


def test_few_samples_tell_what_many_would() -> None:
    """Anchored to the dense model, 8 samples are nearer to 4,096 than without."""
    dense, other, x = trained_statistics()
    many, anchored, plain = (copy.deepcopy(other) for _ in range(3))
    recalibrate(many, [x])
    found = anchors(copy.deepcopy(dense), [x[:8]])
    recalibrate(anchored, [x[:8]], found)
    recalibrate(plain, [x[:8]])
    for name in ("1.running_mean", "1.running_var"):
        wanted = many.state_dict()[name]
        errors = [float((net.state_dict()[name] - wanted).norm()) for net in (anchored, plain)]
        assert errors[0] < 0.5 * errors[1]
    assert torch.equal(found["1"].take(torch.tensor([2])).mean, dense[1].running_mean[[2]])  # type: ignore[index]


def test_modes_and_momentum_are_restored_even_when_it_raises() -> None:
    net = model().eval()
    net[3].train()
    with pytest.raises(RuntimeError):
        recalibrate(net, [torch.randn(2, 5, 6, 6)])
    assert [m.training for m in net] == [False, False, False, True]
    assert [m.momentum for m in (net[1], net[3])] == [0.3, 0.1]


def test_without_batch_norm_or_data_nothing_runs() -> None:
    recalibrate(nn.Linear(2, 2), [(torch.randn(3, 5),)])  # would raise if it ran
    net = model()
    before = net[1].running_mean.clone()  # type: ignore[operator]
    recalibrate(net, [])
    assert torch.equal(net[1].running_mean, before)  # type: ignore[arg-type]


def test_one_value_a_channel_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(InputError, match="batches of at least 2 samples"):
        recalibrate(net, [torch.randn(1, 3)])

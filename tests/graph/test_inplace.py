"""Writes in place, against the model itself: every form that people write."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.errors import InputError
from autoprune.graph import trace

Function = Callable[[Tensor], Tensor]


class Written(nn.Module):
    """A linear layer, the function under test on (n, 6, 8), and a linear layer."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 8), nn.BatchNorm1d(6), nn.Linear(8, 4)
        self.drop, self.function = nn.Dropout(0.4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.drop(self.norm(self.first(x)))))


def _base(x: Tensor) -> Tensor:
    F.relu(x, inplace=True)
    x += 1.0
    return x


def _view_before(x: Tensor) -> Tensor:
    view = x.view(-1, 48)
    x.mul_(2.0)
    return view.view(-1, 6, 8) + x


def _view_after(x: Tensor) -> Tensor:
    x.relu_()
    return x.view(-1, 48).view(-1, 6, 8)


def _through_a_view(x: Tensor) -> Tensor:
    y = x.clone()
    y.view(-1, 48).tanh_()
    return y


def _slices(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for number, (start, end) in enumerate(((0, 2), (2, 3), (3, 6))):
        y[:, start:end, 2:5] = float(number + 1)
    y[:, 1] = x[:, 2]
    return x * y


def _twice_through_one_view(x: Tensor) -> Tensor:
    y = x + 1.0
    row = y[:, 2]
    row.mul_(2.0)
    row.add_(1.0)
    return y + row.unsqueeze(1)


def _sibling_views(x: Tensor) -> Tensor:
    y = x + 1.0
    left, right = y[:, :3], y[:, 2:]
    left.mul_(2.0)
    return y + torch.cat([left, right[:, 1:]], 1)


def _parts(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    x.mul_(3.0)
    return torch.cat([right, left], 1) + x


def _transposed(x: Tensor) -> Tensor:
    y = x.clone()
    y.transpose(1, 2)[:, 3] = 0.5
    return y


def _copied_before(x: Tensor) -> Tensor:
    old = x.transpose(1, 2).reshape(-1, 48)  # a copy: the write below does not reach it
    x.mul_(2.0)
    return old.view(-1, 6, 8) + x


def _other_type(x: Tensor) -> Tensor:
    y = torch.zeros(x.shape[0], 6, 8, dtype=torch.float64)
    y[:, :2] = x[:, :2]
    return x + y.float()


def _wider_type(x: Tensor) -> Tensor:
    y = x.clone()
    y += torch.arange(8, dtype=torch.float64)
    return y


def _masked(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0].masked_fill_(x[:, 0] > 0, 2.0)
    y[:, torch.tensor([1, 3])] = 0.0
    return y


FORMS: dict[str, Function] = {
    f.__name__.strip("_"): f
    for f in (
        _base, _view_before, _view_after, _through_a_view, _slices, _twice_through_one_view, _sibling_views, _parts,
        _transposed, _copied_before, _other_type, _wider_type, _masked,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_writes_in_place_keep_their_meaning(name: str) -> None:
    torch.manual_seed(0)
    model = Written(FORMS[name]).eval()
    x = torch.randn(3, 6, 5)
    traced = trace(model, x).module()
    with torch.no_grad():
        torch.testing.assert_close(traced(x), model(x))


@pytest.mark.parametrize("name", FORMS)
def test_what_is_left_can_be_trained(name: str) -> None:
    model = trace(Written(FORMS[name]).eval(), torch.randn(2, 6, 5)).module().clone_tensors().train()
    assert isinstance(model.get_submodule("norm"), nn.BatchNorm1d)
    assert isinstance(model.get_submodule("drop"), nn.Dropout)
    model(torch.randn(2, 6, 5)).sum().backward()
    assert model.get_submodule("first").weight.grad is not None


class Counting(nn.Module):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.last(self.first(x) * self.calls)


def test_a_model_that_writes_to_its_buffers_is_refused() -> None:
    with pytest.raises(InputError, match=r"the model writes to 'calls' while it runs .* Update it outside of forward"):
        trace(Counting(), torch.randn(2, 5))

"""Batch norms folded into convolutions: what is computed stays the same, and what may not be folded stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.graph import trace
from autoprune.graph.kernel import Kernel
from autoprune.graph.module import TracedModule
from autoprune.hardware.runtimes.batch_norms import fold_batch_norms
from autoprune.hardware.runtimes.model import Model


def stirred(model: nn.Module) -> nn.Module:
    """Norms that do something: statistics and weights of their own."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


def norms(module: TracedModule) -> int:
    return sum(operation.kind == "batch_norm" for operation in module.program.operations)


class Shared(nn.Module):
    """One convolution run twice, a norm behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.conv(self.first(self.conv(x))))


class Forked(nn.Module):
    """What the norm reads is read elsewhere too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.norm(x) + x


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU()), 0),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6, affine=False, eps=0.1)), 0),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), 1),
        (Shared(), 2),
        (Forked(), 1),
    ],
    ids=["no bias", "grouped, no weights", "activation between", "shared", "forked"],
)
def test_the_same_is_computed(model: nn.Module, left: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    module = trace(stirred(model), x).module()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    folded = fold_batch_norms(module)
    assert norms(folded) == left
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


def test_a_module_without_norms_is_given_back() -> None:
    module = trace(nn.Sequential(nn.Conv2d(3, 4, 1)), torch.randn(1, 3, 4, 4)).module()
    assert fold_batch_norms(module) is module


def test_the_norm_of_a_kernel_is_folded() -> None:
    kernel = Kernel(
        "x0:(1,c0,6,6);y0:(1,c1,6,6)=conv2d.default(x0,w(c1,c0,1,1));"
        "y1:(1,c1,6,6)=batch_norm.default(y0,w(c1,),w(c1,),w(c1,),w(c1,),False,0.1,1e-5,True)",
        (3, 4),
    )
    model = Model.of_kernel(kernel)
    folded = fold_batch_norms(model.module())
    assert [operation.kind for operation in folded.program.operations] == ["conv2d"]
    [expected], [got] = model.module()(*model.inputs(1)), folded(*model.inputs(1))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

"""Width 0: the removed branch's mean stays in its bias."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoprune.graph import DependencyGraph, trace
from autoprune.pruning import Pruner
from tests.pruning.models import Residual, make
from tests.pruning.transformers import Attending

CRITERIA = ("obs", "l1", "random")


def attending(**options: bool) -> tuple[Attending, DependencyGraph, list[tuple[Tensor]]]:
    torch.manual_seed(0)
    model = Attending(**options).eval()
    batches = [(torch.randn(20, 6, 5) + 1,) for _ in range(2)]
    return model, trace(model, batches[0]), batches


def mean_of(model: nn.Module, name: str, batches: list[tuple[Tensor]]) -> Tensor:
    """The mean of a layer's output over samples and all places, a value a channel."""
    seen: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_hook(lambda _, args, out: seen.append(out))
    with torch.no_grad():
        for batch in batches:
            model(*batch)
    hook.remove()
    out = torch.cat(seen)
    return out.mean(dim=(0, 1)) if out.dim() == 3 else out.mean(dim=(0, 2, 3))


@pytest.mark.usefixtures("alike")
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_attention_becomes_its_mean(criterion: str, fused: bool) -> None:
    model, graph, batches = attending(fused=fused)
    heads = "qkv" if fused else "q"
    assert graph.groups[heads].removable
    module = Pruner(graph, criterion, batches).build({heads: 0})
    x = batches[0][0]
    with torch.no_grad():
        expected = model.head(model.embed(x) + mean_of(model, "out", batches))
        torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("alike")
def test_a_convolution_in_front_of_a_batch_norm_becomes_its_mean() -> None:
    model, batches = make("residual")
    assert isinstance(model, Residual)
    graph = trace(model, batches[0])
    assert graph.groups["conv1"].removable
    module = Pruner(graph, "obs", batches, recalibrate=False).build({"conv1": 0})
    branch = mean_of(model, "bn2", batches)  # type: ignore[arg-type]
    x = batches[0][0]
    with torch.no_grad():
        y = model.stem(x) + branch[:, None, None]
        y = y + model.project(torch.relu(model.depthwise(torch.relu(model.expand(y)))))
        torch.testing.assert_close(module(x), model.head(y.mean(dim=(2, 3))), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compensate", [True, False])
def test_removal_beside_other_cuts(compensate: bool) -> None:
    _, graph, batches = attending()
    module = Pruner(graph, "obs", batches, compensate=compensate).build({"q": 0, "embed": 7})
    assert module.widths["embed"] == 7
    with torch.no_grad():
        assert bool(torch.isfinite(module(*batches[0])).all())

"""How much places matter, against Jacobians, and what weights do to fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.graph import trace
from autoprune.pruning import Pruner
from autoprune.pruning.relevance import relevance


class Masked(nn.Module):
    """Tokens through two layers; the mean over those that a mask lets through, read by a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 12), nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(n, tokens, 6), (n, tokens) -> (n, 3)."""
        y = self.second(torch.relu(self.first(x)))
        mean = (y * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1)[:, None]
        out: Tensor = self.head(torch.tanh(mean))
        return out


def masked() -> tuple[Masked, list[tuple[Tensor, Tensor]]]:
    """Half of the tokens are padding, of another distribution."""
    torch.manual_seed(0)
    batches = []
    for _ in range(2):
        x, mask = torch.randn(30, 8, 6), torch.ones(30, 8)
        x[:, 4:] = 5 * torch.randn(30, 4, 6) + 3
        mask[:, 4:] = 0
        batches.append((x, mask))
    return Masked().eval(), batches


def test_weights_are_the_squared_jacobians() -> None:
    """By many seeds on average; of the last layer each time."""
    model, batches = masked()
    graph = trace(model, batches[0])
    found = [relevance(graph, batches, seed) for seed in range(200)]
    program = {c.args[1].name: c.name for c in graph.program.operations if c.kind == "linear"}
    last = found[0][program["head.weight"]]
    assert all(torch.equal(weights.float(), torch.full((30,), 3.0)) for weights in last)
    mean = torch.stack([one[program["second.weight"]][1].float() for one in found]).mean(dim=0).reshape(30, 8)
    with torch.no_grad():
        hidden = model.second(torch.relu(model.first(batches[1][0][:1])))

    def behind(y: Tensor) -> Tensor:
        pooled: Tensor = model.head(torch.tanh((y * batches[1][1][:1, :, None]).sum(dim=1) / 4))
        return pooled

    jacobian = torch.autograd.functional.jacobian(behind, hidden)[0, :, 0]  # (3, tokens, 5)
    np.testing.assert_allclose(mean[0], jacobian.square().sum(dim=(0, 2)), rtol=0.15)


def test_a_fit_sees_no_padding() -> None:
    """The same as with padding cut off; a fit that sees it is worse where it counts."""
    model, batches = masked()
    graph = trace(model, batches[0])
    short = [(x[:, :4], mask[:, :4]) for x, mask in batches]
    plain = trace(model, short[0])
    (group,) = {group.id for group in graph.groups.values() if group.size == 12}
    pruned, expected = (Pruner(g, "obs", b).build({group: 4}) for g, b in ((graph, batches), (plain, short)))
    assert pruned.widths == expected.widths
    torch.testing.assert_close(pruned.state_dict(), expected.state_dict(), rtol=2e-2, atol=2e-2)


def test_weighted_fits_change_outputs_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = masked()
    graph = trace(model, batches[0])
    (group,) = {group.id for group in graph.groups.values() if group.size == 12}
    weighted = Pruner(graph, "obs", batches).build({group: 4})
    monkeypatch.setattr("autoprune.pruning.repairs.relevance", lambda graph, calibration, seed: {})
    alike = Pruner(graph, "obs", batches).build({group: 4})
    with torch.no_grad():
        errors = [
            sum(float((module(*batch) - model(*batch)).square().sum()) for batch in batches)
            for module in (weighted, alike)
        ]
    assert errors[0] < 0.9 * errors[1]


class Naming(nn.Module):
    """Names the class: indices, through which no gradient flows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) -> (n,)."""
        out: Tensor = self.body(x).argmax(dim=1)
        return out


def test_without_gradients_all_places_count_alike() -> None:
    model, batches = Naming().eval(), [(torch.randn(40, 6),)]
    graph = trace(model, batches[0])
    assert relevance(graph, batches) == {}
    module = Pruner(graph, "obs", batches).build(graph.uniform(0.5))
    assert module(*batches[0]).shape == (40,)


@pytest.mark.parametrize("value", [0.0, torch.inf])
def test_derivatives_that_say_nothing_are_passed_over(value: float) -> None:
    model, batches = masked()
    with torch.no_grad():
        model.head.weight[:] = value
    found = relevance(trace(model, batches[0]), batches)
    assert len(found) == 1  # of the head itself: its result is the output

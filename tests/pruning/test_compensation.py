"""One factorisation for all widths against a fresh solve for each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.graph import UnitOrder
from autoprune.graph.dimension import Concatenation, Constant, Dimension, Product, Width
from autoprune.pruning.compensation import Compensation
from autoprune.pruning.consumers import Consumer, Shift
from autoprune.pruning.gram import Moments

GROUP = Width("g", 6)
SHAPES: dict[str, tuple[Dimension, int, tuple[int, ...]]] = {  # columns, blocks, weight shape
    "one by one": (GROUP, 1, (4, 6, 1, 1)),
    "joint taps": (Product((GROUP, Constant(9))), 1, (4, 6, 3, 3)),
    "grouped": (Product((GROUP, Constant(3))), 2, (4, 6, 3)),
    "twice, beside columns that stay": (Concatenation((GROUP, Constant(2), GROUP)), 1, (4, 14)),
    "repeated": (Product((Constant(2), GROUP)), 1, (4, 12)),
}


@pytest.mark.parametrize("width", range(1, 7))
@pytest.mark.parametrize("name", SHAPES)
def test_factorised_and_solved_agree(name: str, width: int) -> None:
    dimension, blocks, shape = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    consumer = Consumer("w", "layer", dimension, blocks, 1, Shift("bias", 1))
    x = torch.randn(blocks, 500, consumer.columns, generator=generator, dtype=torch.float64) + 0.3
    moments = Moments(x.mT @ x / 500, x.mean(dim=1, keepdim=True), 500)
    state = {"w": torch.randn(shape, generator=generator), "bias": torch.randn(shape[0], generator=generator)}
    order = UnitOrder("g", np.random.default_rng(1).permutation(6))
    solved = Compensation.of(consumer, moments)
    factorised = solved.factorised({"g": order})
    assert factorised.sequence is not None
    assert solved.sequence is None
    one, two = (c.weights({"g": order.kept(width)}, state) for c in (solved, factorised))
    for key in ("w", "bias"):
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5)
    if width == 6:
        assert torch.equal(two["w"], state["w"])
        assert torch.equal(two["bias"], state["bias"])


def test_several_groups_are_solved_together() -> None:
    consumer = Consumer("w", "layer", Concatenation((GROUP, Width("h", 2))), 1, 1, None)
    moments = Moments(torch.eye(8, dtype=torch.float64)[None], torch.zeros(1, 1, 8, dtype=torch.float64), 100)
    orders = {"g": UnitOrder("g", np.arange(6)), "h": UnitOrder("h", np.arange(2))}
    compensation = Compensation.of(consumer, moments).factorised(orders)
    assert compensation.sequence is None
    weight = torch.randn(3, 8)
    found = compensation.weights({"g": np.array([0, 2]), "h": np.array([1])}, {"w": weight})
    torch.testing.assert_close(found, {"w": weight[:, [0, 2, 7]]})  # inputs without correlation make up for nothing

"""One factorisation for all widths against a fresh solve for each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.graph import UnitOrder
from autoprune.graph.dimension import Concatenation, Constant, Dimension, Product, Width, dense_size
from autoprune.pruning.compensation import Compensation, compensations, factorised
from autoprune.pruning.consumers import Consumer, Shift, Source
from autoprune.pruning.contractions import Layout
from autoprune.pruning.gram import Moments

GROUP = Width("g", 6)
LINEAR = Layout(None, (), (1,))
SHAPES: dict[str, tuple[tuple[Dimension, ...], Layout, tuple[int, ...]]] = {  # column axes, layout, weight shape
    "one by one": ((GROUP,), Layout(1, (0,), (2,)), (4, 6, 1, 1)),
    "joint taps": ((GROUP, Constant(3), Constant(3)), Layout(1, (0,), (2, 3, 4)), (4, 6, 3, 3)),
    "grouped": ((GROUP, Constant(3)), Layout(2, (0,), (2, 3)), (4, 6, 3)),
    "twice, beside columns that stay": ((Concatenation((GROUP, Constant(2), GROUP)),), LINEAR, (4, 14)),
    "repeated": ((Product((Constant(2), GROUP)),), LINEAR, (4, 12)),
    "experts": ((GROUP,), Layout(None, (0,), (1,)), (2, 6, 4)),
}


def consumer_of(axes: tuple[Dimension, ...], layout: Layout, shift: Shift | None) -> Consumer:
    dimension = axes[0] if len(axes) == 1 else Product(axes)
    return Consumer("w", Source((), (), True, 1, dense_size(dimension), "w"), dimension, axes, layout, shift)


@pytest.mark.parametrize("width", range(7))
@pytest.mark.parametrize("name", SHAPES)
def test_factorised_and_solved_agree(name: str, width: int) -> None:
    axes, layout, shape = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    consumer = consumer_of(axes, layout, Shift("bias", 1))
    blocks = layout.groups or (shape[0] if layout.blocks else 1)
    x = torch.randn(blocks, 500, consumer.columns, generator=generator, dtype=torch.float64) + 0.3
    moments = Moments(x.mT @ x / 500, x.mean(dim=1, keepdim=True), 500)
    outputs = (2, 4) if name == "experts" else (4,)
    state = {"w": torch.randn(shape, generator=generator), "bias": torch.randn(outputs, generator=generator)}
    order = UnitOrder("g", np.random.default_rng(1).permutation(6))
    (solved,) = compensations([consumer], {consumer.source.key: moments})
    faster = factorised([solved], {"g": order})["w"]
    assert faster.sequence is not None
    assert solved.sequence is None
    one, two = (c.weights({"g": order.kept(width)}, state) for c in (solved, faster))
    for key in ("w", "bias"):
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5)
    if width == 6:
        assert torch.equal(two["w"], state["w"])
        assert torch.equal(two["bias"], state["bias"])


def test_several_groups_are_solved_together() -> None:
    consumer = consumer_of((Concatenation((GROUP, Width("h", 2))),), LINEAR, None)
    moments = Moments(torch.eye(8, dtype=torch.float64)[None], torch.zeros(1, 1, 8, dtype=torch.float64), 100)
    orders = {"g": UnitOrder("g", np.arange(6)), "h": UnitOrder("h", np.arange(2))}
    compensation: Compensation = factorised(compensations([consumer], {consumer.source.key: moments}), orders)["w"]
    assert compensation.sequence is None
    weight = torch.randn(3, 8)
    found = compensation.weights({"g": np.array([0, 2]), "h": np.array([1])}, {"w": weight})
    torch.testing.assert_close(found, {"w": weight[:, [0, 2, 7]]})  # inputs without correlation make up for nothing

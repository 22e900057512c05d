"""One product, written several ways, counts the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoprune.graph import trace


class Products(nn.Module):
    """Scores between tokens, after a projection."""

    def __init__(self, scores: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.scores = nn.Linear(6, 8), nn.Linear(5, 2), scores

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.scores(self.first(x)))
        return y


@pytest.mark.parametrize(
    "scores",
    [
        lambda x: x @ x.transpose(1, 2),
        lambda x: torch.bmm(x, x.mT),
        lambda x: torch.einsum("btd,bsd->bts", x, x),
        lambda x: torch.einsum("...td,...sd->...ts", x, x),
    ],
)
def test_an_einsum_counts_as_the_product_that_it_is(scores: Callable[[Tensor], Tensor]) -> None:
    graph = trace(Products(scores), torch.randn(2, 5, 6))
    for width in (8, 3):
        assert graph.macs({"first": width}) == 5 * 6 * width + 5 * 5 * width + 5 * 5 * 2

"""Small models and tasks that the search tests share."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.graph import DependencyGraph, trace
from autoprune.pruning.pruner import Pruner
from autoprune.tuning.task import Task

SPACE = {"rules": [{"match": "*", "multiple": 4}]}


class Block(nn.Module):
    """A residual block: one free inner group, one shared with the stream."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + x)


class Net(nn.Module):
    """Three groups: the stream `stem` (8) and the inner channels of two blocks (16 and 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block1 = Block(8, 16)
        self.block2 = Block(8, 12)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block2(self.block1(torch.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))


def example() -> torch.Tensor:
    return torch.zeros(2, 3, 8, 8)


def small_graph() -> DependencyGraph:
    torch.manual_seed(0)
    return trace(Net().eval(), example())


def small_task(samples: int = 64) -> Task:
    """Random images whose class is the brightest quarter."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(samples, 3, 8, 8, generator=generator)
    quarters = torch.stack([images[:, :, i : i + 4, j : j + 4].mean((1, 2, 3)) for i in (0, 4) for j in (0, 4)], 1)
    labels = quarters.argmax(1)
    batches = [(images[i : i + 16], labels[i : i + 16]) for i in range(0, samples, 16)]
    return Task.classification(batches, batches)


def small_pruner(graph: DependencyGraph, criterion: str = "obs") -> Pruner:
    return Pruner(graph, criterion, small_task().calibration_batches(2))

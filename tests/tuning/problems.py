"""A problem small enough to train on in a second: images whose class a linear map decides."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autoprune.tuning import Task

CLASSES = 3


def data(count: int = 192, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 6, 6, generator=generator)
    truth = torch.randn(36, CLASSES, generator=torch.Generator().manual_seed(7))
    return images, (images.flatten(1) @ truth).argmax(dim=1)


def batches(count: int = 192, size: int = 32, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images, classes = data(count, seed)
    return list(zip(images.split(size), classes.split(size), strict=True))


def shuffled(count: int = 192, size: int = 32, seed: int = 0, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data(count, seed)), batch_size=size, shuffle=True, **options)


def task(**changes: Any) -> Task:
    return Task.classification(**{"train": shuffled(), "validation": batches(96, seed=1), **changes})


def network(seed: int = 0, dropout: float = 0.1) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(4 * 36, CLASSES),
        )


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

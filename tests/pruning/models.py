"""Small models with every kind of consumer, and calibration batches for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A stem, two residual blocks that share its channels (one with a depthwise convolution), a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.conv1 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.expand = nn.Conv2d(8, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.project = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        x = x + self.project(torch.relu(self.depthwise(torch.relu(self.expand(x)))))
        out: Tensor = self.head(x.mean(dim=(2, 3)))
        return out


class Concatenated(nn.Module):
    """Two branches concatenated, with the input between them, into a 1 x 1 convolution; then a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 5, 3, padding=1)
        self.right = nn.Conv2d(3, 7, 3, padding=1)
        self.merge = nn.Conv2d(15, 4, 1)
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.relu(self.left(x)), x, torch.relu(self.right(x))], dim=1)
        out: Tensor = self.head(torch.relu(self.merge(x)).flatten(1))
        return out


class Chain(nn.Module):
    """Linear layers with biases: everything is exact least squares here."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.second = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x)))
        return out


class Grouped(nn.Module):
    """A grouped convolution that is not depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 8, 3, padding=1, groups=2)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.grouped(torch.relu(self.first(x)))))
        return out


MODELS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (3, 8, 8)),
    "concatenated": (Concatenated, (3, 4, 4)),
    "chain": (Chain, (6,)),
    "grouped": (Grouped, (3, 6, 6)),
}


def make(name: str, seed: int = 0, batches: int = 3, batch: int = 16) -> tuple[nn.Module, list[tuple[Tensor, ...]]]:
    """A model with random weights and batch-norm statistics, in eval mode, and calibration batches."""
    torch.manual_seed(seed)
    kind, shape = MODELS[name]
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.normal_(module.bias, std=0.5)
    return model.eval(), [(torch.randn(batch, *shape),) for _ in range(batches)]

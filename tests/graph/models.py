"""Small models that cover what convolutional networks do: sequential, residual, depthwise, grouped, concat, flatten."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Sequential(nn.Module):
    """conv-bn-relu twice, pooled, flattened into two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU6(inplace=True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.hidden = nn.Linear(8 * 4 * 4, 12)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.drop(F.relu(self.hidden(torch.flatten(self.features(x), 1)))))
        return y


class Residual(nn.Module):
    """Two residual blocks, the second with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a1, self.a2 = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.b1, self.b2 = nn.Conv2d(8, 10, 3, 2, 1), nn.Conv2d(10, 12, 1)
        self.down = nn.Conv2d(8, 12, 1, 2)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.norm(self.a2(F.relu(self.a1(x)))))
        x = F.relu(self.down(x) + self.b2(F.relu(self.b1(x))))
        y: Tensor = self.out(x.mean((2, 3)))
        return y


class Depthwise(nn.Module):
    """An inverted residual with squeeze-excite and a depthwise multiplier of two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.expand = nn.Conv2d(6, 10, 1)
        self.depthwise = nn.Conv2d(10, 20, 3, padding=1, groups=10)
        self.norm = nn.BatchNorm2d(20)
        self.squeeze, self.excite = nn.Linear(20, 4), nn.Linear(4, 20)
        self.project = nn.Conv2d(20, 6, 1)
        self.out = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.hardswish(self.norm(self.depthwise(F.silu(self.expand(x)))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        x = x + self.project(y * gate[:, :, None, None])
        return F.adaptive_avg_pool2d(self.out(x), 1).flatten(1)


class Grouped(nn.Module):
    """Grouped convolutions (a ResNeXt block), a padded shortcut and a channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 1)
        self.inner = nn.Conv2d(12, 24, 3, padding=1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.close = nn.Conv2d(24, 16, 1)
        self.left, self.mix = nn.Conv2d(16, 6, 1), nn.Conv2d(16, 8, 1)
        self.right = nn.Conv2d(8, 6, 3, padding=1, groups=2)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.close(F.relu(self.norm(self.inner(x)))) + F.pad(x, (0, 0, 0, 0, 2, 2))
        y = torch.cat([self.left(x), self.right(self.mix(x))], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        z: Tensor = self.out(y.mean((2, 3)))
        return z


class Concatenated(nn.Module):
    """A dense block: every layer reads all before it; then a chunk gates itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm1, self.layer1 = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)
        self.norm2, self.layer2 = nn.BatchNorm2d(10), nn.Conv2d(10, 6, 3, padding=1)
        self.gate = nn.Conv2d(16, 14, 1)
        self.out = nn.Linear(7 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.layer1(F.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.layer2(F.relu(self.norm2(x)))], 1)
        a, b = self.gate(x).chunk(2, dim=1)
        y = F.avg_pool2d(a * torch.sigmoid(b), 4)
        z: Tensor = self.out(y.flatten(1))
        return z


class Flattened(nn.Module):
    """Two branches flattened together, one of them sliced."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(3, 8, 3, 2, 1)
        self.hidden = nn.Linear((6 + 5) * 16, 9)
        self.out = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([F.gelu(self.a(x)), torch.tanh(self.b(x))[:, :5]], 1)
        z: Tensor = self.out(F.relu(self.hidden(y.reshape(y.shape[0], -1))))
        return z


MODELS: dict[str, Callable[[], nn.Module]] = {
    cls.__name__: cls for cls in (Sequential, Residual, Depthwise, Grouped, Concatenated, Flattened)
}
SHAPE = (3, 8, 8)


def trained(name: str, seed: int = 0) -> nn.Module:
    """A model with random weights and random, well-scaled batch-norm statistics, in eval mode."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = MODELS[name]()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.randn(module.num_features)
                module.running_var = torch.rand(module.num_features) + 0.5
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
    return model.eval()

"""A small vision transformer for Fashion-MNIST and its training from scratch, for the benchmarks."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.data import Split, augmented, cached


class Attention(nn.Module):
    """Multi-head self-attention with separate query, key and value layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> (n, tokens, width)."""
        n, tokens, _ = x.shape
        parts = (layer(x).reshape(n, tokens, self.heads, -1) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(n, tokens, -1))
        return out


class Layer(nn.Module):
    """Attention and MLP, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> (n, tokens, width)."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out


class ViT(nn.Module):
    """A pre-norm vision transformer (Dosovitskiy et al. 2021) of 7 x 7 patches: 205k parameters, 3 MMACs."""

    def __init__(self, classes: int = 10, width: int = 64, depth: int = 4, heads: int = 4, hidden: int = 256) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.layers = nn.Sequential(*(Layer(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 28, 28) -> (n, classes)."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        out: Tensor = self.head(self.norm(self.layers(x)).mean(dim=1))
        return out


def train_vit(train: Split, epochs: int, seed: int) -> ViT:
    """Trained from scratch: AdamW, OneCycle to 2e-3, batch 128, float32 (on matrices this small bfloat16 is slower)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = ViT().train()
    steps = len(train.labels) // 128
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps * epochs)
    for epoch in range(epochs):
        started, total = time.monotonic(), 0.0
        shuffled = torch.randperm(len(train.labels), generator=generator)[: steps * 128]
        for index in torch.split(shuffled, 128):
            loss = F.cross_entropy(model(augmented(train.images[index], generator)), train.labels[index])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        spent = time.monotonic() - started
        print(f"vit seed {seed} epoch {epoch + 1}/{epochs}: loss {total / steps:.3f}, {spent:.0f} s", file=sys.stderr)
    return model.eval()


def cached_vit(train: Split, epochs: int, seed: int, cache: Path) -> ViT:
    """`train_vit`, or the weights that an earlier run left in `cache`."""
    path = cache / f"vit-fashion-e{epochs}-s{seed}.safetensors"
    return cached(path, ViT, lambda: train_vit(train, epochs, seed))

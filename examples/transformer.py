"""A transformer made smaller by heads, MLP widths and whole blocks, and handed back as the class it came from.

python examples/transformer.py [OUTPUT_FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autoprune as ap
from autoprune.artifacts.exporters import EXPORTERS
from autoprune.graph.native import patch


class Block(nn.Module):
    """Attention and an MLP, each added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, self.head_dim)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_dim))
        mlp: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + mlp


class Classifier(nn.Module):
    """Patches of an image, blocks, the mean token."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


def main(folder: Path) -> nn.Module:
    """Inspect, prune by hand, get the class back, export."""
    torch.manual_seed(0)
    model = Classifier().eval()  # bring your own, trained
    images = torch.randn(64, 1, 28, 28)

    # Heads, head widths, MLPs and the embedding width are groups; nothing had to be said about the model.
    print(ap.inspect(model, images[:2]).summary())
    graph = ap.trace(model, images[:2])

    # One head less in the first block, half of each MLP, and no attention at all in the last block.
    policy = {f"blocks.{block}.fc1": 128 for block in range(4)} | {"blocks.0.qkv": 3, "blocks.3.qkv": 0}
    small = ap.prune(graph, policy, calibration=[(images,)])
    with torch.no_grad():
        print(f"difference of the outputs: {(small(images) - model(images)).abs().max():.3f}")

    # Without the removed block, the model's own class can hold the weights too.
    policy.pop("blocks.3.qkv")
    native, reason = patch(model, ap.prune(graph, policy, calibration=[(images,)]), (images[:2],))
    if native is None:
        print(reason)
    else:
        print(f"{type(native).__name__} with {native.get_submodule('blocks.0').heads} heads in its first block")

    folder.mkdir(parents=True, exist_ok=True)
    EXPORTERS.get("onnx")().export(small, (images[:2],), folder / "small.onnx")
    return small


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/transformer"))

"""Small models of the structure of well-known families, written as those are: no layer counts, no names that help."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.graph import DependencyGraph, trace


class FusedAttention(nn.Module):
    """One projection for queries, keys and values, heads after parts (timm's ViT), with a table per head or none."""

    def __init__(self, width: int, heads: int, places: int = 0) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn(heads, places, places)) if places else None

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.table)
        z: Tensor = self.proj(y.transpose(1, 2).reshape(n, t, c))
        return z


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(F.gelu(self.one(x)))
        return y


class VisionBlock(nn.Module):
    """A pre-norm block."""

    def __init__(self, width: int, heads: int, hidden: int, places: int = 0) -> None:
        super().__init__()
        self.before, self.mix = nn.LayerNorm(width), FusedAttention(width, heads, places)
        self.between, self.think = nn.LayerNorm(width), Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.before(x))
        y: Tensor = x + self.think(self.between(x))
        return y


class Vit(nn.Module):
    """Patches, a class token, positions, three blocks, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.places = nn.Parameter(torch.randn(1, 5, 32))
        self.blocks = nn.ModuleList(VisionBlock(32, 4, 48) for _ in range(3))
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.out(self.norm(x)[:, 0])
        return y


class BertLayer(nn.Module):
    """A post-norm layer, its attention written out."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(24, 24) for _ in range(4))
        self.first, self.second = nn.LayerNorm(24), nn.LayerNorm(24)
        self.up, self.down = nn.Linear(24, 40), nn.Linear(40, 24)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (p(x).view(n, t, 4, 6).transpose(1, 2) for p in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(-1, -2) / 6**0.5, -1)
        x = self.first(x + self.output((weights @ v).transpose(1, 2).reshape(n, t, 24)))
        y: Tensor = self.second(x + self.down(F.gelu(self.up(x))))
        return y


class Bert(nn.Module):
    """Three embeddings added, post-norm layers with separate projections, a pooler on the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds, self.places = nn.Embedding(20, 24), nn.Embedding(2, 24), nn.Embedding(9, 24)
        self.norm = nn.LayerNorm(24)
        self.layers = nn.ModuleList(BertLayer() for _ in range(2))
        self.pooler, self.out = nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.kinds(torch.zeros_like(ids)) + self.places(torch.arange(ids.shape[1]))
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.out(torch.tanh(self.pooler(x[:, 0])))
        return y


class LlamaLayer(nn.Module):
    """Grouped-query attention with rotary positions, and a gated MLP; no biases."""

    def __init__(self, width: int, heads: int, shared: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.shared, self.head_dim = shared, head_dim
        self.q, self.o = nn.Linear(width, heads * head_dim, False), nn.Linear(heads * head_dim, width, False)
        self.k, self.v = (nn.Linear(width, shared * head_dim, False) for _ in range(2))
        self.gate, self.up = nn.Linear(width, hidden, False), nn.Linear(width, hidden, False)
        self.down = nn.Linear(hidden, width, False)
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)

    def rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat([-right, left], -1) * sin

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n, t, _ = x.shape
        y = self.norm1(x)
        q, k, v = (p(y).view(n, t, -1, self.head_dim).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = self.rotated(q, cos, sin), self.rotated(k, cos, sin)
        times = q.shape[1] // self.shared
        k, v = (
            part[:, :, None].expand(n, self.shared, times, t, self.head_dim).reshape(n, -1, t, self.head_dim)
            for part in (k, v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(n, t, -1))
        y = self.norm2(x)
        z: Tensor = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return z


class Llama(nn.Module):
    """Six query heads on two key-value heads, an output layer that is not the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 128)
        self.layers = nn.ModuleList(LlamaLayer(128, 6, 2, 8, 40) for _ in range(3))
        self.norm, self.out = nn.RMSNorm(128), nn.Linear(128, 20, False)
        angles = torch.arange(6)[:, None] * 0.3 ** torch.arange(4)
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos())
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin())

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        y: Tensor = self.out(self.norm(x))
        return y


class Swin(nn.Module):
    """Two stages of shifted windows (rolled, cut out, put back), patches merged between them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.stage1 = nn.ModuleList(VisionBlock(16, 2, 24, 4) for _ in range(2))
        self.merge = nn.Linear(64, 32, bias=False)
        self.stage2 = nn.ModuleList(VisionBlock(32, 4, 48, 4) for _ in range(2))
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, 5)

    def windows(self, block: nn.Module, x: Tensor, shift: int) -> Tensor:
        n, h, w, c = x.shape
        x = torch.roll(x, (-shift, -shift), (1, 2))
        x = x.view(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        x = block(x).view(n, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(n, h, w, c)
        return torch.roll(x, (shift, shift), (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        for place, block in enumerate(self.stage1):
            x = self.windows(block, x, place % 2)
        x = self.merge(torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1))
        for place, block in enumerate(self.stage2):
            x = self.windows(block, x, place % 2)
        y: Tensor = self.out(self.norm(x).mean((1, 2)))
        return y


class Bottleneck(nn.Module):
    """A residual block of two convolutions, squeeze-excite between them."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, inner, 3, padding=1)
        self.squeeze, self.excite = nn.Linear(inner, 4), nn.Linear(4, inner)
        self.c = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.b(F.relu(self.a(x))))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))[:, :, None, None]
        z: Tensor = x + self.c(y)
        return z


class Resnet(nn.Module):
    """A stem, two stages of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 1, 2)
        self.stage1 = nn.Sequential(*(Bottleneck(8, 12) for _ in range(2)))
        self.stage2 = nn.Sequential(*(Bottleneck(16, 12) for _ in range(2)))
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.down(self.stage1(F.relu(self.stem(x)))))
        y: Tensor = self.out(x.mean((2, 3)))
        return y


class Parallel(nn.Module):
    """Two branches that are added to each other and to nothing else: either may go, both may not."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Mlp(6, 8), Mlp(6, 10)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(F.relu(self.left(x) + self.right(x)))
        return y


def _images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _tokens(length: int) -> Tensor:
    return torch.randint(20, (2, length), generator=torch.Generator().manual_seed(1))


ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "Vit": (Vit, _images()),
    "Bert": (Bert, _tokens(9)),
    "Llama": (Llama, _tokens(6)),
    "Swin": (Swin, _images()),
    "Resnet": (Resnet, _images()),
    "Parallel": (Parallel, torch.randn(2, 6, generator=torch.Generator().manual_seed(1))),
}


@functools.cache
def traced(name: str) -> DependencyGraph:
    """The graph of a small model with random weights."""
    build, inputs = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return trace(build().eval(), inputs)

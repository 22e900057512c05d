"""Small models of the structures that attention brings: fused and separate projections, windows, gated MLPs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 16


class FusedAttention(nn.Module):
    """One linear layer for queries, keys and values, as image transformers have it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))


class VisionBlock(nn.Module):
    """Norms first, layer scale on both branches."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = FusedAttention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.scale * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    """Patches, a class token, positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.blocks = nn.Sequential(VisionBlock(WIDTH, 4, 24), VisionBlock(WIDTH, 4, 24))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(x.shape[0], -1, -1), tokens], 1) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


class EncoderBlock(nn.Module):
    """Separate projections, norms behind the sums, as text encoders have it."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width)
        self.up, self.down, self.norm2 = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        mixed = (scores @ v).transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)
        x = self.norm1(x + self.dropout(self.dense(mixed)))
        normed: Tensor = self.norm2(x + self.dropout(self.down(F.gelu(self.up(x)))))
        return normed


class TextEncoder(nn.Module):
    """Embeddings of words and positions, two blocks, a classifier on the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(50, WIDTH), nn.Embedding(12, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList([EncoderBlock(WIDTH, 4, 24) for _ in range(2)])
        self.classifier = nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.words(tokens) + self.positions(places))
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.classifier(x[:, 0])
        return logits


class DecoderBlock(nn.Module):
    """Grouped-query attention with rotary positions, a gated MLP, RMS norms, no biases."""

    def __init__(self, width: int, heads: int, shared: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.shared, self.head_dim = heads, shared, width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(width, shared * self.head_dim, bias=False) for _ in range(2))
        self.o_proj = nn.Linear(width, width, bias=False)
        self.gate_proj, self.up_proj = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def rotated(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2], device=x.device)[:, None] / 10.0 ** torch.arange(self.head_dim // 2)
        cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
        half = self.head_dim // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q = self.q_proj(x).view(batch, tokens, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, tokens, self.shared, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, tokens, self.shared, self.head_dim).transpose(1, 2)
        k, v = (part.repeat_interleave(self.heads // self.shared, 1) for part in (self.rotated(k), v))
        mixed = F.scaled_dot_product_attention(self.rotated(q), k, v, is_causal=True)
        projected: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return projected

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        gated: Tensor = self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))
        return x + gated


class Decoder(nn.Module):
    """A causal language model whose output layer is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, WIDTH)
        self.layers = nn.ModuleList([DecoderBlock(WIDTH, 4, 2, 24) for _ in range(2)])
        self.norm = nn.RMSNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, 50, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.lm_head(self.norm(x))
        return logits


class WindowBlock(nn.Module):
    """Attention inside shifted windows with a table of relative positions."""

    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift, self.window = heads, shift, 2
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn(9, heads))
        self.register_buffer("index", torch.randint(0, 9, (16,)), persistent=False)
        self.index: Tensor
        self.fc1, self.fc2 = nn.Linear(width, 24), nn.Linear(24, width)

    def attention(self, x: Tensor) -> Tensor:
        batch, rows, columns, width = x.shape
        side = self.window
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(batch, rows // side, side, columns // side, side, width).transpose(2, 3)
        x = x.reshape(-1, side * side, width)
        q, k, v = self.qkv(x).reshape(x.shape[0], side * side, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index].view(side * side, side * side, self.heads).permute(2, 0, 1)
        scores = (q @ k.transpose(-2, -1) * 0.5 + bias.unsqueeze(0)).softmax(-1)
        x = self.proj((scores @ v).transpose(1, 2).reshape(x.shape[0], side * side, -1))
        x = x.view(batch, rows // side, columns // side, side, side, width).transpose(2, 3)
        return torch.roll(x.reshape(batch, rows, columns, width), (self.shift, self.shift), (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        mixed: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + mixed


class WindowTransformer(nn.Module):
    """Two window blocks, the second one shifted."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, 2)
        self.blocks = nn.Sequential(WindowBlock(WIDTH, 4, 0), WindowBlock(WIDTH, 4, 1))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patches(x).permute(0, 2, 3, 1))
        logits: Tensor = self.head(self.norm(x).mean((1, 2)))
        return logits


class ConvNeXt(nn.Module):
    """Depthwise convolution, norm over channels last, an inverted bottleneck, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 2, 2)
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.expand, self.project = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.gamma = nn.Parameter(torch.rand(WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + (self.gamma * self.project(F.gelu(self.expand(y)))).permute(0, 3, 1, 2)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def images() -> Tensor:
    """(2, 3, 8, 8)"""
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def tokens() -> Tensor:
    """(2, 10) of 50 words"""
    return torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(1))


TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "VisionTransformer": (VisionTransformer, images),
    "TextEncoder": (TextEncoder, tokens),
    "Decoder": (Decoder, tokens),
    "WindowTransformer": (WindowTransformer, images),
    "ConvNeXt": (ConvNeXt, images),
}


def transformer(name: str, seed: int = 0) -> nn.Module:
    """A model with weights drawn from `seed`, biases and norms included."""
    torch.manual_seed(seed)
    model = TRANSFORMERS[name][0]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.2, 1.0)
    return model.eval()

"""Small models that keep their sizes in attributes: attention as several libraries write it, configurations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, HEAD, TOKENS, VOCABULARY = 16, 4, 4, 6, 20


def features(rows: int = 3) -> Tensor:
    """Inputs of `Blocks`.  # (rows, TOKENS, 5)"""
    return torch.randn(rows, TOKENS, 5, generator=torch.Generator().manual_seed(1))


class Blocks(nn.Module):
    """Tokens through residual blocks of `attention` and an MLP, pooled, classified."""

    def __init__(self, *attentions: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Linear(5, WIDTH)
        self.attentions = nn.ModuleList(attentions)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in attentions)
        self.ups = nn.ModuleList(nn.Linear(WIDTH, 24) for _ in attentions)
        self.downs = nn.ModuleList(nn.Linear(24, WIDTH) for _ in attentions)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for attention, norm, up, down in zip(self.attentions, self.norms, self.ups, self.downs, strict=True):
            x = x + attention(norm(x))
            x = x + down(F.gelu(up(x)))
        y: Tensor = self.head(x.mean(1))
        return y


class FusedAttention(nn.Module):
    """As in timm: fused qkv, heads split by attributes, the default scale (which follows the width)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = HEADS, HEAD, HEADS * HEAD
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(WIDTH, 3 * self.attn_dim)
        self.proj = nn.Linear(self.attn_dim, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, self.attn_dim)
        y: Tensor = self.proj(x)
        return y


class ShapedAttention(nn.Module):
    """As in torchvision: the head width comes from the input's width, and so does the scale."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * (c // self.num_heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        y: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return y


@dataclass
class Config:
    """What the layers of one model share."""

    hidden_size: int = WIDTH
    num_attention_heads: int = HEADS
    intermediate_size: int = 24
    num_hidden_layers: int = 4  # as many as there are heads, and no size
    layer_norm_eps: float = 1e-5


class ConfiguredAttention(nn.Module):
    """As in transformers: separate projections, sizes derived from a shared configuration, a scale made at run time."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        self.all_head_size = self.num_attention_heads * self.attention_head_size
        self.query, self.key, self.value = (nn.Linear(WIDTH, self.all_head_size) for _ in range(3))
        self.dense = nn.Linear(self.all_head_size, config.hidden_size)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_attention_heads, self.attention_head_size).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.attention_head_size)
        context = (scores.softmax(-1) @ v).transpose(1, 2).contiguous()
        y: Tensor = self.dense(context.view(*context.shape[:-2], self.all_head_size))
        return y.view(*y.shape[:-1], self.config.hidden_size)


class ConfiguredMLP(nn.Module):
    """Reads a size from the configuration when it runs; each layer may need another one."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.up = nn.Linear(config.hidden_size, 2 * config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).split(self.config.intermediate_size, dim=-1)
        y: Tensor = self.down(F.silu(gate) * value)
        return y


class Configured(nn.Module):
    """Token numbers in, tied embedding out; one configuration object for all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.attentions = nn.ModuleList(ConfiguredAttention(self.config) for _ in range(2))
        self.mlps = nn.ModuleList(ConfiguredMLP(self.config) for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH, eps=self.config.layer_norm_eps)
        self.decoder = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.decoder.weight = self.embeddings.weight
        self.model_dim = WIDTH

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embeddings(input_ids)
        for attention, mlp in zip(self.attentions, self.mlps, strict=True):
            x = x + attention(x)
            x = x + mlp(x)
        y: Tensor = self.decoder(self.norm(x) * self.model_dim**-0.5)
        return y


class GroupedQueryAttention(nn.Module):
    """As in Llama: fewer key-value heads than query heads, repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim, self.num_key_value_heads, self.num_key_value_groups = HEAD, 2, 2
        self.scaling = HEAD**-0.5
        self.q_proj = nn.Linear(WIDTH, 4 * HEAD, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(WIDTH, 2 * HEAD, bias=False) for _ in range(2))
        self.o_proj = nn.Linear(4 * HEAD, WIDTH, bias=False)

    def repeated(self, x: Tensor) -> Tensor:
        b, heads, n, width = x.shape
        return x[:, :, None].expand(b, heads, self.num_key_value_groups, n, width).reshape(b, -1, n, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        y = F.scaled_dot_product_attention(q, self.repeated(k), self.repeated(v), scale=self.scaling)
        z: Tensor = self.o_proj(y.transpose(1, 2).reshape(*x.shape[:-1], -1))
        return z


class Conv1D(nn.Module):
    """A linear layer with its weight the other way round, as in GPT-2."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) * nx**-0.5)
        self.bias = nn.Parameter(torch.randn(nf) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class TransposedAttention(nn.Module):
    """As in GPT-2: `Conv1D`, and a fused projection split by an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.split_size = HEADS, HEAD, HEADS * HEAD
        self.c_attn, self.c_proj = Conv1D(3 * self.split_size, WIDTH), Conv1D(WIDTH, self.split_size)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.num_heads, self.head_dim)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.c_attn(x).split(self.split_size, dim=2))
        weights = (q @ k.transpose(-1, -2) * self.head_dim**-0.5).softmax(-1)
        y: Tensor = self.c_proj((weights @ v).transpose(1, 2).reshape(*x.shape[:-1], self.num_heads * self.head_dim))
        return y


class TorchAttention(nn.Module):
    """`nn.MultiheadAttention`, which keeps one width for heads and input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return y


class CachedBiasAttention(FusedAttention):
    """A relative position table, gathered once in eval mode and kept, as in LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(HEADS, 2 * TOKENS - 1))
        places = torch.arange(TOKENS)
        self.index: Tensor
        self.register_buffer("index", places[:, None] - places[None, :] + TOKENS - 1, persistent=False)
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> CachedBiasAttention:
        super().train(mode)
        self.cache = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if "bias" not in self.cache:
            self.cache["bias"] = self.table[:, self.index]
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[:, self.index] if torch.compiler.is_compiling() else self.cache["bias"]
        weights = (q @ k.transpose(-1, -2) * self.scale + bias).softmax(-1)
        y: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(b, n, -1))
        return y

"""Every operator rule against the oracle: copy a case to test a rule of your own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.graph import trace
from autoprune.graph.dimension import units_of
from tests.graph.models import MODELS, SHAPE, trained
from tests.graph.oracle import Oracle

Function = Callable[[Tensor], Tensor]


class Images(nn.Module):
    """A convolution, the function under test on (n, 8, 8, 8), and a convolution of `channels` inputs."""

    SHAPE = (3, 8, 8)

    def __init__(self, function: Function, channels: int = 8, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(channels, 4, 1)
        self.inner, self.function = inner, function

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.function(x if self.inner is None else self.inner(x))
        return self.last(x)


class Tokens(nn.Module):
    """A linear layer, the function under test on (n, 6, 12), and a linear layer of `features` inputs."""

    SHAPE = (6, 5)

    def __init__(self, function: Function, features: int = 12, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 12), nn.Linear(features, 4)
        self.inner, self.function = inner, function

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.function(x if self.inner is None else self.inner(x))
        return self.last(x)


class Attention(nn.Module):
    """Self-attention over (n, 6, 5), in the ways that people write it."""

    places: Tensor

    SHAPE = (6, 5)

    def __init__(self, kind: str, heads: int = 4, kv_heads: int = 4, width: int = 3) -> None:
        super().__init__()
        self.kind, self.heads, self.kv_heads, self.width = kind, heads, kv_heads, width
        self.embed, self.norm = nn.Linear(5, 8), nn.LayerNorm(8)
        if kind.startswith("fused"):
            self.qkv = nn.Linear(8, 3 * heads * width)
        else:
            self.q = nn.Linear(8, heads * width)
            self.k, self.v = nn.Linear(8, kv_heads * width), nn.Linear(8, kv_heads * width)
        self.bias = nn.Parameter(torch.randn(9, heads))
        self.register_buffer("places", torch.arange(36) % 9)
        self.project, self.out = nn.Linear(heads * width, 8), nn.Linear(8, 2)
        self.scale = width**-0.5

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, t, _ = x.shape
        if self.kind == "fused outer":
            q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.kind == "fused inner":
            q, k, v = self.qkv(x).view(n, t, self.heads, 3 * self.width).transpose(1, 2).chunk(3, dim=-1)
        else:
            q = self.q(x).view(n, t, self.heads, self.width).transpose(1, 2)
            k = self.k(x).view(n, t, self.kv_heads, self.width).transpose(1, 2)
            v = self.v(x).view(n, t, self.kv_heads, self.width).transpose(1, 2)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.kind == "grouped query":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        if self.kind == "repeated heads":
            k, v = (z.repeat_interleave(self.heads // self.kv_heads, dim=1) for z in (k, v))
            return F.scaled_dot_product_attention(q, k, v)
        if self.kind == "einsum":
            weights = torch.einsum("bhid,bhjd->bhij", q, k) * self.scale
            return torch.einsum("bhij,bhjd->bhid", weights.softmax(-1), v)
        if self.kind == "by hand":
            table = self.bias[self.places].view(6, 6, self.heads).permute(2, 0, 1)
            return (q @ k.transpose(-2, -1) * self.scale + table).softmax(-1) @ v
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        mixed = self.attend(*self.projected(self.norm(x))).transpose(1, 2).flatten(2)
        y: Tensor = self.out(x + self.project(mixed))
        return y


class Gated(nn.Module):
    """A gated MLP behind an RMS norm written by hand, as language models have it."""

    SHAPE = (6, 5)

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.weight = nn.Parameter(torch.rand(8) + 0.5)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        normed = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        y: Tensor = self.out(x + self.down(F.silu(self.gate(normed)) * self.up(normed)))
        return y


class Tied(nn.Module):
    """Token and position embeddings, the output tied to the first; functional products with transposed weights."""

    SHAPE = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 8), nn.Parameter(torch.randn(1, 6, 8))
        self.hidden = nn.Parameter(torch.randn(8, 12))
        self.back, self.shift = nn.Parameter(torch.randn(12, 8)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x.long()) + self.positions
        flat = torch.relu(torch.matmul(h, self.hidden)).view(-1, 12)
        h = h + torch.addmm(self.shift, flat, self.back).view(-1, 6, 8)
        return F.linear(h, self.tokens.weight)


CASES: dict[str, Callable[[], nn.Module]] = {
    "layer_norm": lambda: Tokens(F.relu, inner=nn.LayerNorm(12)),
    "rms_norm": lambda: Tokens(F.relu, inner=nn.RMSNorm(12)),
    "group_norm": lambda: Images(F.relu, inner=nn.GroupNorm(2, 8)),
    "group_norm of one": lambda: Images(F.relu, inner=nn.GroupNorm(1, 8)),
    "instance_norm": lambda: Images(F.relu, inner=nn.InstanceNorm2d(8, affine=True)),
    "prelu": lambda: Images(F.relu, inner=nn.PReLU(8)),
    "conv_transpose2d": lambda: Images(F.relu, 6, nn.ConvTranspose2d(8, 6, 2, 2)),
    "mean over channels": lambda: Images(lambda x: x * torch.sigmoid(x.mean(1, keepdim=True))),
    "sum over channels": lambda: Images(lambda x: x / (1 + x.abs().sum(1, keepdim=True))),
    "vector_norm": lambda: Tokens(lambda x: F.normalize(x, dim=-1)),
    "max over tokens": lambda: Tokens(lambda x: x - x.amax(1, keepdim=True)),
    "pixel_shuffle": lambda: Images(lambda x: F.pixel_shuffle(x, 2), 2),
    "pixel_unshuffle": lambda: Images(lambda x: F.pixel_unshuffle(x, 2), 32),
    "channel_shuffle": lambda: Images(lambda x: F.channel_shuffle(x, 2)),
    "interpolate": lambda: Images(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "roll": lambda: Images(lambda x: x.roll((1, 2), (2, 3))),
    "flip": lambda: Images(lambda x: x.flip(3)),
    "strided slice": lambda: Images(lambda x: torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]], 1), 16),
    "channel slice": lambda: Images(lambda x: x[:, 2:] * x[:, :6], 6),
    "narrow": lambda: Images(lambda x: x.narrow(1, 2, 5), 5),
    "split": lambda: Images(lambda x: torch.cat([z.tanh() for z in x.split([3, 5], 1)], 1)),
    "unbind": lambda: Tokens(lambda x: torch.stack(x.view(-1, 6, 3, 4).unbind(2), 2).flatten(2)),
    "select": lambda: Tokens(lambda x: x + x[:, 0].unsqueeze(1)),
    "repeat": lambda: Tokens(lambda x: x.repeat(1, 1, 2), 24),
    "repeat_interleave": lambda: Tokens(lambda x: x.repeat_interleave(2, dim=2), 24),
    "expand": lambda: Tokens(lambda x: x + x.mean(1, keepdim=True).expand(-1, 6, -1)),
    "gather": lambda: Tokens(lambda x: x.gather(1, torch.zeros(1, 6, 12, dtype=torch.long).expand(x.shape[0], 6, 12))),
    "index_select": lambda: Tokens(lambda x: x.index_select(1, torch.tensor([3, 1, 0, 2, 4, 5]))),
    "where": lambda: Tokens(lambda x: torch.where(x > 0, x, 0.1 * x)),
    "masked_fill": lambda: Tokens(lambda x: x.masked_fill(x > 1, 0.5)),
    "triangle": lambda: Tokens(lambda x: (x @ x.transpose(1, 2)).tril() @ x),
    "movedim": lambda: Tokens(lambda x: x.movedim(2, 1).movedim(1, 2)),
    "topk": lambda: Tokens(lambda x: x.topk(6, dim=1).values),
    "squeeze": lambda: Tokens(lambda x: x.unsqueeze(1).squeeze(1)),
    "reshape_as": lambda: Tokens(lambda x: (x.view(-1, 6, 3, 4) * 2).reshape_as(x)),
    "windows": lambda: Images(lambda x: x.view(-1, 8, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 8, 4, 4)),
    "written in part": lambda: Tokens(lambda x: _with_zero_token(x)),
    "attention": lambda: Attention("separate"),
    "attention, fused, 3 outside": lambda: Attention("fused outer"),
    "attention, fused, 3 inside": lambda: Attention("fused inner"),
    "attention, grouped queries": lambda: Attention("grouped query", kv_heads=2),
    "attention, repeated heads": lambda: Attention("repeated heads", kv_heads=2),
    "attention, einsum": lambda: Attention("einsum"),
    "attention, by hand with a bias table": lambda: Attention("by hand"),
    "gated MLP, RMS norm by hand": Gated,
    "embeddings, tied": Tied,
    **{name: (lambda name=name: trained(name)) for name in MODELS},  # type: ignore[misc]
}


def _with_zero_token(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 2] = 0.0
    return y


def example(model: nn.Module, rows: int) -> Tensor:
    shape = getattr(model, "SHAPE", SHAPE)
    generator = torch.Generator().manual_seed(rows)
    if isinstance(model, Tied):
        return torch.randint(0, 11, (rows, *shape), generator=generator)
    return torch.randn(rows, *shape, generator=generator)


@pytest.mark.parametrize("name", CASES)
def test_sliced_equals_the_oracle(name: str) -> None:
    torch.manual_seed(0)
    model = CASES[name]().eval()
    graph = trace(model, example(model, 2))
    x = example(model, 3)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        torch.testing.assert_close(graph.module()(x), model(x))
        for _ in range(4):
            kept = {
                group.id: np.sort(rng.choice(group.size, rng.integers(1, group.size + 1), replace=False))
                for group in graph.groups.values()
            }
            torch.testing.assert_close(graph.module(kept=kept)(x), Oracle(graph, kept)(x), rtol=1e-4, atol=1e-5)


PRUNABLE = {
    "attention": {"head", "head_dim", "hidden"},
    "attention, fused, 3 outside": {"head", "head_dim", "hidden"},
    "attention, fused, 3 inside": {"head", "head_dim", "hidden"},
    "attention, grouped queries": {"head", "head_dim", "hidden"},
    "attention, by hand with a bias table": {"head", "head_dim", "hidden"},
}


@pytest.mark.parametrize("name", PRUNABLE)
def test_attention_shrinks_by_heads_head_dims_and_width(name: str) -> None:
    model = CASES[name]().eval()
    graph = trace(model, example(model, 2))
    assert {group.unit for group in graph.groups.values()} >= PRUNABLE[name]
    assert "embed" in graph.groups  # the residual width, through the layer norm


def test_grouped_queries_stay_a_multiple_of_key_value_heads() -> None:
    model = CASES["attention, grouped queries"]().eval()
    graph = trace(model, example(model, 2))
    keys = graph.program.values["k.weight"].dimensions[0]
    queries = graph.program.values["q.weight"].dimensions[0]
    shared = [g for g in graph.groups if (units_of(keys, g) >= 0).any() and (units_of(queries, g) >= 0).any()]
    assert {graph.groups[g].size for g in shared} >= {2, 3}  # key-value heads, and the width of a head


def test_the_scale_of_attention_is_the_trained_one() -> None:
    model = Attention("separate").eval()
    graph = trace(model, example(model, 2))
    call = next(op for op in graph.program.operations if "scaled_dot_product" in op.target)
    assert dict(call.kwargs)["scale"] == pytest.approx(3**-0.5)

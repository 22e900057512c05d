"""Every operator rule against the oracle: copy a case to test a rule of your own."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from autoprune.graph import DependencyGraph, analysis, trace
from autoprune.graph.dimension import units_of
from autoprune.graph.rules import RULES, Call, Dims, Rule, apply
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
    cosine: Tensor
    sine: Tensor

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
        self.register_buffer("cosine", torch.cos(torch.arange(24.0).view(6, 4)))
        self.register_buffer("sine", torch.sin(torch.arange(24.0).view(6, 4)))
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
        if self.kind == "rotary":
            q, k = (z * self.cosine + torch.cat([-z[..., 2:], z[..., :2]], -1) * self.sine for z in (q, k))
            return F.scaled_dot_product_attention(q, k, v)
        if self.kind == "complex rotary":
            turn = torch.polar(torch.ones(6, 2), torch.arange(12.0).view(6, 2))
            pairs = (torch.view_as_complex(z.reshape(*z.shape[:3], 2, 2)) * turn for z in (q, k))
            q, k = (torch.view_as_real(z).flatten(3) for z in pairs)
            return F.scaled_dot_product_attention(q, k, v)
        if self.kind == "causal":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
        if self.kind == "masked":
            mask = (self.places.view(6, 6) > 2) | torch.eye(6, dtype=torch.bool)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.0)
        if self.kind == "by hand":
            table = self.bias[self.places].view(6, 6, self.heads).permute(2, 0, 1)
            return (q @ k.transpose(-2, -1) * self.scale + table).softmax(-1) @ v
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        mixed = self.attend(*self.projected(self.norm(x))).transpose(1, 2).flatten(2)
        y: Tensor = self.out(x + self.project(mixed))
        return y


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised each time, as NFNet and BiT have it."""

    def __init__(self) -> None:
        super().__init__(8, 6, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, self.gain, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, padding=1)


class Across(nn.Module):
    """A layer over the transposed features."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x.transpose(1, 2))
        return y


class Prepended(nn.Module):
    """A class token in front, and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 7, 12))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places


class Voted(nn.Module):
    """Products with vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.vector + torch.dot(self.vector, self.vector)


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` on one input."""

    def __init__(self, inner: nn.MultiheadAttention) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x, x, x, need_weights=False)[0]
        return y


class Experts(nn.Module):
    """A mixture of experts with static shapes: every token weighs the outputs of its two best experts."""

    SHAPE = (6, 5)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(5, 8), nn.Linear(8, 2)
        self.router = nn.Linear(8, 4, bias=False)
        self.gate_up, self.down = nn.Parameter(torch.randn(4, 8, 14)), nn.Parameter(torch.randn(4, 7, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        flat = h.flatten(0, 1)
        weights, chosen = self.router(flat).softmax(-1).topk(2, dim=-1)
        scores = torch.zeros(flat.shape[0], 4).scatter(1, chosen, weights)
        gate, up = torch.bmm(flat.expand(4, -1, -1), self.gate_up).chunk(2, dim=-1)
        mixed = torch.bmm(F.silu(gate) * up, self.down) * scores.t()[:, :, None]
        y: Tensor = self.out(h + mixed.sum(0).view_as(h))
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
    "batch_norm without running statistics": lambda: Tokens(
        lambda x: F.batch_norm(x.transpose(1, 2), None, None, training=True).transpose(1, 2)
    ),
    "weight_norm": lambda: Images(F.relu, 6, weight_norm(nn.Conv2d(8, 6, 3, padding=1))),
    "spectral_norm": lambda: Images(F.relu, 6, spectral_norm(nn.Conv2d(8, 6, 3, padding=1))),
    "standardised weights": lambda: Images(F.relu, 6, Standardised()),
    "conv_transpose2d, grouped": lambda: Images(F.relu, 12, nn.ConvTranspose2d(8, 12, 2, 2, groups=4)),
    "conv_transpose2d, depthwise": lambda: Images(F.relu, 16, nn.ConvTranspose2d(8, 16, 2, 2, groups=8)),
    "conv_transpose1d": lambda: Tokens(lambda x: x.transpose(1, 2), 8, Across(nn.ConvTranspose1d(12, 8, 1))),
    "conv1d": lambda: Tokens(lambda x: x.transpose(1, 2), 8, Across(nn.Conv1d(12, 8, 3, padding=1, groups=2))),
    "conv3d": lambda: Images(lambda x: x.squeeze(2), 6, nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Conv3d(8, 6, 1))),
    "glu": lambda: Images(lambda x: F.glu(x, 1), 4),
    "instance_norm without weights": lambda: Images(F.relu, inner=nn.InstanceNorm2d(8)),
    "unfold and fold": lambda: Images(lambda x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2)),
    "unfold": lambda: Images(lambda x: F.unfold(x, 2, stride=2).unflatten(2, (4, 4)), 32),
    "unfold of a tensor": lambda: Images(lambda x: x.unfold(3, 2, 2).flatten(3)),
    "reflection_pad": lambda: Images(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "pixels sampled from a grid": lambda: Images(
        lambda x: F.grid_sample(x, torch.zeros(1, 4, 4, 2).expand(x.shape[0], 4, 4, 2), align_corners=False)
    ),
    "max_pool with places": lambda: Images(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "adaptive pools": lambda: Images(lambda x: F.adaptive_avg_pool2d(x, 2) + F.adaptive_max_pool2d(x, 2)),
    "max over channels": lambda: Images(lambda x: x * torch.sigmoid(x.amax(1, keepdim=True))),
    "logsumexp over channels": lambda: Images(lambda x: x - x.logsumexp(1, keepdim=True)),
    "largest channel": lambda: Images(lambda x: x * x.max(1, keepdim=True).values + x.argmax(1, keepdim=True)),
    "aminmax": lambda: Tokens(lambda x: x - torch.aminmax(x, dim=1, keepdim=True).min),
    "var_mean": lambda: Tokens(lambda x: (x - torch.var_mean(x, -1, keepdim=True)[1]) / (1 + x.std(-1, keepdim=True))),
    "softmax over channels": lambda: Tokens(lambda x: x.softmax(-1) + x.log_softmax(1)),
    "cumulative": lambda: Tokens(lambda x: x.cumsum(1) + x.cumprod(2)),
    "diff": lambda: Tokens(lambda x: x.diff(dim=1)),
    "sort": lambda: Tokens(lambda x: x.sort(1).values + x.sort(2, descending=True).values),
    "prod": lambda: Tokens(lambda x: x + x.prod(1, keepdim=True)),
    "indices apart": lambda: Tokens(lambda x: x.view(-1, 6, 3, 4)[:, torch.tensor([0, 1]), :, torch.tensor([1, 2])], 3),
    "indexed by a mask": lambda: Tokens(lambda x: x.index_put((torch.tensor([0, 2]),), x.new_ones(1, 6, 12))),
    "index_add": lambda: Tokens(lambda x: x.index_add(1, torch.tensor([0, 2]), x[:, :2])),
    "scatter": lambda: Tokens(lambda x: x.scatter(1, torch.zeros(1, 2, 12).long().expand(x.shape[0], 2, 12), x[:, :2])),
    "take_along_dim": lambda: Tokens(lambda x: x.take_along_dim(x.argsort(1), 1)),
    "class token": lambda: Tokens(F.relu, inner=Prepended()),
    "zeros in front": lambda: Tokens(lambda x: torch.cat([torch.zeros(x.shape[0], 1, 12), x], 1)),
    "bitwise": lambda: Tokens(lambda x: x.masked_fill(((x > 0) & (x < 1)) | ~(x > -1), 0.0)),
    "type_as": lambda: Tokens(lambda x: torch.arange(6).type_as(x)[:, None] + x),
    "einsum with an ellipsis": lambda: Tokens(lambda x: torch.einsum("...td,...sd->...ts", x, x), 6),
    "einsum without an arrow": lambda: Tokens(lambda x: torch.einsum("btd,bsd", x, x).transpose(0, 1).mean(0), 6),
    "matrix and vector": lambda: Tokens(F.relu, 6, inner=Voted()),
    "cdist": lambda: Tokens(lambda x: torch.cdist(x, x), 6),
    "outer": lambda: Tokens(lambda x: x + torch.outer(torch.arange(6.0), torch.ones(12))),
    "broadcast_tensors": lambda: Tokens(lambda x: sum(torch.broadcast_tensors(x, x.mean(1, keepdim=True)))),
    "meshgrid": lambda: Tokens(lambda x: x + torch.meshgrid(torch.arange(6.0), torch.ones(12), indexing="ij")[0]),
    "one_hot": lambda: Tokens(lambda x: x + F.one_hot(x.argmax(1), 6).transpose(1, 2)),
    "rotary": lambda: Attention("rotary", width=4),
    "rotary, complex": lambda: Attention("complex rotary", width=4),
    "attention, causal with scale": lambda: Attention("causal"),
    "attention, masked": lambda: Attention("masked"),
    "attention, one key-value head": lambda: Attention("grouped query", kv_heads=1),
    "nn.MultiheadAttention": lambda: Tokens(
        F.relu, inner=SelfAttention(nn.MultiheadAttention(12, 3, batch_first=True))
    ),
    "nn.TransformerEncoderLayer": lambda: Tokens(F.relu, inner=nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)),
    "lstm": lambda: Tokens(lambda x: x[0], 14, nn.LSTM(12, 7, 2, batch_first=True, bidirectional=True)),
    "gru": lambda: Tokens(lambda x: x[0], 7, nn.GRU(12, 7, batch_first=True)),
    "rnn": lambda: Tokens(lambda x: x[0], 7, nn.RNN(12, 7, 2, batch_first=True, bias=False)),
    "experts": lambda: Experts(),
    **{
        f"interpolate, {mode}": (lambda mode=mode: Images(lambda x: F.interpolate(x, size=5, mode=mode)))  # type: ignore[misc]
        for mode in ("nearest", "nearest-exact", "bicubic", "area")
    },
    "interpolate, antialias": lambda: Images(lambda x: F.interpolate(x, size=5, mode="bilinear", antialias=True)),
    "interpolate, linear": lambda: Tokens(lambda x: F.interpolate(x, size=5, mode="linear").mean(2, True), 1),
    "interpolate, trilinear": lambda: Images(
        lambda x: F.interpolate(x[:, :, None], size=(2, 5, 5), mode="trilinear").mean(2)
    ),
    "reshape_as": lambda: Tokens(lambda x: (x.view(-1, 6, 3, 4) * 2).reshape_as(x)),
    "windows": lambda: Images(lambda x: x.view(-1, 8, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 8, 4, 4)),
    "written in part": lambda: Tokens(lambda x: _with_zero_token(x)),
    "parts written": lambda: Tokens(lambda x: _with_zero_keys(x)),
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


def _with_zero_keys(x: Tensor) -> Tensor:
    y = x.clone()
    y[..., 4:8] = 0.0
    return y


def example(model: nn.Module, rows: int) -> Tensor:
    shape = getattr(model, "SHAPE", SHAPE)
    generator = torch.Generator().manual_seed(rows)
    if isinstance(model, Tied):
        return torch.randint(0, 11, (rows, *shape), generator=generator)
    return torch.randn(rows, *shape, generator=generator)


VISITED: set[Rule | None] = set()


@functools.cache
def built(name: str) -> tuple[nn.Module, DependencyGraph]:
    """A case's model and what was traced of it; the rules on the way go to `VISITED`."""

    def recorded(call: Call) -> list[Dims]:
        VISITED.add(RULES.get(call.target))
        return apply(call)

    torch.manual_seed(0)
    model = CASES[name]().eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "apply", recorded)
        return model, trace(model, example(model, 2))


@pytest.mark.parametrize("name", CASES)
def test_sliced_equals_the_oracle(name: str) -> None:
    model, graph = built(name)
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


def test_every_rule_has_a_case() -> None:
    for name in CASES:
        built(name)
    assert {rule.__name__ for rule in RULES.values()} - {rule.__name__ for rule in VISITED if rule} == set()


def test_the_walk_through_of_the_documents_is_the_rule() -> None:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert textwrap.indent(inspect.getsource(RULES["aten.cdist.default"]), "   ") in text
    case = next(line for line in Path(__file__).read_text(encoding="utf-8").splitlines() if '"cdist": ' in line)
    assert case.strip() in text
    oracle = Path(__file__).with_name("oracle.py").read_text(encoding="utf-8")
    assert next(line for line in oracle.splitlines() if '"cdist": ' in line).strip() in text


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

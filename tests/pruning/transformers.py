"""Small models of the structures that transformers and their relatives bring, one for each kind of consumer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attending(nn.Module):
    """Separate or fused query, key and value layers; key-value heads may be fewer; explicit product where asked."""

    def __init__(self, width: int = 12, heads: int = 4, pairs: int = 4, fused: bool = False, explicit: bool = False):
        super().__init__()
        self.heads, self.pairs, self.explicit, self.dim = heads, pairs, explicit, 6
        self.embed = nn.Linear(5, width)
        if fused:
            self.qkv = nn.Linear(width, 3 * heads * self.dim)
        else:
            self.q = nn.Linear(width, heads * self.dim)
            self.k, self.v = (nn.Linear(width, pairs * self.dim) for _ in range(2))
        self.out = nn.Linear(heads * self.dim, width)
        self.head = nn.Linear(width, 3)
        self.fused = fused

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values.  # each (n, heads, tokens, head_dim)"""
        n, tokens, _ = x.shape
        if self.fused:
            q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
            return q, k, v
        q = self.q(x).reshape(n, tokens, self.heads, self.dim).transpose(1, 2)
        k, v = (m(x).reshape(n, tokens, self.pairs, self.dim).transpose(1, 2) for m in (self.k, self.v))
        if self.pairs != self.heads:  # as transformers' repeat_kv
            k, v = (
                t[:, :, None].expand(n, self.pairs, self.heads // self.pairs, tokens, self.dim)
                .reshape(n, self.heads, tokens, self.dim)
                for t in (k, v)
            )  # fmt: skip
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, tokens, _ = x.shape
        q, k, v = self.parts(x)
        if self.explicit:
            mixed = torch.softmax(q @ k.transpose(-1, -2) * self.dim**-0.5, dim=-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, tokens, -1))
        out: Tensor = self.head(x)
        return out


class Conv1D(nn.Module):
    """GPT-2's linear layer: `addmm` with the weight as (in, out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.randn(outputs))
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return y.view(*x.shape[:-1], self.outputs)


class Inverted(nn.Module):
    """An MLP of `Conv1D`s."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.proj = Conv1D(5, 10), Conv1D(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(F.gelu(self.fc(x)))
        return out


class Gated(nn.Module):
    """A gated MLP without biases, as in Llama."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(5, 10, bias=False) for _ in range(2))
        self.down = nn.Linear(10, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class Shared(nn.Module):
    """One layer used twice, on different activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 10)
        self.shared = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.first(x)), torch.relu(self.first(x.roll(1, 1)) - 0.5)
        out: Tensor = torch.cat([self.shared(a), self.shared(b)], dim=-1)
        return out


class Experts(nn.Module):
    """Three experts as batched products, a bias added behind."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 5, 10))
        self.down = nn.Parameter(torch.randn(3, 10, 4))
        self.bias = nn.Parameter(torch.randn(3, 1, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.transpose(0, 1)[:3]  # (experts, n, width)
        out: Tensor = self.head(torch.bmm(torch.relu(torch.bmm(tokens, self.up)), self.down) + self.bias)
        return out


class Equation(nn.Module):
    """An einsum over heads and head dims at once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 12)
        self.weight = nn.Parameter(torch.randn(3, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x)).reshape(x.shape[0], x.shape[1], 3, 4)
        return torch.einsum("nthd,hdo->nto", y, self.weight)


class Upsampling(nn.Module):
    """A transposed convolution behind a convolution."""

    def __init__(self, kernel: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3, padding=1)
        self.up = nn.ConvTranspose2d(10, 4, kernel, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(torch.relu(self.conv(x)))
        return out


class Line(nn.Module):
    """Convolutions over one and over three axes."""

    def __init__(self, rank: int = 1) -> None:
        super().__init__()
        kind: type[nn.Conv1d] | type[nn.Conv3d] = nn.Conv1d if rank == 1 else nn.Conv3d
        self.first, self.second = kind(3, 10, 3, padding=1), kind(10, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x)))
        return out


class Tied(nn.Module):
    """A language model whose embedding is its output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 10)
        self.norm = nn.LayerNorm(10)
        self.fc1, self.fc2 = nn.Linear(10, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        y = y + self.fc2(torch.relu(self.fc1(self.norm(y))))
        return F.linear(y, self.embed.weight)


class RMSNorm(nn.Module):
    """As transformers write it out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(torch.float32)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * y.to(x.dtype)


class Normed(nn.Module):
    """A norm over the pruned width, then a linear layer (or a convolution, behind a group norm)."""

    def __init__(self, kind: str, width: int = 24) -> None:
        super().__init__()
        self.images = kind == "group"
        self.first: nn.Module = nn.Conv2d(3, width, 3, padding=1) if self.images else nn.Linear(5, width)
        norms = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "written": RMSNorm}
        self.norm: nn.Module = nn.GroupNorm(3, width) if self.images else norms[kind](width)
        self.last: nn.Module = nn.Conv2d(width, 4, 1) if self.images else nn.Linear(width, 4)
        with torch.no_grad():
            self.first.weight.mul_(torch.logspace(-1, 1, width).reshape(-1, *[1] * (self.first.weight.dim() - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.first(x)))
        return out

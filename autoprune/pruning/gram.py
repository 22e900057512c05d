"""Second moments of what consumers read, collected in one pass over calibration batches.

A small convolution's moments are over its patches, `(C k k) x (C k k)`, from a sample of its output positions. A large
one's are shared over its kernel positions (taps), `C x C`; each input pixel then counts as often as the kernel sees it,
so strides, dilation and zero padding are weighted exactly. Memory is bounded by the moments themselves, not by the
number of batches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.core.errors import InputError
from autoprune.pruning.consumers import Consumer

PATCHES_PER_COLUMN = 32
LEAST_PATCHES = 16_384
"""How many patches a small convolution's moments are taken from: this many a column, and at least so many."""

_CHUNK = 1 << 22  # elements converted to float64 at a time


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of one consumer's input, averaged over samples and output positions.

    Attributes:
        second: E[x x^T], averaged over shared positions too.  # (blocks, columns, columns) float64
        mean: E[x] at each shared position.  # (blocks, positions, columns) float64
        samples: how many output positions of how many samples.
    """

    second: Tensor
    mean: Tensor
    samples: int

    def gram(self, centred: bool) -> Tensor:
        """`second`, or the covariance where something behind the consumer takes up the means.  # as `second`"""
        return self.second - self.mean.mT @ self.mean / self.mean.shape[1] if centred else self.second


def collect_moments(module: nn.Module, consumers: Iterable[Consumer], calibration: Sequence[Any]) -> dict[str, Moments]:
    """Run `module` over the calibration batches and accumulate the moments of every consumer's input.

    Args:
        module: the dense model, in eval mode; consumers are found in it by name.
        consumers: which inputs to look at.
        calibration: model inputs, see `run`.

    Returns:
        Moments by the consumer's weight parameter; consumers that were never called are absent.

    Raises:
        InputError: activations that are not finite.
    """
    sums = [_Sums(consumer, len(calibration)) for consumer in consumers]
    handles = [module.get_submodule(s.consumer.module).register_forward_pre_hook(s.hook) for s in sums]
    try:
        with torch.no_grad():
            for item in calibration:
                run(module, item)
    finally:
        for handle in handles:
            handle.remove()
    return {s.consumer.parameter: s.moments() for s in sums if s.count > 0}


def run(module: nn.Module, item: Any) -> Any:
    """Call a model on one calibration item: a tensor, a tuple of positional inputs or a mapping of keyword inputs."""
    if isinstance(item, Mapping):
        return module(**item)
    return module(*item) if isinstance(item, (tuple, list)) else module(item)


class _Sums:
    """Float64 sums over one consumer's input."""

    def __init__(self, consumer: Consumer, batches: int) -> None:
        self.consumer = consumer
        self.count = 0
        self._second: Tensor | None = None
        self._first: Tensor | None = None
        self._generator = torch.Generator().manual_seed(0)
        self._patches = max(LEAST_PATCHES, PATCHES_PER_COLUMN * consumer.columns) / batches  # wanted of each batch

    def hook(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Forward pre-hook: add one batch."""
        x: Tensor = args[0].detach()
        consumer = self.consumer
        if not isinstance(module, _ConvNd):
            x = x.reshape(-1, 1, consumer.columns, consumer.positions)
            taps, outputs = [[slice(p, p + 1) for p in range(consumer.positions)]], 1
        else:
            spatial = x.shape[-len(module.kernel_size) :]
            x = x.reshape(-1, consumer.blocks, module.in_channels // consumer.blocks, *spatial)
            taps, outputs = conv_taps(module, spatial)
        joint = math.prod(len(cuts) for cuts in taps) > consumer.positions
        share = min(1.0, self._patches / max(1, x.shape[0] * outputs))
        for part in torch.split(x, max(1, _CHUNK // max(1, x[:1].numel() * (consumer.columns // x.shape[2])))):
            if joint and isinstance(module, _ConvNd):
                self._add(patch_sums(part, module, share, self._generator))
            else:
                self._add(shared_sums(part, taps, outputs))

    def moments(self) -> Moments:
        """What was summed, as averages."""
        assert self._second is not None  # count > 0
        assert self._first is not None
        second = (self._second / self.count).cpu()
        if not bool(torch.isfinite(second).all()):
            raise InputError(
                "calibration: expected finite activations, got NaN or infinity at the input of "
                f"'{self.consumer.module}'. Check that the batches are preprocessed as in training."
            )
        return Moments((second + second.mT) / 2, (self._first / self.count).cpu(), self.count)

    def _add(self, sums: tuple[Tensor, Tensor, int]) -> None:
        second, first, count = sums
        self._second = second if self._second is None else self._second + second
        self._first = first if self._first is None else self._first + first
        self.count += count


def shared_sums(x: Tensor, taps: list[list[slice]], outputs: int) -> tuple[Tensor, Tensor, int]:
    """Sums over all pixels, each as often as taps see it.

    Args:
        x: (samples, blocks, columns, *spatial).
        taps: what each tap sees, axis by axis.
        outputs: output positions.

    Returns:
        Sum of x x^T averaged over taps (blocks, columns, columns), sum of x at each tap (blocks, taps, columns), both
        float64; samples x outputs.
    """
    x = x.double()
    seen = torch.ones((), dtype=x.dtype, device=x.device)
    for axis, slices in enumerate(taps):
        counts = torch.zeros(x.shape[3 + axis], dtype=x.dtype, device=x.device)
        for cut in slices:
            counts[cut] += 1
        seen = seen[..., None] * counts
    second = torch.einsum("nbcs,nbds->bcd", (x * seen).flatten(3), x.flatten(3))
    flat = x.sum(dim=0)  # (blocks, columns, *spatial)
    first = [flat[(slice(None), slice(None), *cuts)].flatten(2).sum(-1) for cuts in itertools.product(*taps)]
    return second / len(first), torch.stack(first, dim=1), x.shape[0] * outputs


def patch_sums(x: Tensor, module: _ConvNd, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """Sums over a random share of the patches that a convolution sees; columns are channels x taps.

    Args and returns as `shared_sums`, with one position.
    """
    pads: list[int] = []
    cuts = []
    for axis in range(len(module.kernel_size)):
        before, after = _padding(module, axis)
        kernel, stride, dilation = module.kernel_size[axis], module.stride[axis], module.dilation[axis]
        count = _outputs(module, axis, x.shape[3 + axis])
        starts = [tap * dilation for tap in range(kernel)]
        cuts.append([slice(start, start + (count - 1) * stride + 1, stride) for start in starts])
        pads = [before, after, *pads]  # torch counts axes from the last
    padded = nn.functional.pad(x, pads)
    patches = torch.stack(
        [padded[(slice(None), slice(None), slice(None), *cut)].flatten(3) for cut in itertools.product(*cuts)], dim=3
    )
    columns = patches.flatten(2, 3).permute(1, 0, 3, 2).flatten(1, 2)  # (blocks, patches, columns)
    total = columns.shape[1]
    if share < 1.0:
        chosen = torch.randperm(total, generator=generator)[: math.ceil(share * total)]
        columns = columns[:, chosen.to(columns.device)]
    columns = columns.double()
    return columns.mT @ columns, columns.sum(dim=1)[:, None], columns.shape[1]


def conv_taps(module: _ConvNd, spatial: Sequence[int]) -> tuple[list[list[slice]], int]:
    """Which input pixels each kernel position sees, axis by axis, and the number of output positions.

    Zero padding is seen by nobody.
    """
    taps: list[list[slice]] = []
    outputs = []
    for axis, length in enumerate(spatial):
        kernel, stride, dilation = module.kernel_size[axis], module.stride[axis], module.dilation[axis]
        before, _ = _padding(module, axis)
        count = _outputs(module, axis, length)
        cuts = []
        for tap in range(kernel):
            offset = tap * dilation - before
            first = max(0, math.ceil(-offset / stride))  # the first output that sees a pixel through this tap
            last = min(count - 1, (length - 1 - offset) // stride)
            start = offset + first * stride
            cuts.append(slice(start, offset + last * stride + 1, stride) if last >= first else slice(0, 0))
        taps.append(cuts)
        outputs.append(count)
    return taps, math.prod(outputs)


def _outputs(module: _ConvNd, axis: int, length: int) -> int:
    reach = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
    return (length + sum(_padding(module, axis)) - reach) // module.stride[axis] + 1


def _padding(module: _ConvNd, axis: int) -> tuple[int, int]:
    if module.padding == "valid":
        return 0, 0
    if isinstance(module.padding, str):  # "same"
        total = module.dilation[axis] * (module.kernel_size[axis] - 1)
        return total // 2, total - total // 2
    return module.padding[axis], module.padding[axis]

"""Second moments of what consumers read, collected in one pass over calibration batches.

A small convolution's moments are over its patches, `(C k k) x (C k k)`; a large one's are shared over its kernel
positions (taps), `C x C`, where each input pixel counts as often as the kernel sees it, so that strides, dilation and
zero padding are weighted exactly. Patches and tokens are sampled where there are many more than the fit needs. Memory
is bounded by the moments themselves, not by the number of batches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.errors import InputError
from autoprune.pruning.consumers import Source
from autoprune.pruning.contractions import Reading
from autoprune.pruning.window import Window

SAMPLES_PER_COLUMN = 32
LEAST_SAMPLES = 16_384
"""How many patches or tokens moments are taken from: this many a column, and at least so many."""

DOUBLE_UP_TO = 512
"""Products of wider inputs are formed in single precision, a chunk at a time, and summed in double."""

_CHUNK = 1 << 22  # elements converted to float64 at a time
_ROWS = 4096  # samples in one single-precision product


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of one consumer's input, averaged over samples and output positions.

    Attributes:
        second: E[x x^T], averaged over shared positions too; only its diagonal where the source asks for no more.
            # (blocks, columns, columns) or (blocks, columns) float64
        mean: E[x] at each shared position.  # (blocks, positions, columns) float64
        samples: how many output positions of how many samples.
    """

    second: Tensor
    mean: Tensor
    samples: int

    def gram(self, centred: bool) -> Tensor:
        """`second`, or the covariance where something behind the consumer takes up the means.  # as `second`"""
        return self.second - self.mean.mT @ self.mean / self.mean.shape[1] if centred else self.second


class Sums:
    """Float64 sums over what one source reads.

    Args:
        source: which activations, and how.
        batches: how many batches will be added; each gives an equal share of the samples.
    """

    def __init__(self, source: Source, batches: int) -> None:
        self.source = source
        self.count = 0
        self._second: Tensor | None = None
        self._first: Tensor | None = None
        self._generator = torch.Generator().manual_seed(0)
        wanted = max(LEAST_SAMPLES, SAMPLES_PER_COLUMN * source.columns)
        self._wanted = wanted / (batches * len(source.readings))

    def watchers(self) -> list[tuple[str, Callable[[Mapping[str, Any]], None]]]:
        """What adds each reading of a batch, with the operation before which its value is at hand."""

        def adder(reading: Reading) -> Callable[[Mapping[str, Any]], None]:
            return lambda values: self.add(reading, values[reading.value])

        return [(o, adder(r)) for r, o in zip(self.source.readings, self.source.operations, strict=True)]

    def add(self, reading: Reading, x: Tensor) -> None:
        """Add one activation of one batch."""
        x = x.detach()
        if reading.window is not None:
            self._add_convolution(reading, reading.window, x)
            return
        axes = [axis for axis in range(x.dim()) if axis not in (*reading.blocks, *reading.columns)]
        blocks, split = math.prod(x.shape[axis] for axis in reading.blocks), self.source.split
        x = x.permute(*axes, *reading.blocks, *reading.columns).reshape(-1, blocks, self.source.columns, split)
        if split > 1:
            taps = [[slice(p, p + 1) for p in range(split)]]
            for part in torch.split(x, max(1, _CHUNK // max(1, x[:1].numel()))):
                self._add(shared_sums(part, taps, 1))
            return
        chosen = self._sampled(x.shape[0], self._wanted / max(1, x.shape[0]))
        columns = x[..., 0] if chosen is None else x[chosen.to(x.device), :, :, 0]
        self._add(self._products(columns.transpose(0, 1)))

    def _add_convolution(self, reading: Reading, window: Window, x: Tensor) -> None:
        spatial = x.shape[-len(window.kernel) :]
        x = x.reshape(-1, reading.groups, x.shape[1] // reading.groups, *spatial)
        taps, outputs = window.seen(spatial)
        share = self._wanted / max(1, x.shape[0] * outputs)
        columns = self.source.columns if self.source.joint else x.shape[2]
        for part in torch.split(x, max(1, _CHUNK // max(1, x[:1].numel() * columns // x.shape[2]))):
            if not self.source.joint:
                self._add(shared_sums(part, taps, outputs))
                continue
            patches = _patches(part, window)
            chosen = self._sampled(patches.shape[1], share)
            self._add(self._products(patches if chosen is None else patches[:, chosen.to(patches.device)]))

    def _sampled(self, total: int, share: float) -> Tensor | None:
        if share >= 1.0:
            return None
        return torch.randperm(total, generator=self._generator)[: math.ceil(share * total)]

    def _products(self, columns: Tensor) -> tuple[Tensor, Tensor, int]:
        """Sums of x x^T and x over samples.  # columns: (blocks, samples, columns)"""
        first = columns.sum(dim=1, dtype=torch.float64)[:, None]
        count = columns.shape[1]
        if self.source.diagonal:
            return columns.double().square().sum(dim=1), first, count
        if columns.shape[2] <= DOUBLE_UP_TO:
            columns = columns.double()
            return columns.mT @ columns, first, count
        second = torch.zeros(*columns.shape[::2], columns.shape[2], dtype=torch.float64, device=columns.device)
        for part in torch.split(columns.float(), _ROWS, dim=1):
            second += part.mT @ part
        return second, first, count

    def moments(self) -> Moments:
        """What was summed, as averages.

        Raises:
            InputError: activations that are not finite.
        """
        assert self._second is not None  # count > 0
        assert self._first is not None
        second = (self._second / self.count).cpu()
        if not bool(torch.isfinite(second).all()):
            raise InputError(
                "calibration: expected finite activations, got NaN or infinity at the input of "
                f"'{self.source.name}'. Check that the batches are preprocessed as in training."
            )
        symmetric = second if self.source.diagonal else (second + second.mT).div_(2)
        return Moments(symmetric, (self._first / self.count).cpu(), self.count)

    def _add(self, sums: tuple[Tensor, Tensor, int]) -> None:
        second, first, count = sums
        second = second.diagonal(dim1=-2, dim2=-1) if self.source.diagonal and second.dim() == 3 else second
        self._second = second if self._second is None else self._second + second
        self._first = first if self._first is None else self._first + first
        self.count += count


def run(module: nn.Module, item: Any) -> Any:
    """Call a model on one calibration item: a tensor, a tuple of positional inputs or a mapping of keyword inputs."""
    if isinstance(item, Mapping):
        return module(**item)
    return module(*item) if isinstance(item, (tuple, list)) else module(item)


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


def _patches(x: Tensor, window: Window) -> Tensor:
    """The patches that a convolution sees; columns are channels x taps.  # (blocks, patches, columns)"""
    pads: list[int] = []
    for before, after in zip(window.before, window.after, strict=True):
        pads = [before, after, *pads]  # torch counts axes from the last
    padded = nn.functional.pad(x, pads)
    cuts = window.patches(x.shape[3:])
    patches = torch.stack(
        [padded[(slice(None), slice(None), slice(None), *cut)].flatten(3) for cut in itertools.product(*cuts)], dim=3
    )
    return patches.flatten(2, 3).permute(1, 0, 3, 2).flatten(1, 2)

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
from autoprune.pruning.relevance import Relevance
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
        samples: how many output positions of how many samples; where these have weights, how many of one weight would
            say as much, `(sum w)^2 / sum w^2` (Kish 1965, Survey Sampling).
    """

    second: Tensor
    mean: Tensor
    samples: float

    def gram(self, centred: bool) -> Tensor:
        """`second`, or the covariance where something behind the consumer takes up the means.  # as `second`"""
        return self.second - self.mean.mT @ self.mean / self.mean.shape[1] if centred else self.second


class Sums:
    """Float64 sums over what one source reads.

    Args:
        source: which activations, and how.
        batches: how many batches will be added; each gives an equal share of the samples.
        weights: of output positions, batch by batch, for readings by their operation; others count alike.
    """

    def __init__(self, source: Source, batches: int, weights: Relevance | None = None) -> None:
        self.source = source
        self._weights = weights or {}
        self._weight = self._squares = 0.0  # sums of weights, of their squares
        self._second: Tensor | None = None
        self._first: Tensor | None = None
        self._generator = torch.Generator().manual_seed(0)
        wanted = max(LEAST_SAMPLES, SAMPLES_PER_COLUMN * source.columns)
        self._wanted = wanted / (batches * len(source.readings))

    def watchers(self) -> list[tuple[str, Callable[[Mapping[str, Any]], None]]]:
        """What adds each reading of a batch, with the operation before which its value is at hand."""

        def adder(reading: Reading, operation: str) -> Callable[[Mapping[str, Any]], None]:
            weights = iter(self._weights.get(operation, ()))
            return lambda values: self.add(reading, values[reading.value], next(weights, None))

        return [(o, adder(r, o)) for r, o in zip(self.source.readings, self.source.operations, strict=True)]

    def add(self, reading: Reading, x: Tensor, weights: Tensor | None = None) -> None:
        """Add one activation of one batch.

        Args:
            reading: how it is read.
            x: the activation.
            weights: of its output positions, samples first; passed over where they are not as many.  # (positions,)
        """
        x = x.detach()
        if reading.window is not None:
            self._add_convolution(reading, reading.window, x, weights)
            return
        axes = [axis for axis in range(x.dim()) if axis not in (*reading.blocks, *reading.columns)]
        blocks, split = math.prod(x.shape[axis] for axis in reading.blocks), self.source.split
        x = x.permute(*axes, *reading.blocks, *reading.columns).reshape(-1, blocks, self.source.columns, split)
        weights = weights.to(x.device) if weights is not None and weights.numel() == x.shape[0] else None
        if split > 1:
            taps = [[slice(p, p + 1) for p in range(split)]]
            self._add_shared(x, taps, 1, None if weights is None else weights[:, None])
        else:
            self._add_places(x[..., 0].transpose(0, 1), self._wanted / max(1, x.shape[0]), weights)

    def _add_convolution(self, reading: Reading, window: Window, x: Tensor, weights: Tensor | None) -> None:
        spatial = x.shape[-len(window.kernel) :]
        x = x.reshape(-1, reading.groups, x.shape[1] // reading.groups, *spatial)
        taps, outputs = window.seen(spatial)
        known = weights is not None and weights.numel() == x.shape[0] * outputs
        weights = weights.to(x.device).reshape(x.shape[0], outputs) if weights is not None and known else None
        if not self.source.joint:
            self._add_shared(x, taps, outputs, weights)
            return
        share = self._wanted / max(1, x.shape[0] * outputs)
        size = max(1, _CHUNK // max(1, x[:1].numel() * self.source.columns // x.shape[2]))
        for start in range(0, x.shape[0], size):
            own = None if weights is None else weights[start : start + size].flatten()
            self._add_places(_patches(x[start : start + size], window), share, own)

    def _add_shared(self, x: Tensor, taps: list[list[slice]], outputs: int, weights: Tensor | None) -> None:
        """Add all pixels; a sample's weight is that of its output positions together.  # weights: (samples, outputs)"""
        each = torch.ones(x.shape[0], device=x.device) if weights is None else weights.float().mean(dim=1)
        size = max(1, _CHUNK // max(1, x[:1].numel()))
        for part, own in zip(torch.split(x, size), torch.split(each.double(), size), strict=True):
            second, first = shared_sums(part, taps, own)
            self._add(second, first, own.repeat_interleave(outputs))

    def _add_places(self, columns: Tensor, share: float, weights: Tensor | None) -> None:
        """Add a random share of places, of those that have a weight where weights are known.

        Args:
            columns: (blocks, places, columns)
            share: of the places.
            weights: (places,)
        """
        if weights is not None:
            heavy = torch.nonzero(weights > 0).flatten()
            share *= weights.numel() / max(1, heavy.numel())
            columns, weights = columns[:, heavy], weights[heavy]
        count = columns.shape[1]
        if share < 1.0:
            chosen = torch.randperm(count, generator=self._generator)[: math.ceil(share * count)].to(columns.device)
            columns, weights = columns[:, chosen], None if weights is None else weights[chosen]
        each = torch.ones(columns.shape[1], device=columns.device) if weights is None else weights
        self._add(*self._products(columns, each.double()), each.double())

    def _products(self, columns: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of w x x^T and w x.  # columns: (blocks, samples, columns), weights: (samples,) float64"""
        first = torch.einsum("bsc,s->bc", columns.double(), weights)[:, None]
        roots = weights.sqrt()[:, None]
        if self.source.diagonal:
            return (columns.double() * roots).square().sum(dim=1), first
        if columns.shape[2] <= DOUBLE_UP_TO:
            columns = columns.double() * roots
            return columns.mT @ columns, first
        second = torch.zeros(*columns.shape[::2], columns.shape[2], dtype=torch.float64, device=columns.device)
        for part, own in zip(torch.split(columns.float(), _ROWS, dim=1), torch.split(roots, _ROWS), strict=True):
            part = part * own.float()
            second += part.mT @ part
        return second, first

    def moments(self) -> Moments:
        """What was summed, as averages.

        Raises:
            InputError: activations that are not finite.
        """
        assert self._second is not None  # count > 0
        assert self._first is not None
        second = (self._second / self._weight).cpu()
        if not bool(torch.isfinite(second).all()):
            raise InputError(
                "calibration: expected finite activations, got NaN or infinity at the input of "
                f"'{self.source.name}'. Check that the batches are preprocessed as in training."
            )
        symmetric = second if self.source.diagonal else (second + second.mT).div_(2)
        return Moments(symmetric, (self._first / self._weight).cpu(), self._weight**2 / self._squares)

    def _add(self, second: Tensor, first: Tensor, weights: Tensor) -> None:
        second = second.diagonal(dim1=-2, dim2=-1) if self.source.diagonal and second.dim() == 3 else second
        self._second = second if self._second is None else self._second + second
        self._first = first if self._first is None else self._first + first
        self._weight += float(weights.sum())
        self._squares += float(weights.square().sum())

    @property
    def empty(self) -> bool:
        """Whether nothing was added, or nothing that matters."""
        return self._weight == 0.0


def run(module: nn.Module, item: Any) -> Any:
    """Call a model on one calibration item: a tensor, a tuple of positional inputs or a mapping of keyword inputs."""
    if isinstance(item, Mapping):
        return module(**item)
    return module(*item) if isinstance(item, (tuple, list)) else module(item)


def shared_sums(x: Tensor, taps: list[list[slice]], weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over all pixels, each as often as taps see it.

    Args:
        x: (samples, blocks, columns, *spatial).
        taps: what each tap sees, axis by axis.
        weights: of samples.  # (samples,) float64

    Returns:
        Sum of w x x^T averaged over taps (blocks, columns, columns), sum of w x at each tap (blocks, taps, columns),
        both float64.
    """
    x = x.double()
    seen = torch.ones((), dtype=x.dtype, device=x.device)
    for axis, slices in enumerate(taps):
        counts = torch.zeros(x.shape[3 + axis], dtype=x.dtype, device=x.device)
        for cut in slices:
            counts[cut] += 1
        seen = seen[..., None] * counts
    weighted = x * weights.reshape(-1, *[1] * (x.dim() - 1))
    second = torch.einsum("nbcs,nbds->bcd", (weighted * seen).flatten(3), x.flatten(3))
    flat = weighted.sum(dim=0)  # (blocks, columns, *spatial)
    first = [flat[(slice(None), slice(None), *cuts)].flatten(2).sum(-1) for cuts in itertools.product(*taps)]
    return second / len(first), torch.stack(first, dim=1)


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

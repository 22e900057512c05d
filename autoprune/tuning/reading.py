"""How a loader reads: the same each time or not, whole or in part, and its samples in another order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils import _pytree as pytree

from autoprune.tuning.batches import Inputs, batch_digest, batch_size
from autoprune.tuning.randomness import seeded

PEEKED = 2  # batches that tell what a loader gives


def digests(loader: Iterable[Any], seed: int, contents: bool = True) -> list[str]:
    """Hashes of a loader's first batches under a seed; without `contents`, of their types and shapes."""
    with seeded(seed, loader):
        return [batch_digest(batch, contents) for batch in islice(loader, PEEKED)]


def is_random(loader: Iterable[Any]) -> bool:
    """Whether a loader's first batches depend on the seed: it shuffles or augments."""
    return digests(loader, 0) != digests(loader, 1)


def repeats(loader: Iterable[Any]) -> bool:
    """Whether a loader's first batches are the same twice under one seed."""
    return digests(loader, 0) == digests(loader, 0)


def first_batches(loader: Iterable[Any], limit_bytes: int) -> tuple[list[Any], bool]:
    """The first batches, as many as fit but at least one, and whether these are all."""
    found: list[Any] = []
    size = 0
    with seeded(0, loader):  # as `Task.evaluate` seeds it: the same batches
        for batch in loader:
            size += sum(t.numel() * t.element_size() for t in pytree.tree_leaves(batch) if isinstance(t, torch.Tensor))
            if found and size > limit_bytes:
                return found, False
            found.append(batch)
    return found, True


@dataclass(frozen=True, eq=False)
class Samples:
    """Batches taken apart into samples, which can be put together anew in another order.

    Attributes:
        leaves: the tensors of all batches, one after another.  # each (samples, ...)
        spec: how they nest in a batch.
        sizes: samples of each batch; none that is put together is larger than the largest.
    """

    leaves: tuple[torch.Tensor, ...]
    spec: pytree.TreeSpec
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, batches: Sequence[Any], inputs: Callable[[Any], Inputs]) -> Samples | None:
        """The samples of batches, or None where a batch is more than tensors with a row a sample.

        Args:
            batches: at least one.
            inputs: from a batch to the model's inputs, which tell how many samples it has.
        """
        flat = [pytree.tree_flatten(batch) for batch in batches]
        sizes = [batch_size(inputs(batch)) for batch in batches]
        spec = flat[0][1]
        for (leaves, own), count in zip(flat, sizes, strict=True):
            rows = all(isinstance(leaf, torch.Tensor) and leaf.ndim and len(leaf) == count for leaf in leaves)
            if own != spec or not leaves or not rows:
                return None
        columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
        if any(len({(tensor.shape[1:], tensor.dtype, tensor.device) for tensor in column}) > 1 for column in columns):
            return None
        return cls(tuple(torch.cat(column) for column in columns), spec, tuple(sizes))

    def __len__(self) -> int:
        return len(self.leaves[0])

    def as_given(self) -> list[Any]:
        """The batches that they are of, as views."""
        columns = [leaf.split(list(self.sizes)) for leaf in self.leaves]
        return [pytree.tree_unflatten(list(leaves), self.spec) for leaves in zip(*columns, strict=True)]

    def at(self, places: torch.Tensor) -> Selection:
        """Batches of the samples at `places`.  # (n,) int64"""
        return Selection(self, places)


@dataclass(frozen=True, eq=False)
class Selection:
    """Batches of some samples, put together when they are read.

    Attributes:
        samples: all there are.
        places: which.  # (n,) int64
    """

    samples: Samples
    places: torch.Tensor

    def __len__(self) -> int:
        return -(-len(self.places) // max(self.samples.sizes))

    def __iter__(self) -> Iterator[Any]:
        for part in self.places.split(max(self.samples.sizes)):
            yield pytree.tree_unflatten([leaf[part.to(leaf.device)] for leaf in self.samples.leaves], self.samples.spec)

"""Where units are read: the activations that a group's consumers contract, the places to measure a unit at."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.graph import DependencyGraph
from autoprune.graph.dimension import Batch, Dimension, Product, dense_size, groups_of, has_batch
from autoprune.pruning.attention import find_products
from autoprune.pruning.consumers import find_consumers


@dataclass(frozen=True)
class Tap:
    """One axis of an activation, as one operation reads it.

    Attributes:
        operation: before which the value is at hand, and which reads it.
        value: name of the activation.
        axis: that is summed over there.
        dimensions: of the activation, over groups.
        groups: ids of the groups in the axis that are summed over; blocks of a grouped convolution are not.
    """

    operation: str
    value: str
    axis: int
    dimensions: tuple[Dimension, ...]
    groups: tuple[str, ...]

    @property
    def dimension(self) -> Dimension:
        """The axis, over groups."""
        return self.dimensions[self.axis]

    @property
    def by_sample(self) -> bool:
        """Whether samples can be told apart in the activation: one axis of it runs over the batch."""
        return self._batch is not None

    @property
    def _batch(self) -> tuple[int, int, int] | None:
        """The axis with the batch, and the sizes of what is before and behind the batch in it."""
        for axis, dimension in enumerate(self.dimensions):
            around = _around_batch(dimension)
            if around is not None:
                return (axis, *around)
        return None

    def per_sample(self, x: Tensor) -> Tensor:
        """A tensor like the activation, summed over all but samples and the axis; one sample where none is known.

        The batch may be a factor of an axis, before or behind others: windows of images, tokens of texts.
        # (samples, size of the axis) float64
        """
        if self._batch is None:
            x, columns = x[None], [self.axis + 1]
        else:
            at, before, behind = self._batch
            x = x.unflatten(at, (before, -1, behind)).movedim(at + 1, 0)  # (samples, ..., before, behind, ...)
            columns = [at + 1, at + 2] if at == self.axis else [self.axis + (1 if self.axis < at else 2)]
        rest = [axis for axis in range(1, x.dim()) if axis not in columns]
        size = math.prod(x.shape[axis] for axis in columns)
        return x.permute(0, *rest, *columns).reshape(x.shape[0], -1, size).sum(dim=1, dtype=torch.float64)


def _around_batch(dimension: Dimension) -> tuple[int, int] | None:
    """Sizes before and behind the batch in a row-major product; None where it is not in it, or not as a factor."""
    match dimension:
        case Batch():
            return (1, 1)
        case Product(factors):
            place = next((i for i, factor in enumerate(factors) if has_batch(factor)), None)
            inner = None if place is None else _around_batch(factors[place])
            if place is None or inner is None:
                return None
            before, behind = (math.prod(map(dense_size, part)) for part in (factors[:place], factors[place + 1 :]))
            return before * inner[0], inner[1] * behind
        case _:
            return None


def find_taps(graph: DependencyGraph) -> tuple[Tap, ...]:
    """Every contraction over a group: with a parameter (see `find_consumers`), and of queries with keys."""
    values = graph.program.values
    found: dict[Tap, None] = {}

    def add(operation: str, value: str, axis: int, contracted: Collection[str]) -> None:
        dimensions = values[value].dimensions
        groups = tuple(group for group in groups_of(dimensions[axis]) if group in contracted)
        if groups:
            found[Tap(operation, value, axis % len(dimensions), dimensions, groups)] = None

    for consumer in find_consumers(graph):
        for reading, operation in zip(consumer.source.readings, consumer.source.operations, strict=True):
            for axis in reading.columns:
                add(operation, reading.value, axis, consumer.groups)
    for product in find_products(graph):
        contracted = groups_of(product.dimension)
        add(product.operation, product.query, -1, contracted)
        add(product.operation, product.key, -2 if product.transposed else -1, contracted)
    return tuple(found)

"""Sparsity policies and unit orders: how many units each group keeps, and which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from autoprune.core.errors import InputError
from autoprune.core.files import canonical_json, digest
from autoprune.graph.dimension import Indices


class SparsityPolicy(Mapping[str, int]):
    """Group id -> number of units kept. Groups not named stay dense. Immutable; equal policies hash alike.

    Raises:
        InputError: a count that is not an integer >= 0.
    """

    __slots__ = ("_kept",)

    def __init__(self, kept: Mapping[str, int]) -> None:
        for group, count in kept.items():
            if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 0:
                raise InputError(f"policy: expected a whole number of units >= 0 for '{group}', got {count!r}.")
        self._kept = {group: int(kept[group]) for group in sorted(kept)}

    def __getitem__(self, group: str) -> int:
        return self._kept[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __hash__(self) -> int:
        return hash(tuple(self._kept.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SparsityPolicy) and self._kept == other._kept

    def __repr__(self) -> str:
        return f"SparsityPolicy({self._kept})"

    @property
    def json(self) -> str:
        """Canonical JSON: equal policies, equal text."""
        return canonical_json(self._kept)

    @property
    def id(self) -> str:
        """Its identity: 16 hex digits of the SHA-256 of `json`."""
        return digest(self.json)


@dataclass(frozen=True, eq=False)
class UnitOrder:
    """The units of one group in the order they are kept: any width is a prefix.

    Attributes:
        group: the group's id.
        order: unit indices, most worth keeping first.  # (size,) int64, read-only
    """

    group: str
    order: Indices

    def __post_init__(self) -> None:
        order = np.array(self.order, dtype=np.int64)
        if not np.array_equal(np.sort(order), np.arange(order.size)):
            raise ValueError(f"order of '{self.group}': expected a permutation of 0..{order.size - 1}")
        order.setflags(write=False)
        object.__setattr__(self, "order", order)

    def kept(self, width: int) -> Indices:
        """The units kept at `width`, ascending.  # (width,)"""
        return np.sort(self.order[:width])

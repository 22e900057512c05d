"""Sizes of tensor dimensions as expressions over dependency groups.

A dimension is a row-major product, a concatenation, or one of the leaves `Constant`, `Batch` and `Width`.
`Dimension.size` takes integers or NumPy arrays as widths, so one formula serves one policy and a hundred thousand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Indices: TypeAlias = npt.NDArray[np.int64]
Widths: TypeAlias = Mapping[str, Any]  # group id -> int, or an int64 array (n_policies,)


@dataclass(frozen=True)
class Constant:
    """A size that no policy changes."""

    value: int


@dataclass(frozen=True)
class Batch:
    """The batch: free at run time, the profile's batch when costs are computed (key `Batch.KEY` in widths)."""

    KEY = "@batch"


@dataclass(frozen=True)
class Width:
    """All units of one dependency group; `dense` is its size in the trained model."""

    group: str
    dense: int


@dataclass(frozen=True)
class Product:
    """Row-major product, the last factor fastest: `768 = 12 heads x 64`."""

    factors: tuple[Dimension, ...]


@dataclass(frozen=True)
class Concatenation:
    """Parts one behind the other."""

    parts: tuple[Dimension, ...]


Dimension: TypeAlias = Constant | Batch | Width | Product | Concatenation


def size(dimension: Dimension, widths: Widths) -> Any:
    """The size under `widths`: an int, or an int64 array where widths are arrays. Groups not named are dense."""
    match dimension:
        case Constant(value):
            return value
        case Width(group, dense):
            return widths.get(group, dense)
        case Batch():
            return widths.get(Batch.KEY, 1)
        case Product(factors):
            return math.prod(size(factor, widths) for factor in factors)
        case Concatenation(parts):
            return sum(size(part, widths) for part in parts)


def dense_size(dimension: Dimension) -> int:
    """The size in the trained model, at batch 1."""
    return int(size(dimension, {}))


def groups_of(dimension: Dimension) -> tuple[str, ...]:
    """Ids of the groups in it, in order of first appearance."""
    match dimension:
        case Width(group, _):
            return (group,)
        case Product(children) | Concatenation(children):
            return tuple(dict.fromkeys(group for child in children for group in groups_of(child)))
        case _:
            return ()


def group_sizes(dimension: Dimension) -> tuple[tuple[str, int], ...]:
    """(group, dense size) of the groups in it."""
    match dimension:
        case Width(group, dense):
            return ((group, dense),)
        case Product(children) | Concatenation(children):
            return tuple(pair for child in children for pair in group_sizes(child))
        case _:
            return ()


def has_batch(dimension: Dimension) -> bool:
    """Whether the batch is part of it."""
    match dimension:
        case Batch():
            return True
        case Product(children) | Concatenation(children):
            return any(has_batch(child) for child in children)
        case _:
            return False


def indices(dimension: Dimension, kept: Mapping[str, Indices]) -> Indices:
    """Flat dense indices that stay when each group keeps the units `kept` (groups not named keep all).  # (size,)"""
    match dimension:
        case Constant(value):
            return np.arange(value, dtype=np.int64)
        case Batch():
            return np.zeros(1, dtype=np.int64)
        case Width(group, dense):
            return kept[group] if group in kept else np.arange(dense, dtype=np.int64)
        case Product(factors):
            result = np.zeros(1, dtype=np.int64)
            for factor in factors:
                result = (result[:, None] * dense_size(factor) + indices(factor, kept)[None, :]).reshape(-1)
            return result
        case Concatenation(parts):
            offsets = np.cumsum([0] + [dense_size(part) for part in parts])
            return np.concatenate([indices(p, kept) + o for p, o in zip(parts, offsets, strict=False)])


def units_of(dimension: Dimension, group: str) -> Indices:
    """Which unit of `group` each dense index belongs to, -1 where none.  # (dense size,)"""
    match dimension:
        case Width(name, dense):
            return np.arange(dense) if name == group else np.full(dense, -1, dtype=np.int64)
        case Product(factors):
            result = np.full(1, -1, dtype=np.int64)
            for factor in factors:
                inner = units_of(factor, group)
                result = np.where(inner[None, :] >= 0, inner[None, :], result[:, None]).reshape(-1)
            return result
        case Concatenation(parts):
            return np.concatenate([units_of(part, group) for part in parts])
        case _:
            return np.full(dense_size(dimension), -1, dtype=np.int64)


def text(dimension: Dimension) -> str:
    """For people: `12*[blocks.0.attn.qkv]`."""
    match dimension:
        case Constant(value):
            return str(value)
        case Batch():
            return "batch"
        case Width(group, dense):
            return f"[{group}:{dense}]"
        case Product(factors):
            return "*".join(f"({text(f)})" if isinstance(f, Concatenation) else text(f) for f in factors)
        case Concatenation(parts):
            return "+".join(text(part) for part in parts)


def to_data(dimension: Dimension) -> Any:
    """As JSON data: int, "batch", {"width": [group, dense]}, {"product": [...]}, {"concatenation": [...]}."""
    match dimension:
        case Constant(value):
            return value
        case Batch():
            return "batch"
        case Width(group, dense):
            return {"width": [group, dense]}
        case Product(factors):
            return {"product": [to_data(factor) for factor in factors]}
        case Concatenation(parts):
            return {"concatenation": [to_data(part) for part in parts]}


def from_data(data: Any, depth: int = 0) -> Dimension:
    """The inverse of `to_data`; raises ValueError on anything else."""
    if depth > 64:
        raise ValueError("dimension nested deeper than 64")
    match data:
        case bool():
            raise ValueError(f"not a dimension: {data!r}")
        case int() if data >= 0:
            return Constant(data)
        case "batch":
            return Batch()
        case {"width": [str() as group, int() as dense]}:
            return Width(group, dense)
        case {"product": [*factors]}:
            return Product(tuple(from_data(factor, depth + 1) for factor in factors))
        case {"concatenation": [*parts]}:
            return Concatenation(tuple(from_data(part, depth + 1) for part in parts))
        case _:
            raise ValueError(f"not a dimension: {data!r}")

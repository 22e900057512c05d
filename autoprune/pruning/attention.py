"""Query-key products over a pruned head dimension: no weight reads the group, two activations meet.

Which dimensions matter: the score of a query and a key is a sum over the head dimension of products, one column each;
with their second moments over all pairs it is a regression with weights one (`Attention.regression`).

What makes up: where queries and keys are affine in the layers that make them, the best product of fewer dimensions is
no subset but a truncated singular value decomposition. With `C_q = E[q q^T]` and keys of covariance `C_k = L L^T` per
head (softmax does not see what all keys have in common), `q^T k = (L^T q)^T (L^-1 k)`; the `w` leading eigenvectors of
`L^T C_q L` span what is kept, and both layers' rows are multiplied accordingly. Query heads that share a key-value head
share the decomposition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autoprune.graph import DependencyGraph
from autoprune.graph.dimension import Batch, Dimension, Indices, dense_size, groups_of, indices, units_of
from autoprune.graph.program import Operation, Program
from autoprune.graph.run import run_operation
from autoprune.pruning.contractions import Contraction, find_contractions
from autoprune.pruning.obs import LEAST_DAMPING, LeastSquares, damped

_VIEWS = ("view", "reshape", "_unsafe_view", "permute", "transpose", "unbind", "split", "split_with_sizes", "chunk",
          "select", "slice", "squeeze", "unsqueeze", "contiguous", "clone", "expand", "to", "_to_copy")  # fmt: skip
_SCALINGS = ("mul", "div")


@dataclass(frozen=True, eq=False)
class Maker:
    """The layer whose outputs are queries or keys.

    Attributes:
        weight, bias: state-dict names; the bias may be missing.
        axis: the output axis of the weight.
        rows: which output each head's dimensions are.  # (heads, head_dim) int64
    """

    weight: str
    bias: str | None
    axis: int
    rows: Tensor


@dataclass(frozen=True, eq=False)
class Product:
    """One product of queries and keys.

    Attributes:
        operation: its name.
        query, key: names of the activations: (..., heads, tokens, head_dim).
        transposed: whether the key's value is (..., heads, head_dim, tokens).
        dimension: the head dimension, over groups.
        softmax: whether the scores go into a softmax over keys.
        makers: of the queries and of the keys; None where they are not affine in a layer's outputs.
        touches: ids of all groups in the makers' weights.
    """

    operation: str
    query: str
    key: str
    dimension: Dimension
    transposed: bool
    softmax: bool
    makers: tuple[Maker, Maker] | None
    touches: tuple[str, ...]


class Attention:
    """Moments of one query-key product over batches.

    Args:
        product: which.
    """

    def __init__(self, product: Product) -> None:
        self.product = product
        self._pairs: Tensor | None = None  # sums of (q q^T) * (k k^T) over samples  (heads, head_dim, head_dim)
        self._queries: Tensor | None = None  # (heads, head_dim, head_dim)
        self._keys: Tensor | None = None

    def watch(self, values: Mapping[str, Any]) -> None:
        """Add one batch."""
        q, k = (values[name].detach() for name in (self.product.query, self.product.key))
        k = k.mT if self.product.transposed else k
        if k.dim() >= 4 and k.shape[-3] != q.shape[-3]:
            k = k.repeat_interleave(q.shape[-3] // k.shape[-3], dim=-3)
        if self.product.softmax:
            k = k - k.mean(dim=-2, keepdim=True)
        q, k = (x.double().cpu() for x in (q, k))
        queries, keys = q.mT @ q, k.mT @ k  # (..., heads, head_dim, head_dim)
        heads = q.shape[-3] if q.dim() >= 4 else 1
        sums = [m.reshape(-1, heads, *m.shape[-2:]).sum(dim=0) for m in (queries * keys, queries, keys)]
        if self._pairs is None or self._queries is None or self._keys is None:
            self._pairs, self._queries, self._keys = sums
            return
        self._pairs, self._queries, self._keys = (
            a + b for a, b in zip((self._pairs, self._queries, self._keys), sums, strict=True)
        )

    def regression(self, group: str) -> LeastSquares:
        """The scores as a sum over one group's dimensions."""
        assert self._pairs is not None
        rows = torch.ones(self._pairs.shape[0], 1, self._pairs.shape[-1], dtype=torch.float64)
        return LeastSquares(damped(self._pairs, LEAST_DAMPING), rows, units_of(self.product.dimension, group))

    def rotation(self) -> Rotation | None:
        """What re-fits queries and keys to fewer dimensions; None where their layers cannot."""
        makers = self.product.makers
        if makers is None or self._queries is None or self._keys is None or len(self._keys) != len(makers[0].rows):
            return None
        query, key = makers
        shared = torch.unique(key.rows, dim=0)  # key-value heads
        directions = [
            _directions(self._queries[own].sum(dim=0), self._keys[own].mean(dim=0))
            for own in ((key.rows == rows).all(dim=1) for rows in shared)
        ]
        owner = (key.rows[:, None] == shared).all(dim=2).int().argmax(dim=1)  # of each query head
        query_maps = torch.stack([first for first, _ in directions])[owner]
        key_maps = torch.stack([second for _, second in directions])
        key = Maker(key.weight, key.bias, key.axis, shared)
        return Rotation(self.product.dimension, self.product.touches, ((query, query_maps), (key, key_maps)))


@dataclass(frozen=True, eq=False)
class Rotation:
    """Queries and keys in the coordinates that matter most.

    Attributes:
        dimension: the head dimension, over groups.
        touches: ids of all groups in the makers' weights: what the result depends on.
        sides: of queries and keys, the maker and its maps: row i is the i-th most important coordinate.
            # (heads, head_dim, head_dim) float64
    """

    dimension: Dimension
    touches: tuple[str, ...]
    sides: tuple[tuple[Maker, Tensor], tuple[Maker, Tensor]]

    @property
    def groups(self) -> tuple[str, ...]:
        """Ids of the groups in the head dimension."""
        return groups_of(self.dimension)

    def weights(
        self, kept: Mapping[str, Indices], state: Mapping[str, Tensor], replaced: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Replacements for the makers' weights and biases: rows that are kept become the leading coordinates.

        Args:
            kept: group -> units.
            state: the dense model's tensors.
            replaced: weights that take the place of `state`'s.
        """
        slots = torch.from_numpy(indices(self.dimension, kept))
        result: dict[str, Tensor] = {}
        for maker, maps in self.sides:
            for name, axis in ((maker.weight, maker.axis), (maker.bias, 0)):
                if name is None:
                    continue
                before = result.get(name, replaced.get(name, state[name])).detach()
                rows = before.movedim(axis, 0).double().cpu()
                made = rows.clone()
                leading = maps[:, : slots.numel()]
                made[maker.rows[:, slots]] = torch.einsum("hij,hj...->hi...", leading, rows[maker.rows])
                result[name] = made.movedim(0, axis).contiguous().to(before)
        return result


def _directions(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of queries and keys to coordinates that fall in importance, scaled alike.  # both (head_dim, head_dim)"""
    root = torch.linalg.cholesky(damped(keys[None], LEAST_DAMPING)[0])
    energy, vectors = torch.linalg.eigh(root.T @ damped(queries[None], LEAST_DAMPING)[0] @ root)
    vectors = vectors.flip(1)
    balance = energy.flip(0).clamp(min=1e-30) ** 0.25
    query_map = vectors.T @ root.T / balance[:, None]
    inverse = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=False)
    key_map = balance[:, None] * (vectors.T @ inverse)
    return query_map, key_map


def find_products(graph: DependencyGraph) -> tuple[Product, ...]:
    """Products of two activations over a group, in program order."""
    program = graph.program
    state = {*program.parameters, *program.buffers}
    readers = program.readers
    found = []
    for operation in program.operations:
        kind = operation.kind
        if kind not in ("scaled_dot_product_attention", "matmul", "bmm"):
            continue
        names = [argument.name for argument in operation.args[:2]]
        dimensions = [program.values[name].dimensions for name in names]
        if any(name in state for name in names) or min(map(len, dimensions)) < 3 or not groups_of(dimensions[0][-1]):
            continue
        fused = kind == "scaled_dot_product_attention"
        makers = [_maker(program, readers, name) for name in names]
        if not fused and makers[1] is not None:
            makers[1] = replace(makers[1], places=makers[1].places.mT)
        both = _sides(makers[0], makers[1], readers)
        softmax = fused or _into_softmax(operation, readers)
        weights = [maker.weight for maker in both or ()]
        touches = (g for name in weights for d in program.values[name].dimensions for g in groups_of(d))
        found.append(
            Product(
                operation.name,
                names[0],
                names[1],
                dimensions[0][-1],
                not fused,
                softmax,
                both,
                tuple(dict.fromkeys(touches)),
            )
        )
    return tuple(found)


def _into_softmax(operation: Operation, readers: Mapping[str, tuple[Operation, ...]]) -> bool:
    """Whether a softmax over the last axis follows, with scalings and masks at most between."""
    while len(readers.get(operation.name, ())) == 1:
        operation = readers[operation.name][0]
        if operation.kind in ("softmax", "_softmax"):
            return operation.argument(1, "dim") == -1
        if operation.kind not in ("mul", "div", "add", "masked_fill", "where", "to", "_to_copy"):
            return False
    return False


@dataclass(frozen=True, eq=False)
class _Trail:
    """A value that holds a layer's outputs in other places."""

    contraction: Contraction
    places: Tensor  # which output each element is, at batch 1  (..., heads, tokens, head_dim) int64


def _maker(program: Program, readers: Mapping[str, tuple[Operation, ...]], value: str) -> _Trail | None:
    """Follow a value back through views and scalings to the layer that made it, and outputs forward along the way."""
    makers = {name: operation for operation in program.operations for name in operation.results}
    contractions = {c.operation: c for c in find_contractions(program)}
    trail: list[Operation] = []
    name = value
    while name in makers and makers[name].name not in contractions:
        operation = makers[name]
        kind = operation.kind
        others = [n for n in operation.refs() if n != operation.refs()[0]]
        if kind not in (*_VIEWS, *_SCALINGS) or (kind in _SCALINGS and others) or not _read_apart(name, readers):
            return None
        trail.append(operation)
        name = operation.refs()[0]
    contraction = contractions.get(makers[name].name) if name in makers else None
    if contraction is None or contraction.reading.window is not None or contraction.layout.blocks:
        return None
    if not _read_apart(name, readers) or len(program.values[contraction.parameter].dimensions) != 2:
        return None
    sizes = [1 if isinstance(d, Batch) else dense_size(d) for d in program.values[name].dimensions]
    values: dict[str, Any] = {name: torch.arange(sizes[-1]).expand(sizes)}
    try:
        for operation in reversed(trail):
            source = values[operation.refs()[0]]
            result = source if operation.kind in _SCALINGS else run_operation(operation, values, {})
            pairs = zip(operation.results, result, strict=False) if len(operation.results) > 1 else None
            values.update(pairs if pairs is not None else {operation.name: result})
    except (KeyError, RuntimeError):  # sizes that are computed at run time
        return None
    return _Trail(contraction, values[value])


def _read_apart(name: str, readers: Mapping[str, tuple[Operation, ...]]) -> bool:
    """Whether nothing but one operation reads a value, or each reader selects another index of one axis."""
    own = readers.get(name, ())
    if len(own) == 1:
        return True
    picked = {(operation.args[1], operation.args[2]) for operation in own if operation.kind == "select"}
    return len(picked) == len(own) and len({axis for axis, _ in picked}) == 1


def _sides(
    queries: _Trail | None, keys: _Trail | None, readers: Mapping[str, tuple[Operation, ...]]
) -> tuple[Maker, Maker] | None:
    """Both makers, where each is used here alone; keys once a query head."""
    found = [_side(trail, readers) for trail in (queries, keys)]
    first, second = found
    if first is None or second is None or len(first.rows) % len(second.rows):
        return None
    return first, replace(second, rows=second.rows.repeat_interleave(len(first.rows) // len(second.rows), dim=0))


def _side(trail: _Trail | None, readers: Mapping[str, tuple[Operation, ...]]) -> Maker | None:
    """Which output each head's dimensions are; None where that differs from token to token."""
    if trail is None or trail.places.dim() != 4:
        return None
    contraction, places = trail.contraction, trail.places[0]  # (heads, tokens, head_dim)
    own = [name for name in (contraction.parameter, contraction.added) if name is not None]
    rows = places[:, 0]
    if any(len(readers[name]) != 1 for name in own) or not torch.equal(places, rows[:, None].expand_as(places)):
        return None
    return Maker(contraction.parameter, contraction.added, 1 - contraction.layout.columns[0], rows)

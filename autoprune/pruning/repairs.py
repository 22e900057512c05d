"""Everything that makes up for removed units, found in one pass over the calibration data and applied per policy."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from autoprune.graph import DependencyGraph, UnitOrder
from autoprune.graph.dimension import Indices, groups_of
from autoprune.pruning.attention import Attention, Rotation, find_products
from autoprune.pruning.calibration import Watcher, watch
from autoprune.pruning.compensation import Compensation, compensations, factorised
from autoprune.pruning.consumers import Consumer, find_consumers
from autoprune.pruning.gram import Sums
from autoprune.pruning.norms import NormStatistics, NormSums, find_norms
from autoprune.pruning.obs import LeastSquares
from autoprune.pruning.relevance import relevance

CACHE_BYTES = 512 * 1024 * 1024
"""Re-fitted weights kept for reuse by later policies; the least recently used go first."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What one pass over the calibration data found.

    Attributes:
        compensations: every consumer as a regression.
        norms: statistics of norms over groups.
        attentions: query-key products over groups, with what re-fits them.
    """

    compensations: list[Compensation]
    norms: list[NormStatistics]
    attentions: list[tuple[Attention, Rotation | None]]

    @staticmethod
    def of(graph: DependencyGraph, calibration: Sequence[Any], seed: int = 0) -> Findings:
        """Run the dense model over the calibration batches: backward too, for how much each place matters.

        Raises:
            InputError: activations that are not finite; a batch that does not fit the model's inputs.
        """
        consumers = find_consumers(graph)
        weights = relevance(graph, calibration, seed)
        sums = {c.source.key: Sums(c.source, len(calibration), weights) for c in consumers}
        norms = [NormSums(norm, len(calibration)) for norm in find_norms(graph)]
        attentions = [Attention(product) for product in find_products(graph)]
        watchers: dict[str, list[Watcher]] = {}
        for summed in sums.values():
            for operation, watcher in summed.watchers():
                watchers.setdefault(operation, []).append(watcher)
        for norm in norms:
            watchers.setdefault(norm.norm.operation, []).append(norm.watch)
        for attention in attentions:
            watchers.setdefault(attention.product.operation, []).append(attention.watch)
        watch(graph, calibration, watchers)
        watchers.clear()  # they hold the sums too
        return Findings(
            _compensations(consumers, sums),
            [norm.statistics() for norm in norms],
            [(attention, attention.rotation()) for attention in attentions],
        )

    def regressions(self, group: str, state: Mapping[str, Tensor], compensate: bool) -> tuple[LeastSquares, ...]:
        """What a group's removal does to whatever reads it.

        A query-key product that is re-fitted in rotated coordinates has no say where others read the group: it does not
        matter to it which units stay.
        """
        readers = [c for c in self.compensations if group in c.consumer.groups]
        found = [c.regression(group, state[c.consumer.parameter]) for c in readers]
        for attention, rotation in self.attentions:
            rotates = compensate and rotation is not None and bool(found)
            if group in groups_of(attention.product.dimension) and not rotates:
                found.append(attention.regression(group))
        return tuple(found)


def _compensations(consumers: Sequence[Consumer], sums: dict[tuple[object, ...], Sums]) -> list[Compensation]:
    """Those of all consumers that were called, in order; takes the sums, so that each moment is held once."""
    found: dict[Consumer, Compensation] = {}
    for key in list(sums):
        summed = sums.pop(key)
        if not summed.empty:
            alike = [consumer for consumer in consumers if consumer.source.key == key]
            found.update(zip(alike, compensations(alike, {key: summed.moments()}), strict=True))
    return [found[consumer] for consumer in consumers if consumer in found]


class Repairs:
    """Replacements for a policy's weights, each computed once for the widths that it depends on.

    Args:
        findings: from the calibration data.
        orders: group id -> units in the order they are kept.
        state: parameters and buffers of the dense model by state-dict name.
    """

    def __init__(self, findings: Findings, orders: Mapping[str, UnitOrder], state: Mapping[str, Tensor]) -> None:
        self._compensations = factorised(findings.compensations, orders)
        self._norms = findings.norms
        self._rotations = [rotation for _, rotation in findings.attentions if rotation is not None]
        self._orders, self._state = orders, state
        self._cache: OrderedDict[tuple[Any, ...], dict[str, Tensor]] = OrderedDict()
        self._cached_bytes = 0

    def weights(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """Replacements by state-dict name: columns of consumers are at their pruned sizes, all else is whole.

        Args:
            widths: of the groups that are cut.
        """
        result: dict[str, Tensor] = {}
        for compensation in self._compensations.values():
            result.update(self._cached(compensation, compensation.consumer.groups, widths, compensation.weights))
        for norm in self._norms:
            result.update(self._cached(norm, norm.norm.groups, widths, norm.weights))
        for rotation in self._rotations:
            if any(group in widths for group in rotation.groups):
                make = functools.partial(rotation.weights, replaced=result)
                result.update(self._cached(rotation, rotation.touches, widths, make))
        return result

    def _cached(
        self,
        what: Compensation | NormStatistics | Rotation,
        groups: Sequence[str],
        widths: Mapping[str, int],
        make: Callable[[Mapping[str, Indices], Mapping[str, Tensor]], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        touched = tuple((name, widths[name]) for name in groups if name in widths)
        if not touched:
            return {}
        key = (id(what), touched)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        kept = {name: self._orders[name].kept(width) for name, width in touched}
        found = self._cache[key] = make(kept, self._state)
        self._cached_bytes += _bytes(found)
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= _bytes(oldest)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_cached_bytes": 0}


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

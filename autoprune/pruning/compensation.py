"""Compensation: consumers' weights re-fitted by least squares so that the kept units make up for the removed ones.

`W' = W G_:K (G_KK)^-1` is the best linear fit, on calibration data, of the dense output from the kept inputs. It is
computed as `W_K + W_R M` with `M = G_RK G_KK^-1`, so that a dense policy leaves the weights as they are, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from autoprune.graph.dimension import Indices, indices, units_of
from autoprune.graph.policy import UnitOrder
from autoprune.pruning.consumers import Consumer
from autoprune.pruning.gram import Moments
from autoprune.pruning.obs import (
    LeastSquares,
    column_ranks,
    damped,
    damping_for,
    prefix_reconstruction,
    reconstruction,
)


@dataclass(frozen=True, eq=False)
class Compensation:
    """Everything needed to re-fit one consumer at any widths of its input.

    Attributes:
        consumer: which layer.
        gram: damped second moments; their lower Cholesky factor where `sequence` is set; their diagonal alone where the
            consumer is fixed.  # (blocks, columns, columns) or (blocks, columns)
        mean: E[x] at each tap.  # (blocks, taps, columns)
        sequence: columns in the order they are kept, where the input is one group: one factorisation then serves every
            width. None where several groups meet in the input.  # (columns,) int64
    """

    consumer: Consumer
    gram: Tensor
    mean: Tensor
    sequence: Tensor | None = None

    def regression(self, group: str, weight: Tensor) -> LeastSquares:
        """The consumer as one group's elimination sees it."""
        return LeastSquares(
            self.gram, self.consumer.rows(weight.detach().cpu()), units_of(self.consumer.dimension, group)
        )

    def factorised(self, orders: Mapping[str, UnitOrder]) -> Compensation:
        """With the Gram matrix factorised in the order of its group, where there is only one."""
        if len(self.consumer.groups) != 1:
            return self
        (group,) = self.consumer.groups
        units = units_of(self.consumer.dimension, group)
        sequence = torch.from_numpy(np.argsort(column_ranks(units, orders[group].order), kind="stable"))
        gram = self.gram[:, sequence[:, None], sequence]
        return replace(self, gram=torch.linalg.cholesky(gram), sequence=sequence)

    def weights(self, kept: Mapping[str, Indices], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replacements for the consumer's weight and for what takes up the means, by state-dict name.

        The weight has its kept columns only and all its outputs.
        """
        columns = torch.from_numpy(indices(self.consumer.dimension, kept))
        removed, standing_in = self._reconstruction(columns)
        weight = state[self.consumer.parameter].detach()
        rows = self.consumer.rows(weight.double().cpu())  # (blocks, outputs x taps, columns)
        lost = rows[:, :, removed]
        fitted = self.consumer.weight(rows[:, :, columns] + lost @ standing_in, weight, kept).to(weight.device)
        result = {self.consumer.parameter: fitted}
        shift = self.consumer.shift
        if shift is not None:
            left = self.mean[:, :, removed] - self.mean[:, :, columns] @ standing_in.mT  # (blocks, taps, removed)
            shaped = lost.unflatten(1, (-1, left.shape[1]))  # (blocks, outputs, taps, removed)
            delta = torch.einsum("botr,btr->bo", shaped, left).flatten()
            before = state[shift.name].detach()
            result[shift.name] = (before.double().cpu() + shift.sign * delta.reshape(before.shape)).to(before)
        return result

    def _reconstruction(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The removed columns and how the kept ones, in the order of `columns`, stand in for them."""
        if self.sequence is None:
            return reconstruction(self.gram, columns)
        kept = columns.numel()
        order = torch.argsort(self.sequence[:kept])  # from the order they are kept in to ascending
        return self.sequence[kept:], prefix_reconstruction(self.gram, kept)[:, :, order]


def compensations(consumers: Sequence[Consumer], moments: Mapping[tuple[object, ...], Moments]) -> list[Compensation]:
    """Those of all consumers that were called, before orders are known; equal Gram matrices are one tensor."""
    grams: dict[tuple[object, ...], Tensor] = {}
    found = []
    for consumer in consumers:
        seen = moments.get(consumer.source.key)
        if seen is None:
            continue
        centred = consumer.shift is not None
        key = (*consumer.source.key, centred)
        if key not in grams:
            gram = seen.second if consumer.fixed else seen.gram(centred)
            grams[key] = gram if consumer.fixed else damped(gram, damping_for(consumer.columns, seen.samples))
        found.append(Compensation(consumer, grams[key], seen.mean))
    return found


def factorised(found: Sequence[Compensation], orders: Mapping[str, UnitOrder]) -> dict[str, Compensation]:
    """By parameter, those that are re-fitted; Gram matrices are factorised in the order of their group."""
    factors: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    result = {}
    for compensation in found:
        consumer = compensation.consumer
        if consumer.fixed:
            continue
        if len(consumer.groups) == 1:
            key = (id(compensation.gram), repr(consumer.dimension))
            if key not in factors:
                made = compensation.factorised(orders)
                assert made.sequence is not None
                factors[key] = (made.gram, made.sequence)
            gram, sequence = factors[key]
            compensation = replace(compensation, gram=gram, sequence=sequence)
        result[consumer.parameter] = compensation
    return result

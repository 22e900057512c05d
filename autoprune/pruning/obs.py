"""Optimal Brain Surgeon on units: which columns of least-squares problems can go at the least error.

A consumer computes `y = W x`. With the second moments `G = E[x x^T]` of its input, the best weights that do without the
columns `U` cost `tr(W_U (H_UU)^-1 W_U^T)` where `H = G^-1`, and leave `W - W_U H_UU^-1 H_U:` (Hassibi & Stork 1993,
eq. 5; for blocks of columns as in Kurtic et al. 2022, eq. 4). Only `S = W^T W` enters the error, so the elimination
carries `S` (columns x columns) instead of `W`.

Plain tensors in, plain tensors out; nothing here knows of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.graph.dimension import Indices

LEAST_DAMPING = 1e-3


def damping_for(columns: int, samples: int) -> float:
    """How much to trust a Gram matrix: the share of its mean diagonal to add to its diagonal.

    `columns / samples`, between `LEAST_DAMPING` and 1: the noise in a Gram matrix grows with it. Without shrinkage, a
    fit to about as many samples as columns is near exact on them and worthless on others.
    """
    return min(1.0, max(LEAST_DAMPING, columns / samples))


def damped(gram: Tensor, damping: float) -> Tensor:
    """`gram` with `damping` of its mean diagonal added to the diagonal.  # (blocks, columns, columns)

    Used in place of the Gram matrix throughout, it keeps duplicate and dead inputs invertible and pulls solutions
    towards the dense weights, not towards zero: the error on the samples is never above that of plain slicing.
    """
    level = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1) * damping  # (blocks,)
    level = torch.where(level > 0, level, torch.ones_like(level))
    return gram + level[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """One consumer seen as a regression on its input's columns.

    Attributes:
        gram: second moments of the input, positive definite (see `damped`).  # (blocks, columns, columns) float64
        rows: the weights; a block is one group of a grouped convolution.  # (blocks, rows, columns) float64
        units: which unit each column belongs to, -1 for columns that stay.  # (columns,) int64
    """

    gram: Tensor
    rows: Tensor
    units: Indices


class _Elimination:
    """State of the backward elimination of one consumer: `H`, `S` and where each unit's columns are."""

    def __init__(self, problem: LeastSquares, size: int) -> None:
        units = torch.as_tensor(problem.units)
        owned = torch.nonzero(units >= 0).flatten()
        columns = owned[torch.argsort(units[owned], stable=True)]
        self._columns = columns.reshape(size, -1)  # (units, columns of one)
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(problem.gram))  # (blocks, columns, columns)
        spread = problem.rows.mT @ problem.rows
        energy = float((spread * problem.gram).sum())
        self._spread = spread / energy if energy > 0 else torch.zeros_like(spread)

    def errors(self, active: Tensor) -> Tensor:
        """Share of the output energy lost if one of the `active` units went now.  # (active,) float64"""
        columns = self._columns[active]
        if columns.shape[1] == 1:
            flat = columns[:, 0]
            diagonals = (m.diagonal(dim1=-2, dim2=-1)[:, flat] for m in (self._spread, self._inverse))
            spread, inverse = diagonals
            return (spread / inverse).sum(dim=0)
        rows, cols = columns[:, :, None], columns[:, None, :]
        solved = torch.linalg.solve(self._inverse[:, rows, cols], self._spread[:, rows, cols])
        return solved.diagonal(dim1=-2, dim2=-1).sum(dim=(0, -1))

    def remove(self, unit: int) -> None:
        """Eliminate one unit: block Gaussian elimination on `H`, the matching congruence on `S`.

        With `T = H_:U H_UU^-1`: `H -= T H_U:` and `S -= T X + X^T T^T`, `X = S_U: - S_UU T^T / 2`. The unit's rows and
        columns are then zero in exact arithmetic, and never looked at again.
        """
        gone = self._columns[unit]
        inverse, spread = self._inverse, self._spread
        pivot, across = inverse[:, gone[:, None], gone], inverse[:, gone, :]
        ratio = torch.linalg.solve(pivot, across)  # T^T  (blocks, gone, columns)
        moved = spread[:, gone, :] - 0.5 * spread[:, gone[:, None], gone] @ ratio  # X
        inverse.baddbmm_(ratio.mT, across, alpha=-1.0)
        spread.baddbmm_(torch.cat([ratio, moved], dim=1).mT, torch.cat([moved, ratio], dim=1), alpha=-1.0)

    def compact(self, removed: Sequence[int]) -> None:
        """Forget the columns of units removed since the last time; they only cost time."""
        mask = torch.ones(self._inverse.shape[-1], dtype=torch.bool)
        mask[self._columns[list(removed)].flatten()] = False
        left = torch.nonzero(mask).flatten()
        self._columns = (torch.cumsum(mask, 0) - 1)[self._columns]  # those of removed units are meaningless now
        self._inverse = self._inverse[:, left[:, None], left]
        self._spread = self._spread[:, left[:, None], left]


def elimination_order(problems: Sequence[LeastSquares], size: int) -> Indices:
    """The order in which to keep the units of one group.

    Backward elimination: of the units left, the one goes whose loss, summed over all consumers (each as a share of its
    output energy) and after the best compensation by those left, is least. Ties fall to the lower index.

    Args:
        problems: the group's consumers; each unit owns the same number of columns in each (at least one).
        size: units in the group.

    Returns:
        Unit indices, most worth keeping first.  # (size,) int64
    """
    states = [_Elimination(problem, size) for problem in problems]
    active = torch.arange(size)
    removed: list[int] = []
    forgotten = 0
    while active.numel() > 1:
        errors = torch.stack([state.errors(active) for state in states]).sum(dim=0)
        position = int(torch.argmin(errors))
        unit = int(active[position])
        active = torch.cat([active[:position], active[position + 1 :]])
        removed.append(unit)
        for state in states:
            state.remove(unit)
        if len(removed) - forgotten >= 0.2 * (size - forgotten):
            for state in states:
                state.compact(removed[forgotten:])
            forgotten = len(removed)
    order = torch.tensor([*active.tolist(), *reversed(removed)], dtype=torch.int64)
    return order.numpy()


def reconstruction(gram: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """How the kept columns stand in for the others: `x_removed ~ M x_kept`, `M = G_RK G_KK^-1`.

    Args:
        gram: as in `LeastSquares`.
        kept: column indices.  # (kept,) int64

    Returns:
        The removed columns, ascending.  # (removed,) int64
        M.  # (blocks, removed, kept)
    """
    removed = complement(kept, gram.shape[-1])
    factor = torch.linalg.cholesky(gram[:, kept[:, None], kept])
    return removed, torch.cholesky_solve(gram[:, kept[:, None], removed], factor).mT


def prefix_reconstruction(factor: Tensor, kept: int) -> Tensor:
    """`reconstruction` of all columns behind the first `kept`, from one Cholesky factor for every prefix.

    With `G = L L^T`, `G_RK G_KK^-1 = L_RK L_KK^-T^T L_KK^-1 = L_RK L_KK^-1`.

    Args:
        factor: lower Cholesky factor, columns in the order they are kept.  # (blocks, columns, columns)
        kept: how many.

    Returns:
        M.  # (blocks, columns - kept, kept)
    """
    return torch.linalg.solve_triangular(factor[:, :kept, :kept], factor[:, kept:, :kept], upper=False, left=False)


def complement(kept: Tensor, size: int) -> Tensor:
    """Indices below `size` that are not in `kept`, ascending.  # (size - kept,) int64"""
    mask = torch.ones(size, dtype=torch.bool)
    mask[kept] = False
    return torch.nonzero(mask).flatten()

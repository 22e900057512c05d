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

import numpy as np
import torch
from torch import Tensor

from autoprune.graph.dimension import Indices

LEAST_DAMPING = 1e-3


def damping_for(columns: int, samples: float) -> float:
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
    result = gram.clone()
    result.diagonal(dim1=-2, dim2=-1).add_(level[:, None])
    return result


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """One consumer seen as a regression on its input's columns.

    Attributes:
        gram: second moments of the input, positive definite (see `damped`); its diagonal alone where the consumer is
            not to be re-fitted.  # (blocks, columns, columns) or (blocks, columns) float64
        rows: the weights; a block is one group of a grouped convolution.  # (blocks, rows, columns)
        units: which unit each column belongs to, -1 for columns that stay.  # (columns,) int64
    """

    gram: Tensor
    rows: Tensor
    units: Indices


POOL_UNITS, POOL_COLUMNS = 32, 256
"""How many units are eliminated one by one before all others are updated: enough for this many columns, and at least so
many units."""


class _Elimination:
    """State of the backward elimination of consumers that read the same: `H`, `S` and where each unit's columns are.

    Args:
        inverse: H.  # (blocks, columns, columns)
        spread: S, summed over consumers.  # (blocks, columns, columns)
        columns: # (units, columns of one)
    """

    def __init__(self, inverse: Tensor, spread: Tensor, columns: Tensor) -> None:
        self._inverse, self._spread, self._columns = inverse, spread, columns

    @staticmethod
    def of(problems: Sequence[LeastSquares], size: int) -> _Elimination:
        """The start, from consumers that share their Gram matrix."""
        gram = problems[0].gram
        spread = torch.zeros_like(gram)
        for problem in problems:
            own = torch.zeros_like(gram)
            for rows in torch.split(problem.rows, ROWS, dim=1):
                rows = rows.double()
                own.baddbmm_(rows.mT, rows)
            energy = float((own * gram).sum())
            if energy > 0:
                spread += own.div_(energy)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        return _Elimination(inverse, spread, _columns(problems[0].units, size))

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

    def remove(self, units: Tensor) -> None:
        """Eliminate units: block Gaussian elimination on `H`, the matching congruence on `S`.

        With `T = H_:U H_UU^-1`: `H -= T H_U:` and `S -= T X + X^T T^T`, `X = S_U: - S_UU T^T / 2`. The units' rows and
        columns are then zero in exact arithmetic, and never looked at again. One by one or all at once is the same.
        """
        gone = self._columns[units].flatten()
        inverse, spread = self._inverse, self._spread
        pivot, across = inverse[:, gone[:, None], gone], inverse[:, gone, :]
        ratio = torch.linalg.solve(pivot, across)  # T^T  (blocks, gone, columns)
        moved = spread[:, gone, :] - 0.5 * spread[:, gone[:, None], gone] @ ratio  # X
        inverse.baddbmm_(ratio.mT, across, alpha=-1.0)
        spread.baddbmm_(torch.cat([ratio, moved], dim=1).mT, torch.cat([moved, ratio], dim=1), alpha=-1.0)

    def part(self, units: Tensor) -> _Elimination:
        """These units alone, numbered anew: eliminations among them are those of the whole."""
        columns = self._columns[units]
        flat = columns.flatten()
        inner = torch.arange(flat.numel()).reshape(columns.shape)
        return _Elimination(self._inverse[:, flat[:, None], flat], self._spread[:, flat[:, None], flat], inner)

    def compact(self, removed: Tensor) -> None:
        """Forget the columns of units removed since the last time; they only cost time."""
        mask = torch.ones(self._inverse.shape[-1], dtype=torch.bool)
        mask[self._columns[removed].flatten()] = False
        left = torch.nonzero(mask).flatten()
        self._columns = (torch.cumsum(mask, 0) - 1)[self._columns]  # those of removed units are meaningless now
        self._inverse = self._inverse[:, left[:, None], left]
        self._spread = self._spread[:, left[:, None], left]


class _Energy:
    """State for consumers that are not re-fitted: a unit costs its columns' share of the energy, whatever else goes."""

    def __init__(self, cost: Tensor) -> None:
        self._cost = cost  # (units,)

    @staticmethod
    def of(problem: LeastSquares, size: int) -> _Energy:
        """The start, from a consumer whose Gram matrix is known on its diagonal only."""
        spread = torch.zeros_like(problem.gram)
        for rows in torch.split(problem.rows, ROWS, dim=1):
            spread += rows.double().square().sum(dim=1)
        share = (spread * problem.gram).sum(dim=0)  # (columns,)
        cost = share[_columns(problem.units, size)].sum(dim=1)
        return _Energy(cost / share.sum() if float(share.sum()) > 0 else cost)

    def errors(self, active: Tensor) -> Tensor:
        """As `_Elimination.errors`."""
        return self._cost[active]

    def remove(self, units: Tensor) -> None:
        """Nothing else changes."""

    def part(self, units: Tensor) -> _Energy:
        """As `_Elimination.part`."""
        return _Energy(self._cost[units])

    def compact(self, removed: Tensor) -> None:
        """Nothing to forget."""


ROWS = 8192  # of weights converted to float64 at a time


def column_ranks(units: Indices, order: Indices) -> Indices:
    """At which place of an order each column's unit is kept; -1 for columns of no unit, which always stay.

    Args:
        units: as in `LeastSquares`.
        order: units, the ones to keep longest first.  # (size,) int64

    Returns:
        Ranks.  # (columns,) int64
    """
    rank = np.full(len(order) + 1, -1)  # the last: of no unit
    rank[order] = np.arange(len(order))
    return np.asarray(rank[units])


def _columns(units: Indices, size: int) -> Tensor:
    """The columns of each unit.  # (units, columns of one)"""
    owner = torch.as_tensor(units)
    owned = torch.nonzero(owner >= 0).flatten()
    return owned[torch.argsort(owner[owned], stable=True)].reshape(size, -1)


def _states(problems: Sequence[LeastSquares], size: int) -> list[_Elimination | _Energy]:
    """One state for all consumers with the same Gram matrix and columns."""
    alike: dict[tuple[int, bytes], list[LeastSquares]] = {}
    states: list[_Elimination | _Energy] = []
    for problem in problems:
        if problem.gram.dim() == 2:
            states.append(_Energy.of(problem, size))
        else:
            alike.setdefault((id(problem.gram), problem.units.tobytes()), []).append(problem)
    return states + [_Elimination.of(same, size) for same in alike.values()]


def elimination_order(problems: Sequence[LeastSquares], size: int) -> Indices:
    """The order in which to keep the units of one group.

    Backward elimination: of the units left, the one goes whose loss, summed over all consumers (each as a share of its
    output energy) and after the best compensation by those left, is least. Ties fall to the lower index.

    The cheapest units form a pool and go one by one, each at its exact loss, until one costs more than the cheapest
    outside did; then all others are updated at once. Losses hardly ever fall as units go, so the order is that of
    plain elimination (and the same where the pool holds the whole group), at the speed of matrix products.

    Args:
        problems: the group's consumers; each unit owns the same number of columns in each (at least one).
        size: units in the group.

    Returns:
        Unit indices, most worth keeping first.  # (size,) int64
    """
    states = _states(problems, size)
    widest = max(int((problem.units >= 0).sum()) // size for problem in problems)
    most = max(POOL_UNITS, POOL_COLUMNS // widest)
    active = torch.arange(size)
    removed: list[Tensor] = []
    forgotten = 0
    while active.numel() > 1:
        errors = torch.stack([state.errors(active) for state in states]).sum(dim=0)
        cheapest = torch.argsort(errors, stable=True)
        limit = float(errors[cheapest[most]]) if active.numel() > most else float("inf")
        pool = torch.sort(active[cheapest[:most]]).values
        gone = _eliminated([state.part(pool) for state in states], pool, limit, active.numel() - 1)
        active = active[~torch.isin(active, gone)]
        removed.append(gone)
        if active.numel() == 1:
            break
        for state in states:
            state.remove(gone)
        since = torch.cat(removed)[forgotten:]
        if since.numel() >= 0.2 * (size - forgotten):
            for state in states:
                state.compact(since)
            forgotten += since.numel()
    return torch.cat([active, *(gone.flip(0) for gone in reversed(removed))]).numpy()


def _eliminated(states: Sequence[_Elimination | _Energy], pool: Tensor, limit: float, most: int) -> Tensor:
    """Units of the pool that go, in order: at least one, and none that costs more than `limit` after that."""
    left = torch.arange(pool.numel())
    gone: list[int] = []
    while left.numel() > 0 and len(gone) < most:
        errors = torch.stack([state.errors(left) for state in states]).sum(dim=0)
        position = int(torch.argmin(errors))
        if gone and float(errors[position]) > limit:
            break
        unit = left[position : position + 1]
        left = torch.cat([left[:position], left[position + 1 :]])
        gone.append(int(unit))
        for state in states:
            state.remove(unit)
    return pool[torch.tensor(gone, dtype=torch.int64)]


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

"""Allocation: the whole front of (predicted damage, predicted cost) at once, by dynamic programming over the variables.

Where damage and cost are sums over variables this is a multiple-choice knapsack for all budgets together. Fronts of
partial solutions are merged one variable at a time and dominated ones dropped (Nemhauser and Ullmann 1969); the result
is exact as long as no partial front outgrows `MAX_FRONT`, and thinned evenly over cost beyond that.

Latency tables are not sums: a convolution's cost depends on its input *and* its output group. So the cost is linearised
around the present solutions along the front, allocated, costed truly, and that is repeated from the better ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import AutopruneError, InputError

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
CostOf: TypeAlias = Callable[[Integers], Floats]  # choices (n, n_variables) -> cost (n,)

MAX_FRONT = 4096  # partial solutions kept after each variable in the separable case
COUPLED_FRONT = 256  # the same where the cost is only a linearisation
MAX_PAIRS = 1024  # pair moves tried around one solution
MAX_REPAIRS = 8  # solutions that are made feasible at a time
MAX_STEPS = 200  # of one repair


def allocate(
    damage: Sequence[npt.ArrayLike],
    cost: CostOf,
    points: int = 32,
    *,
    violation: CostOf | None = None,
    iterations: int = 3,
    seed: int = 0,
) -> Integers:
    """Choices along the predicted front of (damage, cost), from the cheapest to the least damaged, without duplicates.

    With constraints it is the front of what is feasible: choices that violate one are replaced by the nearest that
    meet all, and what programming finds is sought at a price for violation too (a Lagrangian).

    Args:
        damage: per variable, the damage of each level.  # n_variables x (n_levels,)
        cost: true cost of many choices; may couple variables in any way.
        points: how many choices are wanted; fewer come back where the front has fewer.
        violation: by how much choices are past their bounds, together; 0 where all are met.
        iterations: how often the cost is linearised anew at most; it stops early once nothing improves.
        seed: draws the pair moves of the local search where there are too many of them.

    Returns:
        Levels.  # (<= points, n_variables)

    Raises:
        InputError: no variables, or fewer than one point.
        AutopruneError: no choice has a finite damage and cost, or none that meets the constraints was found.
    """
    tables = _tables(damage)
    if points < 1:
        raise InputError(f"allocate: expected at least 1 point, got {points}.")
    archive = _Archive(tables, cost, violation)
    archive.add(_ladder(tables, points))
    if not len(archive.choices):
        if not len(archive.outside):
            raise AutopruneError(
                "allocate: expected finite damages and costs, got none. Check the profile's latencies."
            )
        raise AutopruneError("allocate: found no choice that meets the constraints. Relax them.")
    for _ in range(iterations):
        before = archive.signature()
        bases = archive.spread(points)
        for slopes in _slopes(cost, violation if len(archive.outside) else None, bases, tables):
            front = allocate_separable(tables, slopes, limit=COUPLED_FRONT)
            archive.collect(front[spread_places(len(front), 4 * points)])
        archive.flush()
        if archive.signature() == before:
            break
    _polish(archive, points, np.random.default_rng(seed))
    return archive.spread(points)


def allocate_separable(
    damage: Sequence[npt.ArrayLike], cost: Sequence[npt.ArrayLike], *, limit: int = MAX_FRONT
) -> Integers:
    """The exact front where damage and cost are both sums over the variables.

    Args:
        damage: per variable, the damage of each level.  # n_variables x (n_levels,)
        cost: per variable, the cost of each level.  # n_variables x (n_levels,)
        limit: partial solutions kept after each variable; thinned evenly over cost beyond.

    Returns:
        Levels of one choice for each point of the front, the cheapest first.  # (n_front, n_variables)

    Raises:
        InputError: no variables, or tables that do not fit each other.
    """
    damages, costs = _tables(damage), _tables(cost)
    if [len(table) for table in damages] != [len(table) for table in costs]:
        raise InputError("allocate: expected as many costs as damages for each variable.")
    total_damage, total_cost = np.zeros(1), np.zeros(1)
    history: list[tuple[Integers, Integers]] = []
    for damage_of, cost_of in zip(damages, costs, strict=True):
        all_damage = (total_damage[:, None] + damage_of[None, :]).reshape(-1)
        all_cost = (total_cost[:, None] + cost_of[None, :]).reshape(-1)
        kept = _front(all_damage, all_cost, limit)
        total_damage, total_cost = all_damage[kept], all_cost[kept]
        history.append((kept // len(damage_of), kept % len(damage_of)))
    return _back_track(history)


def linearised(cost: CostOf, bases: Integers, damage: Sequence[Floats]) -> list[list[Floats]]:
    """The cost of moving each variable alone to each level, around each base, less the base's own cost.

    Args:
        cost: true cost of many choices.
        bases: choices to linearise around.  # (n_bases, n_variables)
        damage: gives the number of levels of each variable.

    Returns:
        Tables of one cost a level, one list of tables a base.  # n_bases x n_variables x (n_levels,)
    """
    moves = np.concatenate([single_moves(base, [len(table) for table in damage]) for base in bases])
    values = np.asarray(cost(moves), dtype=np.float64).reshape(len(bases), -1)
    own = np.asarray(cost(np.asarray(bases)), dtype=np.float64)
    cuts = np.cumsum([len(table) for table in damage])[:-1]
    return [np.split(row - base_cost, cuts) for row, base_cost in zip(values, own, strict=True)]


def single_moves(base: Integers, levels: Sequence[int]) -> Integers:
    """Copies of `base`, one for every level of every variable.  # (sum of levels, n_variables)"""
    moves = np.repeat(base[None, :], sum(levels), axis=0)
    columns = np.repeat(np.arange(len(levels)), levels)
    moves[np.arange(len(moves)), columns] = np.concatenate([np.arange(count) for count in levels])
    return moves


def spread_places(count: int, wanted: int) -> Integers:
    """At most `wanted` places of 0..count-1, evenly, both ends among them."""
    return np.unique(np.round(np.linspace(0, count - 1, min(count, wanted))).astype(np.int64))


def repaired(choices: Integers, damage: Sequence[Floats], violation: CostOf) -> Integers:
    """Choices led to what is feasible, each by the moves of one variable that cost the least damage a violation.

    Args:
        choices: that violate something.  # (n, n_variables)
        damage: per variable, the damage of each level.  # n_variables x (n_levels,)
        violation: 0 where all is met.

    Returns:
        Those that got there.  # (<= n, n_variables)
    """
    found = np.array(choices, dtype=np.int64)
    excess = np.asarray(violation(found), dtype=np.float64) if len(found) else np.zeros(0)
    active = np.flatnonzero(excess > 0.0)
    for _ in range(MAX_STEPS):
        if not len(active):
            break
        moves = np.stack([_single_steps(found[place], damage) for place in active])  # (n_active, n_moves, n_variables)
        after = np.asarray(violation(moves.reshape(-1, moves.shape[2])), dtype=np.float64).reshape(moves.shape[:2])
        gained = np.where(np.isfinite(after), excess[active, None] - after, -np.inf)
        paid = _damage_of(moves, damage) - _damage_of(found[active][:, None, :], damage)
        rate = np.where(gained > 1e-12, gained / np.maximum(paid, 1e-12), -np.inf)
        best = rate.argmax(axis=1)
        rows = np.arange(len(active))
        moving = np.isfinite(rate[rows, best])
        found[active[moving]] = moves[rows, best][moving]
        excess[active[moving]] = after[rows, best][moving]
        active = active[moving & (after[rows, best] > 0.0)]
    return np.asarray(found[excess <= 0.0])


class _Archive:
    """Feasible choices not dominated in (damage, true cost) so far, sorted by cost."""

    def __init__(self, damage: Sequence[Floats], cost: CostOf, violation: CostOf | None) -> None:
        self.levels = [len(table) for table in damage]
        self.outside = np.zeros(
            (0, len(damage)), dtype=np.int64
        )  # the same of those that were infeasible, when last seen
        self._damage = damage
        self._cost = cost
        self._violation = violation
        self._pending: list[Integers] = []
        self.choices = np.zeros((0, len(damage)), dtype=np.int64)
        self.values = np.zeros((0, 2))  # damage, cost

    def collect(self, choices: Integers) -> None:
        """Keep choices for the next `flush`: one cost call serves many."""
        self._pending.append(choices)

    def add(self, choices: Integers) -> None:
        self.collect(choices)
        self.flush()

    def flush(self) -> None:
        """Cost what is pending and keep what nothing dominates; infeasible ones near the front are repaired."""
        fresh = _distinct(np.concatenate(self._pending))
        self._pending = []
        if self._violation is not None:
            excess = np.asarray(self._violation(fresh), dtype=np.float64)
            inside, outside = fresh[excess <= 0.0], fresh[excess > 0.0]
            self.outside, _ = self._best(outside, self._values(outside))
            few = max(2, min(MAX_REPAIRS, 400 // len(self.levels)))
            near = self.outside[spread_places(len(self.outside), few)]
            fresh = np.concatenate([inside, repaired(near, self._damage, self._violation)])
        choices = np.concatenate([self.choices, fresh])
        self.choices, self.values = self._best(choices, np.concatenate([self.values, self._values(fresh)]))

    def _values(self, choices: Integers) -> Floats:
        """Damage and true cost.  # (n, 2)"""
        if not len(choices):
            return np.zeros((0, 2))
        return np.stack([_damage_of(choices, self._damage), np.asarray(self._cost(choices))], axis=1)

    def _best(self, choices: Integers, values: Floats) -> tuple[Integers, Floats]:
        kept = _front(values[:, 0], values[:, 1], len(values))
        return choices[kept], values[kept]

    def signature(self) -> bytes:
        """Changes when, and only when, the front does."""
        return self.values.tobytes()

    def spread(self, points: int) -> Integers:
        """At most `points` choices along the front, both ends among them, evenly in cost and in rank by turns.

        Evenly in cost alone would leave out a crowded end of the front, evenly in rank alone a sparse one.
        """
        count = len(self.choices)
        if count <= points:
            return self.choices
        cost = self.values[:, 1]
        targets = np.linspace(cost[0], cost[-1], (points + 1) // 2)
        chosen = set(np.clip(np.searchsorted(cost, targets, side="right") - 1, 0, count - 1).tolist())
        if points > 1:
            chosen |= {0, count - 1}
        while len(chosen) < points:
            gaps = np.diff(ordered := sorted(chosen))
            widest = int(np.argmax(gaps))
            chosen.add(ordered[widest] + int(gaps[widest]) // 2)
        return np.asarray(self.choices[sorted(chosen)[:points]])


def _tables(tables: Sequence[npt.ArrayLike]) -> list[Floats]:
    """The tables as float64 vectors of at least one level."""
    found = [np.asarray(table, dtype=np.float64) for table in tables]
    if not found or any(table.ndim != 1 or not table.size for table in found):
        raise InputError("allocate: expected at least one variable, each with at least one level.")
    return found


def _slopes(cost: CostOf, violation: CostOf | None, bases: Integers, damage: Sequence[Floats]) -> list[list[Floats]]:
    """Linearised costs; where constraints bind, also with a price on violation, the whole cost for all of a bound."""
    found = linearised(cost, bases, damage)
    if violation is None:
        return found
    price = float(np.mean(np.asarray(cost(bases))))
    excess = linearised(violation, bases, damage)
    priced = [
        [own + price * past for own, past in zip(costs, pasts, strict=True)]
        for costs, pasts in zip(found, excess, strict=True)
    ]
    return [*found, *priced]


def _damage_of(choices: Integers, damage: Sequence[Floats]) -> Floats:
    """The sum over variables.  # (..., n_variables) -> (...)"""
    total = np.zeros(choices.shape[:-1])
    for variable, table in enumerate(damage):
        total += table[choices[..., variable]]
    return total


def _single_steps(base: Integers, damage: Sequence[Floats]) -> Integers:
    """`base` with one variable a level narrower, half as wide, narrowest, or a level wider.  # (4 n, n_variables)"""
    tops = np.array([len(table) - 1 for table in damage])
    wanted = np.stack([np.maximum(base - 1, 0), base // 2, np.zeros_like(base), np.minimum(base + 1, tops)])
    moves = np.repeat(base[None, :], wanted.size, axis=0)
    moves[np.arange(wanted.size), np.tile(np.arange(len(base)), len(wanted))] = wanted.reshape(-1)
    return moves


def _distinct(choices: Integers) -> Integers:
    """The rows, each once, told apart by a random 64-bit sum (a collision only loses one candidate)."""
    factors = 2 * np.random.default_rng(0).integers(1, 2**62, choices.shape[1:], dtype=np.int64) + 1
    sums: Integers = (choices * factors[None, :]).sum(axis=1)  # wraps around: meant
    first: Integers = np.unique(sums, return_index=True)[1]
    return np.asarray(choices[np.sort(first)])


def _front(damage: Floats, cost: Floats, limit: int) -> Integers:
    """Places of the non-dominated points, cheapest first, at most about `limit` of them."""
    order = np.lexsort((damage, cost))
    sound = order[np.isfinite(damage[order]) & np.isfinite(cost[order])]
    lowest = np.minimum.accumulate(damage[sound])
    better = np.ones(len(sound), dtype=np.bool_)
    better[1:] = damage[sound][1:] < lowest[:-1]
    kept = sound[better]
    if len(kept) <= limit:
        return np.asarray(kept)
    costs = cost[kept]
    bins = np.floor((costs - costs[0]) / (costs[-1] - costs[0]) * (limit - 1)).astype(np.int64)
    last = np.append(bins[1:] != bins[:-1], True)  # the least damaged of each bin
    last[0] = True
    return np.asarray(kept[last])


def _back_track(history: Sequence[tuple[Integers, Integers]]) -> Integers:
    """Levels from (parent, level) of each stage.  # (n_front, n_variables)"""
    place = np.arange(len(history[-1][0]))
    columns = []
    for parent, level in reversed(history):
        columns.append(level[place])
        place = parent[place]
    return np.stack(columns[::-1], axis=1).astype(np.int64)


def _ladder(damage: Sequence[Floats], points: int) -> Integers:
    """Choices from narrowest to dense with all variables at the same relative level: the first to linearise around."""
    steps = np.linspace(0.0, 1.0, max(points, 2))
    tops = np.array([len(table) - 1 for table in damage])
    return np.unique(np.round(steps[:, None] * tops[None, :]).astype(np.int64), axis=0)


def _polish(archive: _Archive, points: int, rng: np.random.Generator, rounds: int = 3) -> None:
    """Local search from points along the front: every single move, and one variable narrower while another is wider."""
    for _ in range(rounds):
        before = archive.signature()
        for base in archive.spread(points):
            archive.collect(single_moves(base, archive.levels))
            archive.collect(_pair_moves(base, archive.levels, rng))
        archive.flush()
        if archive.signature() == before:
            return


def _pair_moves(base: Integers, levels: Sequence[int], rng: np.random.Generator) -> Integers:
    """`base` with one variable a level narrower and another a level wider; a sample where there are many.  # (n, v)"""
    narrower = np.flatnonzero(base > 0)
    wider = np.flatnonzero(base < np.array(levels) - 1)
    down, up = (grid.reshape(-1) for grid in np.meshgrid(narrower, wider, indexing="ij"))
    usable = np.flatnonzero(down != up)
    if len(usable) > MAX_PAIRS:
        usable = np.sort(rng.choice(usable, MAX_PAIRS, replace=False))
    moves = np.repeat(base[None, :], len(usable), axis=0)
    rows = np.arange(len(usable))
    moves[rows, down[usable]] -= 1
    moves[rows, up[usable]] += 1
    return moves

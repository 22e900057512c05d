"""Many new choices at once from some that are known: moves by a few levels, and mixtures of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]

MOST_CHANGES = 4  # variables that one move changes
COUPLED = 0.6  # share of the moves that narrow as many variables as they widen
FAR = 0.25  # share of the steps that go two levels


def moved(bases: Integers, levels: Sequence[int], count: int, rng: np.random.Generator) -> Integers:
    """Moves of one to four variables by a level or two, each from a base drawn at random.

    Most are coupled: what one variable gives another takes, so that a policy is improved at about its cost.

    Args:
        bases: at least one.  # (n, n_variables)
        levels: of each variable, at least one of them more than 1.
        count: how many.
        rng: draws them.

    Returns:
        Choices; some may equal a base, where a step ended at a border.  # (count, n_variables)
    """
    counts = np.asarray(levels)
    free = np.flatnonzero(counts > 1)
    found = bases[rng.integers(len(bases), size=count)].copy()
    changes = rng.integers(1, MOST_CHANGES + 1, size=count)
    sign = rng.choice((-1, 1), size=count)
    coupled = rng.random(count) < COUPLED
    rows = np.arange(count)
    for change in range(MOST_CHANGES):
        sign = np.where(coupled, -sign, rng.choice((-1, 1), size=count))
        step = sign * np.where(rng.random(count) < FAR, 2, 1) * (change < changes)
        place = free[rng.integers(len(free), size=count)]
        found[rows, place] = np.clip(found[rows, place] + step, 0, counts[place] - 1)
    return found


def crossed(bases: Integers, count: int, rng: np.random.Generator) -> Integers:
    """Choices that take each variable from one of two bases, neighbours in the order given or near it.

    Args:
        bases: ordered along the front.  # (n, n_variables)
        count: how many.
        rng: draws them.
    """
    one = rng.integers(len(bases), size=count)
    other = np.clip(one + rng.choice((-3, -2, -1, 1, 2, 3), size=count), 0, len(bases) - 1)
    taken = rng.random((count, bases.shape[1])) < 0.5
    return np.asarray(np.where(taken, bases[one], bases[other]))


def drawn(levels: Sequence[int], count: int, rng: np.random.Generator) -> Integers:
    """Uniformly random choices.  # (count, n_variables)"""
    return rng.integers(0, np.asarray(levels), size=(count, len(levels)), dtype=np.int64)

"""From what a sampler asks for to what is new: a batch of choices that repeats nothing, the same on every run."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from autoprune.search.trial import Choice, Origin

_TRIES = 100  # at finding a choice that is new near one that is not


@dataclass(frozen=True)
class Proposal:
    """A choice with its place in the sequence."""

    number: int
    choice: Choice
    origin: Origin


@dataclass(frozen=True)
class _Either:
    """What was seen before, and what is new: thousands are not copied for a batch of a few."""

    seen: Container[Choice]
    fresh: set[Choice] = field(default_factory=set)

    def __contains__(self, choice: object) -> bool:
        return choice in self.seen or choice in self.fresh


def derived_seed(*parts: int) -> int:
    """A 32-bit seed of several numbers; unrelated for any two tuples."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def without_repeats(
    proposals: Sequence[Proposal],
    seen: Container[Choice],
    levels: Sequence[int],
    seed: int,
    canonical: Callable[[Choice], Choice] = tuple,
) -> Iterator[Proposal]:
    """The proposals, those that repeat `seen` or each other moved to something new nearby.

    `canonical` gives the one choice that stands for all choices of the same policy (`SearchSpace.canonical`); what
    comes out is canonical, and `seen` is expected to be. A proposal around which nothing new is found is left out; its
    number stays unused. What comes out depends on the arguments alone.
    """
    taken = _Either(seen)
    for proposal in proposals:
        choice: Choice | None = canonical(proposal.choice)
        if choice in taken:
            choice = nearby(proposal.choice, taken, levels, derived_seed(seed, proposal.number), canonical)
        if choice is not None:
            taken.fresh.add(choice)
            yield Proposal(proposal.number, choice, proposal.origin)


def nearby(
    choice: Choice,
    taken: Container[Choice],
    levels: Sequence[int],
    seed: int,
    canonical: Callable[[Choice], Choice] = tuple,
) -> Choice | None:
    """A choice not taken: one variable moved by one level, then more and further; None after too many tries."""
    free = [place for place, count in enumerate(levels) if count > 1]
    if not free:
        return None
    rng = np.random.default_rng(seed)
    for attempt in range(_TRIES):
        moved = list(choice)
        reach = 1 + attempt // 10
        for place in rng.choice(free, size=min(len(free), reach), replace=False):
            step = int(rng.integers(1, reach + 1)) * (1 if rng.random() < 0.5 else -1)
            moved[place] = _reflected(moved[place] + step, levels[place])
        found = canonical(tuple(moved))
        if found not in taken:
            return found
    return None


def _reflected(level: int, count: int) -> int:
    """A level past an end comes back from it."""
    period = 2 * (count - 1)
    level %= period
    return min(level, period - level)

"""Racing: a candidate is stopped where what was seen of it says that a rival dominates it.

What a policy costs is known from the tables before it is judged. So it is dominated as soon as its quality is surely
worse than that of a rival that costs no more in anything else. The validation samples are looked at in an order drawn
at random for each policy, and after each part a test asks: could the mean loss over *all* of them still be as low as
the rival's, which is known?

**The error rate.** Take any policy whose loss over the whole validation split is no higher than its rival's. The
probability, over the order of the samples, that it is stopped at any of its looks is at most `LEVEL`. That is a rate a
policy: of a hundred policies that should have been judged to the end, at most one is lost on average. It holds for the
finite split at hand, exactly, not for a large number of samples.

Two tests, both for sampling without replacement:

* `CountRace`, where the metric counts samples (accuracy, agreement): under the hypothesis the errors seen follow a
  hypergeometric distribution, so the test is Fisher's; the level is shared among the looks (Bonferroni).
* `MeanRace`, where the metric averages any loss >= 0: Waudby-Smith and Ramdas 2024, Estimating means of bounded random
  variables by betting (J. R. Statist. Soc. B 86), section 5. A gambler bets that the next part's mean is above what is
  left under the hypothesis. His wealth is then a supermartingale, so by Ville's inequality it ever reaches 1 / level
  with probability at most the level, however often one looks. One side needs no upper end of the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

LEVEL = 0.01  # the highest probability that a policy is stopped though it is no worse than its rival
PARTS = 64  # of the samples: the first look at counts is after one; means are looked at after each
LOOKS = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56)  # parts seen at each look at counts: what saved most on ResNet-20
MIN_PART = 8  # samples of a part at least
MIN_PARTS = 4  # with fewer, nothing is saved
MAX_STAKE = 0.75  # of what a bet may lose at most

Kind: TypeAlias = Literal["counts", "means"]


@dataclass(frozen=True)
class Rules:
    """How candidates race.

    Attributes:
        kind: "counts" where the quality counts samples, "means" where it averages a loss over them.
        total: samples in the validation split.
        level: see above.
    """

    kind: Kind
    total: int
    level: float = LEVEL

    def race(self, rival: float) -> Race:
        """A race of one candidate.

        Args:
            rival: the mean loss over all samples of what it must not be worse than.
        """
        return (CountRace if self.kind == "counts" else MeanRace)(self.total, rival, self.level)


class Race(Protocol):
    """One candidate's race against a known mean loss."""

    @property
    def parts(self) -> tuple[int, ...]:
        """Samples of each part that is looked at in turn; together less than all: then the rest is judged at once."""

    def lost(self, loss: float, samples: int) -> bool:
        """Whether the candidate is surely worse, after a part with this mean loss and so many samples."""


class CountRace:
    """Fisher's test of errors counted, at few looks.

    Args:
        total: samples there are.
        rival: share of errors of the rival among all of them.
        level: of all looks together.
    """

    def __init__(self, total: int, rival: float, level: float = LEVEL) -> None:
        self._total = total
        self._allowed = min(total, max(0, round(rival * total)))
        parts: list[int] = []
        for look in LOOKS if total >= MIN_PARTS * MIN_PART else ():
            fresh = total * look // PARTS - sum(parts)
            if fresh >= MIN_PART:
                parts.append(fresh)
        self.parts = tuple(parts)
        self._level = level / max(1, len(parts))
        self._seen = self._errors = 0

    def lost(self, loss: float, samples: int) -> bool:
        """As `Race.lost`; the loss is a share of errors."""
        self._seen += samples
        self._errors += round(loss * samples)
        return upper_tail(self._errors, self._seen, self._allowed, self._total) <= self._level


class MeanRace:
    """A bet against the hypothesis, part by part.

    Args:
        total: samples there are.
        rival: mean loss of the rival over all of them.
        level: the wealth that ends the race is 1 / level.
    """

    def __init__(self, total: int, rival: float, level: float = LEVEL) -> None:
        self._total = total
        self._budget = max(0.0, rival) * total  # the sum of losses that the hypothesis allows
        part = max(MIN_PART, total // PARTS)
        self.parts = (part,) * (total // part - 1) if total // part >= MIN_PARTS else ()
        self._level = level
        self._seen, self._sum, self._wealth = 0, 0.0, 1.0
        self._means: list[float] = []

    def lost(self, loss: float, samples: int) -> bool:
        """As `Race.lost`; the loss is a mean over the part, at least 0."""
        left = (self._budget - self._sum) / (self._total - self._seen)  # mean of what is not seen, at most
        if left > 0.0:
            self._wealth *= 1.0 + self._stake(left) * (loss - left)
        self._means.append(loss)
        self._seen += samples
        self._sum += loss * samples
        certain = self._sum > self._budget * (1.0 + 1e-9) + 1e-12
        return certain or self._wealth >= 1.0 / self._level

    def _stake(self, left: float) -> float:
        """How much is bet on a mean above `left`, from what was seen before: growth of second order, section 4.4."""
        if len(self._means) < 2:
            return 0.0
        count = len(self._means)
        mean = math.fsum(self._means) / count
        spread = math.fsum((value - mean) ** 2 for value in self._means) / (count - 1) + (left / count) ** 2
        gain = mean - left
        return min(max(0.0, gain / (spread + gain * gain)), MAX_STAKE / left)


def upper_tail(errors: int, seen: int, bad: int, total: int) -> float:
    """Probability of at least `errors` errors among `seen` samples drawn from `total`, `bad` of which are errors.

    1 where they are no more than expected: nothing speaks against the hypothesis then.
    """
    if errors * total <= seen * bad:
        return 1.0
    highest = min(seen, bad)
    if errors > highest:
        return 0.0
    log_term = _log_choose(bad, errors) + _log_choose(total - bad, seen - errors) - _log_choose(total, seen)
    term, tail = math.exp(log_term), 0.0
    for count in range(errors, highest + 1):  # past the mean terms only shrink
        tail += term
        term *= (bad - count) * (seen - count) / ((count + 1) * (total - bad - seen + count + 1))
        if term < 1e-18 * tail:
            break
    return min(1.0, tail)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

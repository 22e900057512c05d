"""Local search around the front found so far: the archived evolution strategy of Knowles & Corne 2000 (PAES), with a
batch of moves a step, and members of the whole archive as their origins, those with few neighbours before others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoprune.pareto.dominance import non_dominated
from autoprune.search.samplers.sampler import SamplerSettings, Told
from autoprune.search.trial import Choice

_BATCH = 16  # an archive that is renewed often; still work for several workers
_MOST = 3  # variables that one move changes
_COUPLED = 0.5  # share of the moves that widen some variables and narrow others
_TRIES = 20  # at a move to something new


class Archive:
    """Moves of one to three variables by one level from a random member of the front: of two, the lonelier one.

    Half of the moves are coupled: what one variable gives the others take, so that a member is improved at about its
    cost. Members that violate constraints are kept only as long as there are no others: those nearest to feasible.
    """

    def __init__(self, settings: SamplerSettings) -> None:
        self._levels = settings.levels
        self._free = [place for place, count in enumerate(settings.levels) if count > 1]
        self.batch_size = settings.batch or _BATCH
        self._members: list[Told] = []  # in order of number
        self._room = np.zeros(0)  # around each member
        self._seen: set[Choice] = set()

    def ask(self, count: int, seed: int) -> list[Choice]:
        """Moves from members; random choices where there are none."""
        rng = np.random.default_rng(seed)
        found: dict[Choice, None] = {}
        repeats = []
        for _ in range(count):
            choice = self._proposal(rng)
            for _ in range(_TRIES):
                if choice not in self._seen and choice not in found:
                    break
                choice = self._proposal(rng)
            if choice in found:
                repeats.append(choice)
            found[choice] = None
        return [*found, *repeats]

    def tell(self, batch: Sequence[Told]) -> None:
        """Put into the archive what nothing dominates."""
        self._seen.update(told.choice for told in batch)
        candidates = self._members + [told for told in batch if told.values is not None]
        feasible = [told for told in candidates if _excess(told) == 0.0 and np.isfinite(_values(told)).all()]
        if not feasible:
            self._members = sorted(sorted(candidates, key=_excess)[: self.batch_size], key=lambda told: told.number)
            self._room = np.zeros(len(self._members))
            return
        unique = {told.values: told for told in reversed(feasible)}  # of equals the first
        kept = sorted(unique.values(), key=lambda told: told.number)
        front = non_dominated([_values(told) for told in kept])
        self._members = [told for told, best in zip(kept, front, strict=True) if best]
        self._room = crowding([_values(told) for told in self._members])

    def members(self) -> list[Choice]:
        """Choices in the archive."""
        return [told.choice for told in self._members]

    def _proposal(self, rng: np.random.Generator) -> Choice:
        if not self._members:
            return tuple(int(level) for level in rng.integers(0, self._levels))
        first, second = rng.integers(len(self._members), size=2)
        origin = self._members[int(first if self._room[first] >= self._room[second] else second)].choice
        count = min(len(self._free), int(rng.integers(1, _MOST + 1)))
        steps = rng.choice((-1, 1), size=count)
        if count > 1 and rng.random() < _COUPLED:
            steps[:2] = rng.permutation((-1, 1))
        moved = list(origin)
        for step in steps:
            places = [p for p in self._free if 0 <= moved[p] + step < self._levels[p] and moved[p] == origin[p]]
            if places:
                moved[places[int(rng.integers(len(places)))]] += int(step)
        return tuple(moved)


def crowding(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """How far a point's neighbours are apart, summed over objectives as shares of their range; ends have no end.

    Deb et al. 2002, section III-B.  # (n_points, n_objectives) -> (n_points,)
    """
    points = np.asarray(values, dtype=np.float64)
    room = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        room[order[[0, -1]]] = np.inf
        if span > 0:
            room[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return room


def _values(told: Told) -> tuple[float, ...]:
    return () if told.values is None else told.values


def _excess(told: Told) -> float:
    """By how much constraints are violated together."""
    return sum(max(0.0, value) for value in told.violations.values())

"""Surrogate-assisted search: evaluations are spent only where a model of the quality expects the front to move.

Costs are exact, from the tables, and free; only quality is dear. It is predicted by the damage curves, corrected by the
trials so far (`search/quality_model.py`). Each batch, many candidates - allocated by dynamic programming under the
corrected damage, moves around the front, mixtures of its members - are ranked by expected hypervolume improvement
(`search/improvement.py`), and the best few that do not stand in each other's way are proposed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.pareto.dominance import non_dominated
from autoprune.pareto.gaps import gaps
from autoprune.search.allocation import CostOf, allocate_separable, linearised, spread_places
from autoprune.search.improvement import Improvement
from autoprune.search.quality_model import MOST_TRIALS, Damage, QualityModel, Scales, select_scales
from autoprune.search.samplers.moves import crossed, drawn, moved
from autoprune.search.samplers.sampler import SamplerSettings, Told
from autoprune.search.trial import Choice

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

QUANTILES = np.array([-1.2816, -0.5244, 0.0, 0.5244, 1.2816])  # of the normal distribution, equally likely
MOVES, CROSSES, AGAIN = 384, 96, 256  # candidates a batch; the last are moves from the best of the others
ORIGINS = 16  # candidates that are moved from once more
LEAST = 96  # candidates; random ones are added to fewer
GROWTH = 1.25  # times more trials before scales and allocations are worked out anew
BASES = 4  # policies that costs are linearised around
POOL = 32  # allocations kept of each base, cost and shake
SHAKES = (0.0, 0.4)  # how much damage is perturbed, in logarithms, so that allocations differ
ALLOCATED = 3  # costs at most that policies are allocated for
USEFUL = 0.8  # of the way from the best quality to the worst: beyond, a policy is worth nothing, however fast
DP_FRONT = 128  # partial solutions kept there


def batch_size(trials: int) -> int:
    """Small, as it learns between batches; larger in long searches, where one batch more or less changes little."""
    return min(32, max(8, 4 * (trials // 160)))


def milestone(count: int) -> int:
    """The largest number of trials up to `count` at which scales and allocations are worked out."""
    found, following = 0, 4
    while following <= count:
        found, following = following, math.ceil(GROWTH * following)
    return found


@dataclass(frozen=True, eq=False)
class _Known:
    """The trials that tell something about quality, in order of number.

    Attributes:
        choices: levels.  # (n, n_variables)
        values: all objectives, finite.  # (n, n_objectives)
        feasible: whether all constraints are met.  # (n,)
    """

    choices: Integers
    values: Floats
    feasible: npt.NDArray[np.bool_]

    def take(self, places: Integers) -> _Known:
        return _Known(self.choices[places], self.values[places], self.feasible[places])

    def front(self) -> _Known:
        """The feasible trials that no other dominates."""
        places = np.flatnonzero(self.feasible)
        return self.take(places[non_dominated(self.values[places])] if len(places) else places)

    def relevant(self) -> _Known:
        """As many as a model takes: those nearest to the front, and the latest."""
        count = len(self.values)
        if count <= MOST_TRIALS:
            return self
        front = self.front().values
        scale = np.ptp(front, axis=0) + 1e-12 if len(front) else np.ones(self.values.shape[1])
        gap = gaps(self.values, front, scale)
        nearest = np.argsort(gap, kind="stable")[: 3 * MOST_TRIALS // 4]
        latest = np.setdiff1d(np.arange(count), nearest)[-(MOST_TRIALS // 4) :]
        return self.take(np.sort(np.concatenate([nearest, latest])))


@dataclass(frozen=True, eq=False)
class _Guide:
    """What is worked out at milestones only.

    Attributes:
        scales: of each modelled objective.
        pool: allocated choices.  # (n, n_variables)
    """

    scales: tuple[Scales, ...]
    pool: Integers


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Choices that the tables allow, and what is expected of them.

    Attributes:
        choices: levels.  # (n, n_variables)
        costs: all objectives but the uncertain one.  # (n, n_objectives - 1)
        quantiles: of the uncertain one.  # (n, n_quantiles)
    """

    choices: Integers
    costs: Floats
    quantiles: Floats

    def and_(self, other: _Candidates) -> _Candidates:
        return _Candidates(
            np.concatenate([self.choices, other.choices]),
            np.concatenate([self.costs, other.costs]),
            np.concatenate([self.quantiles, other.quantiles]),
        )


class Surrogate:
    """Batches chosen by expected hypervolume improvement.

    Of several evaluated objectives the first is uncertain; for the others the model's median is taken. Without a prior
    (`SamplerSettings.prior`) all objectives are modelled, from trials alone.
    """

    def __init__(self, settings: SamplerSettings) -> None:
        self._levels = settings.levels
        self._free = any(count > 1 for count in settings.levels)
        self.batch_size = settings.batch or batch_size(settings.trials)
        self._prior = prior = settings.prior
        columns = range(settings.objectives)
        self._modelled = tuple(columns) if prior is None else prior.evaluated
        self._exact = tuple(column for column in columns if column not in self._modelled)
        self._uncertain = self._modelled[0] if self._modelled else 0
        self._rest = [column for column in columns if column != self._uncertain]
        self._damage = Damage(settings.levels, None if prior is None else prior.damage)
        self._seen: set[Choice] = set()
        self._known = _Known(
            np.zeros((0, len(settings.levels)), np.int64), np.zeros((0, settings.objectives)), np.zeros(0, np.bool_)
        )
        self._guides: dict[int, _Guide] = {}  # by milestone; only the last is kept

    def tell(self, batch: Sequence[Told]) -> None:
        """Add what was found."""
        self._seen.update(told.choice for told in batch)
        new = [told for told in batch if told.values is not None and np.isfinite(told.values).all()]
        if new:
            before = self._known
            self._known = _Known(
                np.concatenate([before.choices, np.array([told.choice for told in new], dtype=np.int64)]),
                np.concatenate([before.values, np.array([told.values for told in new], dtype=np.float64)]),
                np.concatenate([before.feasible, [all(v <= 0.0 for v in told.violations.values()) for told in new]]),
            )

    def ask(self, count: int, seed: int) -> list[Choice]:
        """The candidates most likely to move the front; random choices where nothing is known at all."""
        rng = np.random.default_rng(seed)
        if not self._free:
            return [(0,) * len(self._levels)] * count
        guide = self._guide()
        models = self._models(self._known, guide.scales)
        informed = not models or models[0].informed
        if self._prior is None and not informed:
            return _choices(drawn(self._levels, count, rng))
        front = self._known.front()
        found = self._weighed(self._proposed(front, guide.pool, rng), models)
        if len(found.choices) < LEAST:
            found = found.and_(self._weighed(drawn(self._levels, MOVES, rng), models))
        improvement = self._improvement(front, found, informed)
        if len(found.choices):
            best = np.argsort(-improvement.of(found.costs, found.quantiles), kind="stable")[:ORIGINS]
            found = found.and_(self._weighed(moved(found.choices[best], self._levels, AGAIN, rng), models))
        return self._chosen(found, improvement, count, rng)

    def _guide(self) -> _Guide:
        """Depends on the trials up to a milestone alone, so a resumed run has the same."""
        count = milestone(len(self._known.values))
        if count not in self._guides:
            known = self._known.take(np.arange(count))
            some = known.relevant()
            scales = tuple(
                select_scales(self._damage, some.choices, some.values[:, column]) for column in self._modelled
            )
            self._guides = {count: _Guide(scales, self._allocated(known, scales))}
        return self._guides[count]

    def _models(self, known: _Known, scales: Sequence[Scales]) -> list[QualityModel]:
        """One of each modelled objective."""
        some = known.relevant()
        return [
            QualityModel(self._damage, some.choices, some.values[:, column], scale)
            for column, scale in zip(self._modelled, scales, strict=True)
        ]

    def _allocated(self, known: _Known, scales: Sequence[Scales]) -> Integers:
        """Choices along the predicted fronts of corrected damage against each exact cost."""
        found = [np.zeros((0, len(self._levels)), dtype=np.int64)]
        tables = self._models(known, scales)[0].tables() if self._modelled else ()
        front = known.front()
        rng = np.random.default_rng(len(known.values))
        for place, column in enumerate(self._exact[:ALLOCATED] if self._modelled else ()):
            order = np.argsort(front.values[:, column], kind="stable")
            slopes = linearised(self._cost_of(place), self._bases(front.choices[order]), tables)
            for shake in SHAKES:
                shaken = [table * math.exp(shake * rng.standard_normal()) for table in tables]
                for slope in slopes:
                    choices = allocate_separable(shaken, slope, limit=DP_FRONT)
                    found.append(choices[spread_places(len(choices), POOL)])
        return np.unique(np.concatenate(found), axis=0)

    def _bases(self, front: Integers) -> Integers:
        """Where costs are linearised: along the front, or along the uniform ratios."""
        if len(front) >= BASES:
            return np.asarray(front[spread_places(len(front), BASES)])
        ratios = np.linspace(0.2, 0.9, BASES)[:, None]
        return np.round(ratios * (np.array(self._levels) - 1)).astype(np.int64)

    def _cost_of(self, place: int) -> CostOf:
        def cost(choices: Integers) -> Floats:
            return np.zeros(len(choices)) if self._prior is None else self._prior.costs(choices)[:, place]

        return cost

    def _proposed(self, front: _Known, pool: Integers, rng: np.random.Generator) -> Integers:
        """Allocated choices, moves around the front, and mixtures of its members; each once."""
        bases = front.choices[np.argsort(front.values[:, self._uncertain], kind="stable")]
        found = [pool]
        if len(bases):
            found += [moved(bases, self._levels, MOVES, rng), crossed(bases, CROSSES, rng)]
        elif len(pool):
            found.append(moved(pool, self._levels, MOVES, rng))
        return np.unique(np.concatenate(found), axis=0)

    def _weighed(self, choices: Integers, models: Sequence[QualityModel]) -> _Candidates:
        """What is expected of those choices that the tables allow."""
        values = np.zeros((len(choices), len(self._rest) + 1))
        if self._prior is not None and len(choices):
            values[:, self._exact] = self._prior.costs(choices)
            allowed = np.isfinite(values).all(axis=1) & (self._prior.violations(choices) <= 0.0)
            choices, values = choices[allowed], values[allowed]
        for column, model in zip(self._modelled[1:], models[1:], strict=True):
            values[:, column] = model.predict(choices)
        exact = np.repeat(values[:, [self._uncertain]], len(QUANTILES), axis=1)
        quantiles = models[0].quantiles(choices, QUANTILES) if models else exact
        return _Candidates(choices, values[:, self._rest], quantiles)

    def _improvement(self, front: _Known, found: _Candidates, informed: bool) -> Improvement:
        """What the front leaves to be gained; all of it before the model knows the objective's unit."""
        values, costs = front.values[:, self._uncertain], front.values[:, self._rest]
        if not informed:
            values, costs = values[:0], costs[:0]
        seen = self._known.values[:, self._uncertain] if len(values) else found.quantiles.reshape(-1)
        limit = float(seen.min() + USEFUL * np.ptp(seen)) if len(seen) else 0.0
        every = np.concatenate([costs, found.costs])
        bounds = np.stack([every.min(axis=0), every.max(axis=0)]) if len(every) else np.zeros((2, every.shape[1]))
        return Improvement(costs, values, limit, bounds)

    def _chosen(
        self, found: _Candidates, improvement: Improvement, count: int, rng: np.random.Generator
    ) -> list[Choice]:
        """The batch: new policies that add most to each other; if too few, the least bad, then random ones."""
        wanted: dict[Choice, None] = {}

        def take(place: int) -> bool:
            choice: Choice = tuple(map(int, found.choices[place]))
            choice = choice if self._prior is None else self._prior.canonical(choice)
            fresh = choice not in self._seen and choice not in wanted
            if fresh:
                wanted[choice] = None
            return fresh

        improvement.choose(found.costs, found.quantiles, count, take)
        for place in np.argsort(found.quantiles[:, 0], kind="stable").tolist():
            if len(wanted) >= count:
                break
            take(place)
        return list(wanted) + _choices(drawn(self._levels, count - len(wanted), rng))


def _choices(rows: Integers) -> list[Choice]:
    return [tuple(map(int, row)) for row in rows]

"""A search problem of a network's size, in which damage does not add up: what the damage curves do not know decides."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import Failure
from autoprune.graph.policy import SparsityPolicy
from autoprune.pipeline.seeds import make_seeds
from autoprune.search.damage import DamageCurves, damage_curves
from autoprune.search.executors import open_executor
from autoprune.search.objectives import Bound, Objective, parse_bounds, parse_objectives
from autoprune.search.prior import make_prior
from autoprune.search.space import SearchSpace, Variable
from autoprune.search.study import StudySettings, Trial, run_search
from tests.search.jobs import Judgement
from tests.search.synthetic import SyntheticTask

Floats = npt.NDArray[np.float64]

BEST, WORST = 0.06, 0.9  # error of the dense model, and of guessing
SPREAD = 0.3  # of the dense model's cost does not depend on widths


@dataclass(frozen=True, eq=False)
class Landscape:
    """Quality in closed form.

    Attributes:
        weights, powers: of each variable: cutting the share c alone raises the loss by weight * c^power.
        pairs: variables that make each other's damage worse (or, below 0, better).  # (n_variables, n_variables)
        noise: standard deviation of a measured error.
        curve_noise: the same of a measured loss, as a share of it.
    """

    names: tuple[str, ...]
    width: int
    weights: Floats
    powers: Floats
    pairs: Floats
    noise: float = 0.002
    curve_noise: float = 0.05

    def rise(self, policy: Mapping[str, int]) -> float:
        """Of the loss; a saturating function of it is the error."""
        cut = np.array([1.0 - policy[name] / self.width for name in self.names])
        alone = self.weights * cut**self.powers
        together = float(np.sqrt(alone) @ self.pairs @ np.sqrt(alone))
        return max(0.0, float(alone.sum()) + together)

    def error(self, policy: Mapping[str, int]) -> float:
        """Without noise."""
        return BEST + (WORST - BEST) * (1.0 - np.exp(-self.rise(policy)))

    def evaluate(self, policy: Mapping[str, int], number: int) -> Judgement | Failure:
        """The job of a search: the same noise whenever a policy is evaluated."""
        error = self.error(policy) + self.noise * self._draw(policy)
        return Judgement(error, {"accuracy": 1.0 - error}, 0.0)

    def losses(self, policies: Sequence[SparsityPolicy]) -> list[float | Failure]:
        """What damage curves are measured by."""
        return [0.2 + self.rise(policy) * (1.0 + self.curve_noise * self._draw(policy)) for policy in policies]

    def _draw(self, policy: Mapping[str, int]) -> float:
        key = zlib.crc32(" ".join(str(policy[name]) for name in self.names).encode())
        return float(np.random.default_rng(key).standard_normal())


class ChainedCosts:
    """Each layer costs its input width times its output width, with a staircase; beside it a part that stays.

    `latency_p50` in us; `size` is the same without the staircase, at other prices.
    """

    def __init__(self, space: SearchSpace, prices: Floats, sizes: Floats, width: int) -> None:
        self._space, self._prices, self._sizes, self._width = space, prices, sizes, width

    def values(self, objectives: Sequence[Objective], choices: npt.ArrayLike) -> Floats:
        """As `Costs.values`."""
        widths = self._space.group_widths(choices) / self._width
        ends = np.ones((len(widths), 1))
        left, right = np.concatenate([ends, widths], axis=1), np.concatenate([widths, ends], axis=1)
        stepped = np.ceil(4 * left) / 4 * right
        columns = {
            "latency_p50": 1000.0 * (SPREAD + (1.0 - SPREAD) * stepped @ self._prices / self._prices.sum()),
            "size": 1e6 * (left * right) @ self._sizes / self._sizes.sum(),
        }
        return np.stack([columns[objective.kind] for objective in objectives], axis=1)


@dataclass(frozen=True, eq=False)
class LandscapeProblem:
    """As `SearchProblem`."""

    space: SearchSpace
    objectives: tuple[Objective, ...]
    bounds: tuple[Bound, ...]
    costs: ChainedCosts
    task: SyntheticTask
    landscape: Landscape

    def curves(self, points: int = 3) -> DamageCurves:
        """Measured one variable at a time, so blind for what they do together."""
        return damage_curves(self.space, self.landscape.losses, points)


def landscape_problem(
    variables: int = 20,
    levels: int = 8,
    *,
    seed: int = 0,
    coupling: float = 0.6,
    steepness: float = 8.0,
    objectives: Sequence[str] = ("error", "latency_p50"),
    constraints: Sequence[str] = (),
) -> LandscapeProblem:
    """A network of `variables` layers in a chain.

    Args:
        variables: layers.
        levels: widths of each.
        seed: draws sensitivities, interactions and prices.
        coupling: how much of the damage comes from interactions: as much again as the curves say, times this.
        steepness: rise of the loss where everything is cut; at 3 a model is as good as guessing.
        objectives, constraints: as a user names them.
    """
    rng = np.random.default_rng(seed)
    names = tuple(f"g{i}" for i in range(variables))
    space = SearchSpace(
        "landscape",
        dict.fromkeys(names, levels),
        tuple(Variable(name, (name,), tuple((width,) for width in range(1, levels + 1))) for name in names),
    )
    weights = rng.lognormal(0.0, 1.2, variables)
    weights *= steepness / weights.sum()
    strength = rng.lognormal(0.0, 1.0, (variables, variables)) * rng.choice((1.0, -0.4), (variables, variables))
    near = np.abs(np.subtract.outer(np.arange(variables), np.arange(variables))) == 1
    strength *= np.where(near, 1.0, rng.random((variables, variables)) < 0.1)
    pairs = (strength + strength.T) * (1.0 - np.eye(variables))
    pairs *= coupling / max(np.abs(pairs).sum(axis=1).mean(), 1e-12)
    landscape = Landscape(names, levels, weights, rng.uniform(1.5, 3.0, variables), pairs)
    prices, sizes = rng.lognormal(0.0, 0.7, variables + 1), rng.lognormal(0.0, 0.7, variables + 1)
    return LandscapeProblem(
        space,
        parse_objectives(objectives, ["error"], ["cpu"]),
        parse_bounds(constraints, ["error", "accuracy"], ["cpu"]),
        ChainedCosts(space, prices, sizes, levels),
        SyntheticTask(),
        landscape,
    )


def search(
    problem: LandscapeProblem, folder: Path, trials: int = 40, sampler: str = "surrogate", planned: int | None = None
) -> tuple[Trial, ...]:
    """Seeds, as many as for `planned` trials, and prior from damage curves, as a run has them."""
    curves = problem.curves()
    wanted: Any = SimpleNamespace(trials=planned or trials, seed=0)
    posed: Any = problem
    with open_executor(problem.landscape) as executor:
        return run_search(
            posed,
            executor,
            StudySettings(trials=trials, sampler=sampler),
            seeds=make_seeds(posed, curves, wanted),
            folder=folder,
            evaluate=Landscape.evaluate,
            prior=make_prior(posed, curves),
        )

"""What is known of a search's policies before any of them is evaluated, as samplers may use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError
from autoprune.search.trial import Choice

if TYPE_CHECKING:
    from autoprune.search.damage import DamageCurves
    from autoprune.search.judge import SearchProblem

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Prior:
    """Damage curves and tables, for choices as arrays of levels (n, n_variables).

    Attributes:
        evaluated: columns of the objectives that only evaluation tells; ascending.
        costs: the other objectives, in order.  # (n, n_variables) -> (n, n_objectives - n_evaluated)
        violations: what the bounds on table-side quantities are violated by together, 0 where all are met; NaN or
            infinite where the tables cannot say.  # (n, n_variables) -> (n,)
        damage: per variable, the rise of the loss at each level; None where it was not measured.
        canonical: the one choice that stands for all choices of the same policy.
    """

    evaluated: tuple[int, ...]
    costs: Callable[[Integers], Floats]
    violations: Callable[[Integers], Floats]
    damage: tuple[Floats, ...] | None = None
    canonical: Callable[[Choice], Choice] = tuple

    def check(self, levels: tuple[int, ...], objectives: int) -> None:
        """Whether it is of a problem with these levels and so many objectives.

        Raises:
            InputError: it is not.
        """
        if self.damage is not None and tuple(map(len, self.damage)) != levels:
            raise InputError(
                f"prior: expected damage at {levels} levels, got {tuple(map(len, self.damage))}. Measure the damage "
                "curves of this search space."
            )
        if any(not 0 <= column < objectives for column in self.evaluated):
            raise InputError(f"prior: expected evaluated columns of {objectives} objectives, got {self.evaluated}.")


def make_prior(problem: SearchProblem, curves: DamageCurves | None = None) -> Prior:
    """What tables, bounds and (where they were measured) damage curves say of a problem."""
    objectives, bounds = problem.objectives, [bound for bound in problem.bounds if not bound.objective.evaluated]
    told = tuple(objective for objective in objectives if not objective.evaluated)
    limited = tuple(bound.objective for bound in bounds)

    def costs(choices: Integers) -> Floats:
        return problem.costs.values(told, choices) if told else np.zeros((len(choices), 0))

    def violations(choices: Integers) -> Floats:
        total = np.zeros(len(choices))
        values = problem.costs.values(limited, choices) if limited else np.zeros((len(choices), 0))
        for bound, column in zip(bounds, values.T, strict=True):
            total += np.maximum(bound.violation(column), 0.0)
        return total

    return Prior(
        evaluated=tuple(place for place, objective in enumerate(objectives) if objective.evaluated),
        costs=costs,
        violations=violations,
        damage=None if curves is None else curves.tables,
        canonical=problem.space.canonical,
    )

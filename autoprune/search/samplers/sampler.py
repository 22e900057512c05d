"""What a sampler is: it is asked for a batch of choices, and told what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from autoprune.core.errors import InputError
from autoprune.core.registry import Registry
from autoprune.search.prior import Prior
from autoprune.search.trial import Choice


@dataclass(frozen=True)
class SamplerSettings:
    """The problem as a sampler sees it.

    Attributes:
        levels: number of levels of each variable; a choice is one of 0..levels-1 for each.
        objectives: how many; all are minimised.
        trials: how many evaluations are planned.
        batch: proposals a batch, where it is given; otherwise the sampler decides.
        prior: what damage curves and tables say, for samplers that use it.

    Raises:
        InputError: no objective, no trial, a variable without levels, or the prior of another problem.
    """

    levels: tuple[int, ...]
    objectives: int
    trials: int
    batch: int | None = None
    prior: Prior | None = None

    def __post_init__(self) -> None:
        if any(count < 1 for count in self.levels):
            raise InputError(f"sampler: expected at least one level a variable, got {self.levels}.")
        for name in ("objectives", "trials"):
            if getattr(self, name) < 1:
                raise InputError(f"sampler: expected {name} >= 1, got {getattr(self, name)}.")
        if self.batch is not None and self.batch < 2:
            raise InputError(f"sampler: expected a batch of at least 2, got {self.batch}.")
        if self.prior is not None:
            self.prior.check(self.levels, self.objectives)


@dataclass(frozen=True)
class Told:
    """What came of one proposal.

    Attributes:
        number: the trial's number.
        choice: as proposed.
        values: the objectives, minimised, inf where not known since it was infeasible; None where it failed.
        violations: by constraint, in units of its bound; above 0 is violated. Empty without constraints.
    """

    number: int
    choice: Choice
    values: tuple[float, ...] | None
    violations: dict[str, float]


class Sampler(Protocol):
    """Proposes choices. Its proposals depend on what it was told and the seed alone."""

    batch_size: int  # how many are asked for at a time; the number of workers has no part in it

    def ask(self, count: int, seed: int) -> list[Choice]:
        """`count` choices. Changes nothing: asked twice, it answers the same."""
        ...

    def tell(self, batch: Sequence[Told]) -> None:
        """What came of the last batch, in order of number."""
        ...


SamplerFactory: TypeAlias = Callable[[SamplerSettings], Sampler]

SAMPLERS: Registry[SamplerFactory] = Registry(
    "sampler",
    "autoprune.samplers",
    {
        "archive": "autoprune.search.samplers.archive:Archive",
        "nsga2": "autoprune.search.samplers.nsga2:Nsga2",
        "nsga3": "autoprune.search.samplers.nsga3:Nsga3",
        "random": "autoprune.search.samplers.random:Random",
        "surrogate": "autoprune.search.samplers.surrogate:Surrogate",
        "tpe": "autoprune.search.samplers.tpe:Tpe",
    },
)

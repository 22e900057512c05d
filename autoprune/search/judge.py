"""What tables and evaluations say of a policy: as records to store, and as trials to return."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import Failure
from autoprune.pareto.dominance import non_dominated
from autoprune.search.proposals import Proposal
from autoprune.search.samplers import Told
from autoprune.search.storage import Record
from autoprune.search.trial import Trial

if TYPE_CHECKING:
    from autoprune.search.objectives import Bound, Objective
    from autoprune.search.space import SearchSpace
    from autoprune.tuning.task import Task

Floats: TypeAlias = npt.NDArray[np.float64]


class Tables(Protocol):
    """What is known of policies without evaluating them."""

    def values(self, objectives: Sequence[Objective], choices: npt.ArrayLike) -> Floats:
        """Values of objectives that are not `evaluated`, for choices (n, n_variables).  # (n, n_objectives)"""
        ...


class SearchProblem(Protocol):
    """What is searched."""

    @property
    def space(self) -> SearchSpace:
        """The policies."""
        ...

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is minimised."""
        ...

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """What must be met. Those that tables tell are checked before a policy is evaluated."""
        ...

    @property
    def costs(self) -> Tables:
        """The tables."""
        ...

    @property
    def task(self) -> Task:
        """Tells how evaluated objectives are minimised (`quality`, `minimize`)."""
        ...


class Judge:
    """What tables and evaluations say, as records, and records as trials."""

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._names = tuple(objective.name for objective in problem.objectives)
        self._told = tuple(objective for objective in problem.objectives if not objective.evaluated)
        self._checked = tuple(bound for bound in problem.bounds if not bound.objective.evaluated)
        self._costs: dict[int, dict[str, float]] = {}  # trial number -> objective -> what the tables say
        self._violations: dict[int, dict[str, float]] = {}  # trial number -> constraint -> what the tables say
        self._raced = _raced(problem)
        self._standing: Floats = np.zeros((0, len(self._names)))  # settled and not dominated; of races alone

    def check(self, proposals: Sequence[Proposal]) -> list[dict[str, float] | Failure]:
        """Violations of each proposal by constraint, from the tables alone; a `Failure` where the tables cannot say."""
        wanted = tuple(dict.fromkeys((*self._told, *(bound.objective for bound in self._checked))))
        choices = np.array([proposal.choice for proposal in proposals], dtype=np.int64)
        values = self._problem.costs.values(wanted, choices) if wanted else np.zeros((len(proposals), 0))
        found: list[dict[str, float] | Failure] = []
        for proposal, row in zip(proposals, values, strict=True):
            known = {objective.name: float(value) for objective, value in zip(wanted, row, strict=True)}
            self._costs[proposal.number] = {objective.name: known[objective.name] for objective in self._told}
            unknown = [name for name, value in known.items() if not math.isfinite(value)]
            if unknown:
                message = f"{unknown[0]} is {known[unknown[0]]} for this policy"
                found.append(Failure("tables", message, "the profile cannot say what it costs"))
            else:
                violated = {str(b): _violation(b, known[b.objective.name]) for b in self._checked}
                self._violations[proposal.number] = violated
                found.append(violated)
        return found

    def settle(self, records: Iterable[Record]) -> None:
        """What a finished batch found: policies that are proposed from now on race against it."""
        rows = [record.values for record in records if record.sound and record.values is not None]
        if rows and self._raced is not None:
            together = np.concatenate([self._standing, np.array(rows)])
            self._standing = together[non_dominated(together)]  # whoever is dominated is nobody's best rival

    def rivals(self, proposals: Sequence[Proposal]) -> list[float | None]:
        """For each checked proposal the best quality among settled policies that cost no more in anything else.

        None where no policy is as cheap, and for all where the task's quality is not all that evaluation tells.
        """
        if self._raced is None or not len(self._standing):
            return [None] * len(proposals)
        costs, quality = np.delete(self._standing, self._raced, axis=1), self._standing[:, self._raced]
        found: list[float | None] = []
        for proposal in proposals:
            own = [self._costs[proposal.number][objective.name] for objective in self._told]
            cheaper = quality[(costs <= own).all(axis=1)]
            found.append(float(cheaper.min()) if len(cheaper) else None)
        return found

    def refused(self, batch: int, proposal: Proposal, reason: dict[str, float] | Failure) -> Record:
        """The record of a policy that is not evaluated: what evaluation would tell counts as infinitely bad."""
        failure = reason if isinstance(reason, Failure) else None
        costs = self._costs[proposal.number]
        values = None if failure else tuple(costs.get(name, math.inf) for name in self._names)
        violations = {} if isinstance(reason, Failure) else reason
        place = (proposal.number, batch, proposal.choice, proposal.origin)
        return Record(*place, values, violations, evaluated=False, failure=failure)

    def judged(self, batch: int, proposal: Proposal, result: Any) -> Record:
        """The record of an evaluation or its failure."""
        place = (proposal.number, batch, proposal.choice, proposal.origin)
        found = _objectives(result, self._problem)
        if isinstance(found, Failure):
            return Record(*place, None, {}, evaluated=True, failure=found)
        known = {**self._costs[proposal.number], **found}
        late = {
            str(bound): _violation(bound, bound.objective.of(result, self._problem.task))
            for bound in self._problem.bounds
            if bound.objective.evaluated
        }
        return Record(
            *place,
            values=tuple(known[name] for name in self._names),
            violations={**self._violations[proposal.number], **late},
            evaluated=True,
            metrics=dict(result.metrics),
            seconds=result.seconds,
            raced_out=result.raced_out,
        )

    def told(self, record: Record) -> Told:
        """As samplers hear it."""
        return Told(record.number, record.choice, record.values, record.violations)

    def trial(self, record: Record) -> Trial:
        """As the search returns it."""
        values = record.values or tuple(self._costs.get(record.number, {}).get(name, math.inf) for name in self._names)
        violation = sum(max(value, 0.0) for value in record.violations.values())
        return Trial(
            number=record.number,
            policy=self._problem.space.policy(record.choice),
            choice=record.choice,
            objectives={n: v for n, v in zip(self._names, values, strict=True) if math.isfinite(v)},
            metrics=dict(record.metrics),
            feasible=record.failure is None and violation <= 0.0,
            violation=violation,
            origin=record.origin,
            seconds=record.seconds,
            evaluated=record.evaluated,
            raced_out=record.raced_out,
            failure=record.failure,
        )


def _raced(problem: SearchProblem) -> int | None:
    """Place of the objective that policies race by: the task's quality, where evaluation tells nothing else."""
    evaluated = [place for place, objective in enumerate(problem.objectives) if objective.evaluated]
    late = any(bound.objective.evaluated for bound in problem.bounds)
    alone = len(evaluated) == 1 and problem.objectives[evaluated[0]].kind == problem.task.quality
    return evaluated[0] if alone and not late else None


def _objectives(result: Any, problem: SearchProblem) -> dict[str, float] | Failure:
    """Evaluated objectives by name; a `Failure` where one of them is no finite number."""
    if isinstance(result, Failure):
        return result
    found = {o.name: float(o.of(result, problem.task)) for o in problem.objectives if o.evaluated}
    for name, value in found.items():
        if not math.isfinite(value):
            return Failure("not finite", f"{name} is {value}")
    return found


def _violation(bound: Bound, value: float) -> float:
    return float(bound.violation(np.array([value]))[0])

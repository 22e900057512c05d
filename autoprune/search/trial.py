"""What a search proposes and what it finds out about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from autoprune.core.errors import Failure

if TYPE_CHECKING:
    from autoprune.graph.policy import SparsityPolicy

Choice: TypeAlias = tuple[int, ...]  # one level a variable of the search space
Origin: TypeAlias = Literal["dense", "uniform", "allocation", "sampler"]


@dataclass(frozen=True)
class Seed:
    """A policy that the search starts from.

    Attributes:
        policy: in the search space.
        origin: where it comes from.
    """

    policy: SparsityPolicy
    origin: Origin


@dataclass(frozen=True)
class Trial:
    """One policy of a search.

    Attributes:
        number: its place in the sequence of proposals, from 0; gaps are proposals that repeated a policy.
        policy: group id -> kept units.
        choice: the same as levels of the search space's variables.
        objectives: name -> value, minimised. Those from tables are always there; the evaluated ones only after a
            successful evaluation.
        metrics: what else the evaluation measured.
        feasible: whether it meets all constraints, and was evaluated without failure.
        violation: sum over constraints of how far it is past each, in units of the bound; 0 where all are met.
        origin: a seed ("dense", "uniform", "allocation"), or "sampler".
        evaluated: whether it was evaluated, be it without success; not where tables already exclude it.
        seconds: that the evaluation took; 0 where there was none.
        failure: why the evaluation failed, or None.
        raced_out: samples looked at when it was stopped as surely dominated (its quality is an estimate from them); 0
            where it was judged on all.
    """

    number: int
    policy: SparsityPolicy
    choice: Choice
    objectives: dict[str, float]
    metrics: dict[str, float]
    feasible: bool
    violation: float
    origin: Origin
    evaluated: bool
    seconds: float = field(compare=False)
    failure: Failure | None = None
    raced_out: int = 0

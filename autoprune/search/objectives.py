"""Objectives and constraints by name, and what the tables say about them before anything is evaluated.

| name | unit | from |
|---|---|---|
| `error`, or a metric of the task | as the task defines it | evaluation |
| `latency_p50` .. `latency_p99`, `@profile` | us | latency table |
| `energy`, `@profile` | uJ | latency table, where the profile has it |
| `throughput`, `@profile` | samples/s | the profile's batch over its `latency_p50`; for constraints |
| `size`, `peak_memory` | bytes | graph |
| `macs`, `params` | count | graph |

All objectives are minimised. With several profiles a bare `latency_p50` stands for the latency on each of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError, unknown_name
from autoprune.graph.dimension import Batch
from autoprune.graph.fusion import kernel_slots
from autoprune.hardware.cost import weight_bytes
from autoprune.hardware.memory import peak_memory_bytes
from autoprune.pareto.columns import column, format_quantity
from autoprune.pareto.selection import Constraint, parse_constraint

if TYPE_CHECKING:
    from autoprune.graph.graph import DependencyGraph
    from autoprune.search.evaluation import Evaluation
    from autoprune.search.space import SearchSpace
    from autoprune.tuning.task import Task

Floats: TypeAlias = npt.NDArray[np.float64]

PERCENTILES = ("p50", "p90", "p95", "p99")
THROUGHPUT = "throughput"
OF_PROFILE = (*(f"latency_{percentile}" for percentile in PERCENTILES), "energy", THROUGHPUT)
OF_GRAPH = ("size", "peak_memory", "macs", "params")


class Table(Protocol):
    """What is asked of a latency table."""

    def latency_us(self, widths: npt.NDArray[np.int64]) -> Mapping[str, Floats]:
        """Percentile -> latency (n,) for widths (n, n_groups)."""
        ...

    def energy_uj(self, widths: npt.NDArray[np.int64]) -> Floats:
        """Energy of one run (n,) for widths (n, n_groups); InputError where the profile has none."""
        ...


@dataclass(frozen=True)
class Objective:
    """One quantity to minimise or to bound.

    Attributes:
        name: `error`, `latency_p50`, `latency_p50@phone`, `size`, ...; the suffix only with several profiles.
        kind: the name without the suffix.
        profile: which profile tells it; None for what no profile decides.
        evaluated: True where only evaluation tells it, False where the tables do.
    """

    name: str
    kind: str
    profile: str | None = None
    evaluated: bool = False

    @property
    def column(self) -> str:
        """The column that holds it (`latency_p50_us@phone`, `size_bytes`)."""
        return column(self.name)

    def of(self, evaluation: Evaluation, task: Task) -> float:
        """The minimised value that an evaluation gives it; for `evaluated` objectives."""
        return evaluation.value if self.kind == task.quality else self.judged(evaluation.metrics, task)

    def judged(self, metrics: Mapping[str, float], task: Task) -> float:
        """The minimised value that the task's metrics give it; for `evaluated` objectives."""
        if self.kind == task.quality:
            return task.objective(metrics)
        value = metrics[self.kind]
        return value if self.kind in task.minimize else -value


@dataclass(frozen=True)
class Bound:
    """A constraint on one objective.

    Attributes:
        constraint: the comparison, its value in the objective's unit.
        objective: what it bounds.
    """

    constraint: Constraint
    objective: Objective

    def __str__(self) -> str:
        return str(replace(self.constraint, metric=self.objective.name))

    def violation(self, values: Floats) -> Floats:
        """How far values are past the bound, in units of the bound; at most 0 where it is met.  # (n,)"""
        limit, op = self.constraint.value, self.constraint.op
        over = (values - limit if op[0] == "<" else limit - values) / (abs(limit) or 1.0)
        strict = np.where(over == 0.0, np.spacing(1.0), over) if op in ("<", ">") else over
        return np.where(np.isnan(strict), np.inf, strict)


def known_objectives(qualities: Iterable[str], profiles: Collection[str]) -> tuple[str, ...]:
    """All names an objective or constraint may have."""
    suffixed = tuple(f"{name}@{profile}" for name in OF_PROFILE for profile in profiles) if len(profiles) > 1 else ()
    return (*dict.fromkeys(qualities), *OF_PROFILE, *suffixed, *OF_GRAPH)


def parse_objective(name: str, qualities: Sequence[str], profiles: Sequence[str]) -> tuple[Objective, ...]:
    """The objective(s) that a name stands for: several where it speaks of each of several profiles.

    Args:
        name: as the user wrote it.
        qualities: what evaluation tells: the task's quality objective and its metrics.
        profiles: names of the hardware profiles of the search.

    Raises:
        InputError: unknown name or profile; lists the known ones.
    """
    if name in qualities:
        return (Objective(name, name, evaluated=True),)
    kind, at, profile = name.partition("@")
    if kind in OF_GRAPH and not at:
        return (Objective(kind, kind),)
    if kind not in OF_PROFILE:
        raise unknown_name("objective", name, known_objectives(qualities, profiles))
    if at and profile not in profiles:
        raise unknown_name("profile in objective " + repr(name) + ":", profile, profiles)
    if not profiles:
        raise InputError(f"objective '{name}': expected a hardware profile to tell it, got none. Pass profiles=[...].")
    chosen = [profile] if at else profiles
    suffix = len(profiles) > 1
    return tuple(Objective(f"{kind}@{one}" if suffix else kind, kind, one) for one in chosen)


def parse_objectives(names: Sequence[str], qualities: Sequence[str], profiles: Sequence[str]) -> tuple[Objective, ...]:
    """All objectives of a search, each once; see `parse_objective`.

    Raises:
        InputError: no names, or one that is unknown.
    """
    if not names:
        raise InputError("objectives: expected at least one, got none.")
    found = [objective for name in names for objective in parse_objective(name, qualities, profiles)]
    if any(objective.kind == THROUGHPUT for objective in found):
        raise InputError(
            "objective 'throughput': expected something to minimise. Minimise latency_p50 instead, which orders "
            "policies the same way, or bound the throughput: constraints: ['throughput >= 200']."
        )
    return tuple(dict.fromkeys(found))


def parse_bounds(texts: Sequence[str], qualities: Sequence[str], profiles: Sequence[str]) -> tuple[Bound, ...]:
    """All constraints of a search (`latency_p99 <= 8ms`); without `@profile` a latency is bounded on every profile.

    Raises:
        InputError: a text that is no single comparison, or speaks of something unknown.
    """
    constraints = [parse_constraint(text) for text in texts]
    return tuple(
        Bound(constraint, objective)
        for constraint in constraints
        for objective in parse_objective(constraint.metric, qualities, profiles)
    )


class Costs:
    """What graph and tables say about many policies of a space at once.

    Args:
        graph: the traced model.
        space: whose choices are asked about.
        tables: profile name -> its latency table for this graph.
        batch: what MACs and peak memory are counted at; the largest of the tables' profiles where None.
    """

    def __init__(
        self, graph: DependencyGraph, space: SearchSpace, tables: Mapping[str, Table], batch: int | None = None
    ) -> None:
        self.graph = graph
        self.space = space
        self.tables = dict(tables)
        self.batch = batch or max((_batch_of(table) for table in self.tables.values()), default=1)
        self._slots = kernel_slots(graph.program)

    def values(self, objectives: Sequence[Objective], choices: npt.ArrayLike) -> Floats:
        """Values of table-side objectives.

        Args:
            objectives: none of them `evaluated`.
            choices: levels.  # (n, n_variables)

        Returns:
            Values, minimised (but a throughput), in us, bytes, uJ, samples/s or counts.  # (n, n_objectives)

        Raises:
            InputError: an objective that only evaluation tells, or that the profile has no data for.
        """
        widths = self.space.group_widths(choices)
        latency: dict[str, Mapping[str, Floats]] = {}
        found = np.empty((len(widths), len(objectives)))
        for place, objective in enumerate(objectives):
            if objective.kind.startswith("latency_") and objective.profile is not None:
                if objective.profile not in latency:
                    latency[objective.profile] = self._table(objective.profile).latency_us(widths)
                found[:, place] = latency[objective.profile][objective.kind.removeprefix("latency_")]
            else:
                found[:, place] = self._other(objective, widths)
        return found

    def violations(self, bounds: Sequence[Bound], choices: npt.ArrayLike) -> Floats:
        """The sum of what each table-side bound is violated by; 0 where all are met.  # (n,)"""
        checked = [bound for bound in bounds if not bound.objective.evaluated]
        values = self.values([bound.objective for bound in checked], choices)
        total = np.zeros(len(values))
        for place, bound in enumerate(checked):
            total += np.maximum(bound.violation(values[:, place]), 0.0)
        return total

    def _table(self, profile: str) -> Table:
        if profile not in self.tables:
            raise unknown_name("profile", profile, self.tables)
        return self.tables[profile]

    def _other(self, objective: Objective, widths: npt.NDArray[np.int64]) -> npt.ArrayLike:
        by_group: dict[str, Any] = {group: widths[:, place] for place, group in enumerate(self.space.groups)}
        by_group[Batch.KEY] = self.batch
        match objective.kind:
            case "macs":
                return _floats(self.graph.macs(by_group))
            case "params":
                return _floats(self.graph.parameter_count(by_group))
            case "size":
                return _floats(weight_bytes(self.graph.program, by_group))
            case "peak_memory":
                return _floats(peak_memory_bytes(self.graph.program, by_group, self._slots))
            case "energy" if objective.profile is not None:
                return _floats(self._table(objective.profile).energy_uj(widths))
            case "throughput" if objective.profile is not None:
                table = self._table(objective.profile)
                return _batch_of(table) * 1e6 / np.maximum(table.latency_us(widths)["p50"], 1e-9)
        raise InputError(f"objective '{objective.name}': only evaluation tells it; the tables do not.")


def nearest_reachable(costs: Costs, bound: Bound) -> float:
    """The value nearest to meeting a table-side bound that coordinate descent finds in the space.

    Descends from the narrowest, the dense and a middle policy, one variable at a time over all its levels, until
    nothing improves. Exact where the variables do not interact; otherwise a reachable value, if not always the last.
    """
    sign = 1.0 if bound.constraint.op[0] == "<" else -1.0

    def score(choices: npt.NDArray[np.int64]) -> Floats:
        return sign * costs.values([bound.objective], choices)[:, 0]

    return sign * min(_descend(score, start, costs.space.levels)[1] for start in _starts(costs.space))


def check_reachable(costs: Costs, bounds: Sequence[Bound]) -> None:
    """Whether some policy of the space meets all table-side bounds.

    Raises:
        InputError: names the nearest reachable value of a bound that nothing meets, or the bounds that exclude each
            other.
    """
    checked = [bound for bound in bounds if not bound.objective.evaluated]
    for bound in checked:
        value = nearest_reachable(costs, bound)
        if bound.violation(np.array([value]))[0] > 0.0:
            wider = ", or let the space go narrower (`minimum`, `freeze`)" if bound.constraint.op[0] == "<" else ""
            raise InputError(
                f"constraint '{bound}': no policy of search space '{costs.space.name}' meets it; the nearest reachable "
                f"{bound.objective.name} is {format_quantity(bound.objective.name, value)}. Relax the constraint"
                f"{wider}."
            )
    if len(checked) > 1:
        _check_together(costs, checked)


def _check_together(costs: Costs, bounds: Sequence[Bound]) -> None:
    def score(choices: npt.NDArray[np.int64]) -> Floats:
        return costs.violations(bounds, choices)

    best = min((_descend(score, start, costs.space.levels) for start in _starts(costs.space)), key=lambda item: item[1])
    if best[1] > 0.0:
        values = costs.values([bound.objective for bound in bounds], [best[0]])[0]
        got = ", ".join(
            f"{bound.objective.name} = {format_quantity(bound.objective.name, float(value))}"
            for bound, value in zip(bounds, values, strict=True)
        )
        wanted = ", ".join(f"'{bound}'" for bound in bounds)
        raise InputError(
            f"constraints {wanted}: no policy found that meets all; the nearest has {got}. Relax one of them."
        )


def _starts(space: SearchSpace) -> list[tuple[int, ...]]:
    return [space.narrowest, space.dense, space.uniform(0.5)]


class _Score(Protocol):
    def __call__(self, choices: npt.NDArray[np.int64], /) -> Floats: ...


def _descend(
    score: _Score, start: Sequence[int], levels: Sequence[int], sweeps: int = 6
) -> tuple[tuple[int, ...], float]:
    """The best choice that minimising one variable at a time leads to, and its score."""
    choice = np.array(start, dtype=np.int64)
    best = float(score(choice[None])[0])
    for _ in range(sweeps):
        before = best
        for variable, count in enumerate(levels):
            options = np.repeat(choice[None], count, axis=0)
            options[:, variable] = np.arange(count)
            scores = score(options)
            place = int(np.nanargmin(scores)) if np.isfinite(scores).any() else int(choice[variable])
            if scores[place] < best:
                choice, best = options[place], float(scores[place])
        if best >= before:
            break
    return tuple(int(level) for level in choice), best


def _batch_of(table: Table) -> int:
    return int(getattr(getattr(table, "profile", None), "batch", 1))


def _floats(values: npt.ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)

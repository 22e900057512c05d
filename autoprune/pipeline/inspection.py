"""What of a model can be pruned, what cannot and why, and what that can gain, before a search."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError
from autoprune.graph.dimension import dense_size, groups_of, size
from autoprune.graph.graph import DependencyGraph
from autoprune.graph.policy import SparsityPolicy
from autoprune.hardware.latency import LatencyTable
from autoprune.hardware.profile import HardwareProfile
from autoprune.pipeline.inspection_text import summary
from autoprune.pipeline.problem import load_profiles, profile_notes
from autoprune.search.allocation import allocate
from autoprune.search.objectives import Costs, parse_objective
from autoprune.search.space import AUTO, SearchSpace
from autoprune.search.traits import default_space, traits

SCHEMA = "autoprune.inspection/1"
MOSTLY_FROZEN = 0.5  # share of prunable parameters below which there is a warning
HOLDING = 0.05  # share of the parameters that an operator without a rule must lock for a warning
NOT_FASTER = 1.1  # a speed-up below this is none

_OPERATOR = re.compile(r"\baten\.\w+(?:\.\w+)?")


@dataclass(frozen=True)
class InspectedGroup:
    """A dependency group and what it is worth.

    Attributes:
        id: of the group.
        unit: `channel`, `hidden`, `head`, `query` (query heads that share a key-value head), `head_dim` or `group`.
        size: units in the dense model.
        narrowest: the fewest units the space allows; 0 where the block may go.
        parameters: names of the parameters it is a dimension of.
        params: how many of their elements go with its units.
        macs: multiply-accumulates that go with its units, at batch 1.
        stream: whether it is the width of a residual stream.
        removable: whether the model allows that all units go, and with them their block.
    """

    id: str
    unit: str
    size: int
    narrowest: int
    parameters: tuple[str, ...]
    params: int
    macs: int
    stream: bool
    removable: bool


@dataclass(frozen=True)
class FrozenReason:
    """All dimensions that cannot shrink for one reason.

    Attributes:
        reason: why.
        operator: the ATen operator to blame (`aten.sort.default`), None where none is.
        dimensions: how many parameter dimensions.
        params: elements of the parameters that have such a dimension.
        locked: elements of those among them that have no other dimension that can shrink.
        examples: `parameter[axis]`, at most three.
    """

    reason: str
    operator: str | None
    dimensions: int
    params: int
    locked: int
    examples: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Inspection:
    """What of a model can be pruned, and what that can gain.

    Attributes:
        graph: the traced model: groups, and what is frozen and why.
        space: name of the search space.
        groups: every group with what it is worth, in program order.
        frozen: reasons why dimensions cannot shrink, those that lock most first.
        narrowest: the narrowest policy of the search space.
        macs: multiply-accumulates at batch 1: dense, at the narrowest policy, and at one unit in every group with all
            blocks gone that can go: the model's limit.
        params: the same of parameters.
        latency_us: profile -> predicted p50 of the dense and of the fastest policy found.
        warnings: what is worth knowing before a search.
    """

    graph: DependencyGraph
    space: str
    groups: tuple[InspectedGroup, ...]
    frozen: tuple[FrozenReason, ...]
    narrowest: SparsityPolicy
    macs: tuple[int, int, int]
    params: tuple[int, int, int]
    latency_us: Mapping[str, tuple[float, float]]
    warnings: tuple[str, ...]

    def summary(self, everything: bool = False, width: int = 100) -> str:
        """All of it as text for a terminal.

        Args:
            everything: every group by itself and every frozen dimension; else blocks that are alike are folded
                (`layers.{0..47}`), and frozen dimensions come with a few examples a reason.
            width: columns that running text is wrapped at; a row of a table stays one line.
        """
        return summary(self, everything, width)

    def to_data(self) -> dict[str, Any]:
        """All of it as JSON data.

        The keys are stable: `schema` counts up where one changes.

        - `schema`: "autoprune.inspection/1"; `space`: name; `prunable_share`: share of the parameters with a dimension
          that can shrink
        - `groups`: a list of `id`, `unit`, `size`, `narrowest`, `parameters` (names), `params` and `macs` (counts),
          `stream`, `removable`, as in `InspectedGroup`
        - `frozen`: a list of `parameter`, `axis`, `size`, `reason`, one a dimension
        - `frozen_reasons`: a list of `reason`, `operator` (or null), `dimensions`, `params`, `locked`, `locked_share`,
          `examples`, as in `FrozenReason`
        - `macs`, `params`: `dense`, `narrowest`, `limit`, as in `Inspection`
        - `latency_p50_us`: profile -> `dense`, `fastest`, `speedup`
        - `narrowest`: group -> width; `warnings`: a list of texts
        """
        total = max(self.params[0], 1)
        return {
            "schema": SCHEMA,
            "space": self.space,
            "prunable_share": self.graph.prunable_share(),
            "groups": [{**vars(group), "parameters": list(group.parameters)} for group in self.groups],
            "frozen": [vars(item) for item in self.graph.frozen],
            "frozen_reasons": [
                {**vars(item), "examples": list(item.examples), "locked_share": item.locked / total}
                for item in self.frozen
            ],
            "macs": dict(zip(("dense", "narrowest", "limit"), self.macs, strict=True)),
            "params": dict(zip(("dense", "narrowest", "limit"), self.params, strict=True)),
            "latency_p50_us": {
                name: {"dense": dense, "fastest": least, "speedup": dense / least}
                for name, (dense, least) in self.latency_us.items()
            },
            "narrowest": dict(self.narrowest),
            "warnings": list(self.warnings),
        }


def inspect_graph(
    graph: DependencyGraph,
    profiles: Sequence[str | Path | HardwareProfile] = (),
    space: str | Path | Mapping[str, Any] = AUTO,
) -> Inspection:
    """Inspect a traced model; see `autoprune.inspect`.

    Raises:
        InputError: an unknown profile or space, or a space that leaves nothing to prune of a model that could be.
    """
    bound = load_profiles(profiles) if profiles else {}
    quantum = max((profile.alignment_quantum for profile in bound.values()), default=1)
    # Of a model in which nothing can be pruned, the reasons are what its user wants to see: no error here.
    searched = SearchSpace.load(space, graph, quantum=quantum) if graph.groups else None
    narrowest = searched.policy(searched.narrowest) if searched else SparsityPolicy({})
    latency: dict[str, tuple[float, float]] = {}
    if searched is not None:
        tables = {name: LatencyTable(profile, graph) for name, profile in bound.items()}
        costs = Costs(graph, searched, tables)
        latency = {name: _reach(costs, name) for name in tables}
    widths = [{}, graph.widths(narrowest), graph.widths(_limit(graph))]
    dense, least, limit = ((int(graph.macs(w)), int(graph.parameter_count(w))) for w in widths)
    frozen = _frozen(graph)
    return Inspection(
        graph,
        searched.name if searched else default_space(graph),
        _groups(graph, narrowest),
        frozen,
        narrowest,
        (dense[0], least[0], limit[0]),
        (dense[1], least[1], limit[1]),
        latency,
        (*profile_notes(bound), *_frozen_warnings(graph, frozen, dense[1]), *_slow_warnings(latency)),
    )


def _groups(graph: DependencyGraph, narrowest: Mapping[str, int]) -> tuple[InspectedGroup, ...]:
    known = traits(graph)
    macs = _group_macs(graph)
    return tuple(
        InspectedGroup(
            id=group.id,
            unit=known[group.id].unit,
            size=group.size,
            narrowest=narrowest[group.id],
            parameters=tuple(sorted({member.parameter for member in group.members})),
            params=_group_params(graph, group.id),
            macs=int(found),
            stream=known[group.id].stream,
            removable=known[group.id].removable,
        )
        for group, found in zip(graph.groups.values(), macs, strict=True)
    )


def _group_macs(graph: DependencyGraph) -> npt.NDArray[np.int64]:
    """MACs that go with the units of each group: dense less those with that group alone at 0.  # (n_groups,)"""
    columns = np.eye(len(graph.groups), dtype=np.int64)
    alone = {name: group.size * (1 - columns[place]) for place, (name, group) in enumerate(graph.groups.items())}
    return np.asarray(graph.macs({}) - graph.macs(alone) + np.zeros(len(graph.groups), dtype=np.int64))


def _group_params(graph: DependencyGraph, group: str) -> int:
    """Elements of parameters that go with the units of a group."""
    total = 0
    for name in {member.parameter for member in graph.groups[group].members}:
        dimensions = graph.program.values[name].dimensions
        whole, rest = ([size(d, widths) for d in dimensions] for widths in ({}, {group: 0}))
        total += int(np.prod(whole, dtype=np.int64) - np.prod(rest, dtype=np.int64))
    return total


def _limit(graph: DependencyGraph) -> Mapping[str, int]:
    """One unit in every group, and every block gone that may go with all others."""
    ones = dict.fromkeys(graph.groups, 1)
    removable = [group.id for group in graph.groups.values() if group.removable]
    if not removable:
        return ones
    try:
        return graph.check(ones | dict.fromkeys(removable, 0))
    except InputError:  # parallel branches of which one has to stay
        depth = SearchSpace.load("depth", graph)
        gone = [group for group, width in depth.policy(depth.narrowest).items() if width == 0]
        return ones | dict.fromkeys(gone, 0)


def _frozen(graph: DependencyGraph) -> tuple[FrozenReason, ...]:
    """Frozen dimensions by reason, those that lock most parameters first."""
    counts: dict[str, int] = {}
    locked: dict[str, bool] = {}
    for name in graph.program.parameters:
        dimensions = graph.program.values[name].dimensions
        counts[name] = int(np.prod([dense_size(d) for d in dimensions], dtype=np.int64))
        locked[name] = not any(groups_of(d) for d in dimensions)
    reasons: dict[str, list[tuple[str, int]]] = {}
    for item in graph.frozen:
        reasons.setdefault(item.reason, []).append((item.parameter, item.axis))
    found = []
    for reason, places in reasons.items():
        names = {name for name, _ in places}
        blamed = _OPERATOR.search(reason)
        found.append(
            FrozenReason(
                reason,
                blamed[0] if blamed else None,
                len(places),
                sum(counts[name] for name in names),
                sum(counts[name] for name in names if locked[name]),
                tuple(f"{name}[{axis}]" for name, axis in places[:3]),
            )
        )
    return tuple(sorted(found, key=lambda item: (-item.locked, -item.params)))


def _frozen_warnings(graph: DependencyGraph, frozen: Sequence[FrozenReason], params: int) -> list[str]:
    """What holds most of a model, and operators without a rule wherever they hold much; what to do about it."""
    share = graph.prunable_share()
    told = []
    if share < MOSTLY_FROZEN:
        how_much = f"only {share:.0%} of the parameters can shrink" if graph.groups else "nothing can be pruned"
        worst = f"; {blame(frozen[0], params)}" if frozen else ": no parameter has a dimension of more than one unit"
        told.append(f"{how_much}{worst}")
    for item in frozen[1 if told else 0 :]:
        if "has no rule" in item.reason and item.locked >= HOLDING * params:
            told.append(blame(item, params))
    return told


def blame(item: FrozenReason, params: int) -> str:
    """Who locks how much, and what to do."""
    locked = f"{item.locked / max(params, 1):.0%} are locked"
    if "output of the model" in item.reason:
        return (
            f"{locked} as outputs of the model, whose sizes callers rely on: inspect the model with the head that it "
            "is used with"
        )
    if item.operator is None or "vocabulary" in item.reason:
        return f"{locked}, since each dimension {item.reason.rpartition(': ')[2]}"
    if "has no rule" in item.reason:
        form = "which has no rule" if item.reason.startswith("operator ") else "this form of which has no rule"
        return (
            f"{locked} by operator {item.operator}, {form}: write one (CONTRIBUTING.md, 'Adding an operator rule'), or "
            "rewrite that part of the model without it"
        )
    return (
        f"{locked} by operator {item.operator} ({item.reason.rpartition(': ')[2]}): rewrite that part of the model "
        "with operators that treat all its units alike"
    )


def _slow_warnings(latency: Mapping[str, tuple[float, float]]) -> list[str]:
    return [
        f"no policy of this space is predicted to be faster than {dense / least:.2f}x on {name}"
        for name, (dense, least) in latency.items()
        if dense / least < NOT_FASTER
    ]


def _reach(costs: Costs, profile: str) -> tuple[float, float]:
    """Predicted p50 of the dense policy and of the fastest that allocation finds."""
    objective = parse_objective("latency_p50", (), [profile])

    def latency(choices: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return costs.values(objective, choices)[:, 0]

    space = costs.space
    damage = [np.linspace(1.0, 0.0, count) for count in space.levels]
    fastest = allocate(damage, latency, points=8)
    found = latency(np.concatenate([np.array([space.dense]), fastest]))
    return float(found[0]), float(found.min())

"""From the rules of a search space and the groups of a graph to the decisions of a search."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError
from autoprune.search.removal import Removal
from autoprune.search.rules import Rules
from autoprune.search.traits import traits

if TYPE_CHECKING:
    from autoprune.graph.graph import DependencyGraph

Settings = Mapping[str, Mapping[str, Any]]  # group -> what the rules set for it


@dataclass(frozen=True)
class Variable:
    """One decision of the search: the width of a group, the relative width of tied groups, or whether a block stays.

    Attributes:
        name: the group's id, the tie's name, or the group's id and `:depth`.
        groups: the groups it sets.
        widths: level -> width of each of `groups`; ascending, the last level dense. Width 0 takes the block away that
            the group is in.
    """

    name: str
    groups: tuple[str, ...]
    widths: tuple[tuple[int, ...], ...]

    @cached_property
    def ratios(self) -> npt.NDArray[np.float64]:
        """Mean share of units kept at each level, the last one 1.  # (n_levels,)"""
        table = np.array(self.widths, dtype=np.float64)
        return np.asarray((table / table[-1]).mean(axis=1))

    @property
    def removes(self) -> str | None:
        """The group that it may set to width 0, None where it may not."""
        return next((group for group, width in zip(self.groups, self.widths[0], strict=True) if width == 0), None)

    @property
    def depth_only(self) -> bool:
        """Whether all that it decides is whether a block stays."""
        return self.removes is not None and len(self.widths) == 2


def make_variables(rules: Rules, graph: DependencyGraph, quantum: int) -> tuple[tuple[Variable, ...], Removal]:
    """The decisions that the rules leave open, in graph order, and what goes with blocks that may go.

    Raises:
        InputError: there are none.
    """
    known = traits(graph)
    settings = {group.id: rules.settings(group.id, group.size, known[group.id]) for group in graph.groups.values()}
    wanted = [group for group, found in settings.items() if found.get("remove")]
    removal = Removal.of(graph, wanted)
    tied: dict[tuple[str, str], list[str]] = {}
    for group, found in settings.items():
        tie = found.get("tie")
        tied.setdefault(("tie", tie) if tie else ("group", group), []).append(group)
    variables = []
    for (kind, name), groups in tied.items():
        allowed = {group: _allowed(graph.groups[group].size, settings[group], quantum) for group in groups}
        free = tuple(group for group in groups if len(allowed[group]) > 1)
        if kind == "tie" and free:
            variables.append(_tied(name, free, allowed, settings))
        for group in groups if kind == "tie" else ():
            if group in removal.groups:
                variables.append(Variable(f"{group}:depth", (group,), ((0,), (graph.groups[group].size,))))
        if kind == "group":
            widths = _thinned(allowed[name], settings[name].get("levels"))
            widths = (0, *widths) if name in removal.groups else widths
            if len(widths) > 1:
                variables.append(Variable(name, (name,), tuple((width,) for width in widths)))
    if not variables:
        raise InputError(
            f"{rules.what}: expected at least one group to prune, got none. {_why_nothing(graph, bool(wanted))}"
        )
    return tuple(variables), removal


def _step(size: int, multiple: int | str | None, quantum: int) -> int:
    """The width step; a quantum is halved until the group holds four, so that narrow groups are searched too."""
    if isinstance(multiple, int):
        return multiple
    step = quantum if multiple == "quantum" else 1
    while step > 1 and size < 4 * step:
        step //= 2
    return step


def _allowed(size: int, settings: Mapping[str, Any], quantum: int) -> tuple[int, ...]:
    """All widths above 0 that a group may take, ascending, dense last."""
    if settings.get("freeze"):
        return (size,)
    minimum = settings.get("minimum") or 1
    low = math.ceil(minimum * size - 1e-9) if isinstance(minimum, float) else minimum
    step = _step(size, settings.get("multiple"), quantum)
    first = step * math.ceil(max(low, 1) / step)
    return (*range(first, size, step), size)


def _thinned(widths: tuple[int, ...], levels: int | None) -> tuple[int, ...]:
    if levels is None or len(widths) <= levels:
        return widths
    places = np.unique(np.round(np.linspace(0, len(widths) - 1, levels)).astype(np.int64))
    return tuple(widths[place] for place in places)


def _tied(name: str, groups: tuple[str, ...], allowed: Mapping[str, tuple[int, ...]], settings: Settings) -> Variable:
    """One variable over `groups`: the group with the most widths leads, the others follow its relative width."""
    leader = max(groups, key=lambda group: len(allowed[group]))
    lead = _thinned(allowed[leader], settings[leader].get("levels"))
    columns = []
    for group in groups:
        options = np.array(lead if group == leader else allowed[group], dtype=np.int64)
        wanted = np.array(lead, dtype=np.float64) / lead[-1] * options[-1]
        columns.append(options[np.argmin(np.abs(options[None, :] - wanted[:, None]), axis=1)])
    return Variable(name, groups, tuple(tuple(int(w) for w in row) for row in zip(*columns, strict=True)))


def _why_nothing(graph: DependencyGraph, wants_depth: bool) -> str:
    """Why no group can shrink, for people."""
    if graph.groups:
        depth = " None may be removed whole: no block is a residual branch of its own." if wants_depth else ""
        return (
            f"The model has {len(graph.groups)} groups ({', '.join(list(graph.groups)[:3])}, ...), but the rules "
            f"freeze them, match none of them, or leave one width.{depth} Widen `match`, lower `minimum` or `multiple`."
        )
    reasons = Counter(item.reason for item in graph.frozen)
    listed = "; ".join(f"{reason} ({count} dimensions)" for reason, count in reasons.most_common(5))
    return f"Nothing in this model can be pruned: {listed or 'it has no parameters with a free dimension'}."

"""Which groups are gone when blocks go: width 0 in one group takes others with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from autoprune.graph.graph import DependencyGraph

Clauses = tuple[frozenset[str], ...]


@dataclass(frozen=True)
class Removal:
    """How groups at width 0 follow from each other.

    A group is gone once all its parameters are. Mostly that is one block's doing; a group that blocks share (the head
    width that rotary tables tie through all layers) is gone with the last of them.

    Attributes:
        clauses: group -> for each of its parameters, the groups with any of which the parameter goes. Groups that stay
            whatever goes are left out.
    """

    clauses: Mapping[str, Clauses] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: DependencyGraph) -> Removal:
        """What may go in a graph."""
        going: dict[str, set[str]] = {}
        for group in graph.groups.values():
            if group.removable:
                left = graph.program.depth.reduce(frozenset({group.id})).program.parameters
                for name in set(graph.program.parameters).difference(left):
                    going.setdefault(name, set()).add(group.id)
        found = {}
        for group in graph.groups.values():
            clauses = {frozenset(going.get(member.parameter, ())) for member in group.members}
            if frozenset() not in clauses:
                found[group.id] = tuple(one for one in clauses if not any(other < one for other in clauses))
        return cls(found)

    def vanished(self, removed: Collection[str]) -> frozenset[str]:
        """All groups that are gone once those in `removed` are at width 0, themselves included."""
        gone = set(removed)
        found = (g for g, clauses in self.clauses.items() if all(not clause.isdisjoint(gone) for clause in clauses))
        return frozenset(gone.union(found))

    def closed(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Widths with everything at 0 that is gone."""
        removed = [group for group, width in widths.items() if width == 0]
        return {**widths, **dict.fromkeys(self.vanished(removed), 0)} if removed else dict(widths)

    def close_rows(self, widths: npt.NDArray[np.int64], index: Mapping[str, int]) -> None:
        """The same for many policies, in place.

        Args:
            widths: a policy a row.  # (n, n_groups)
            index: group -> its column.
        """
        gone = widths == 0
        rows = np.flatnonzero(gone.any(axis=1))
        if not len(rows):
            return
        gone = gone[rows]
        for group, clauses in self.clauses.items():
            met = np.ones(len(rows), dtype=np.bool_)
            for clause in clauses:
                met &= gone[:, [index[other] for other in clause]].any(axis=1)
            widths[rows[met], index[group]] = 0

    def generators(self, gone: Collection[str], candidates: Collection[str]) -> frozenset[str]:
        """The fewest of `candidates` that have to be removed for all of `gone` to be: inner blocks go with outer ones.

        Depends on `gone` alone, so that equal policies have equal generators.
        """
        left = [group for group in candidates if group in gone]
        whole = self.vanished(left)
        for group in sorted(left, key=lambda one: len(self.vanished([one]))):
            others = [other for other in left if other != group]
            if self.vanished(others) == whole:
                left = others
        return frozenset(left)

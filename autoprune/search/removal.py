"""Which blocks of a model may go in a search, and which groups are gone with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError
from autoprune.graph.dimension import groups_of

if TYPE_CHECKING:
    from autoprune.graph.graph import DependencyGraph

Groups = frozenset[str]


@dataclass(frozen=True)
class Removal:
    """How groups at width 0 follow from each other.

    Attributes:
        groups: those that decide in a search, one a block.
        closure: removable group -> all that is at width 0 with it, itself included.
        joint: what is gone only once several are: the blocks' groups, and what they shared (the head width that a
            rotary table ties through all layers).
    """

    groups: tuple[str, ...] = ()
    closure: Mapping[str, Groups] = field(default_factory=dict)
    joint: tuple[tuple[Groups, Groups], ...] = ()

    @classmethod
    def of(cls, graph: DependencyGraph, wanted: Iterable[str]) -> Removal:
        """How the blocks of `wanted` groups may go; of several groups in one block the first decides.

        Any of the blocks may go together: of parallel branches that are removable each but not all, some have to stay.
        """
        removable = [group for group in wanted if graph.groups[group].removable]
        if not removable:
            return cls()
        closure = {group: frozenset((group, *closed)) for group, closed in graph.closure.items()}
        blocks: dict[Groups, str] = {}
        for group in removable:
            blocks.setdefault(closure[group], group)
        groups = [group for group in blocks.values() if not _is_made_of_others(group, blocks, closure, graph)]
        found = _described(groups, closure, graph)
        if found is not None:
            return found
        kept = cls((), closure)
        for group in groups:
            kept = _described([*kept.groups, group], closure, graph) or kept
        return kept

    def vanished(self, removed: Iterable[str]) -> Groups:
        """All groups that are gone once those in `removed` are at width 0, themselves included."""
        gone = frozenset(removed)
        gone = gone.union(*(self.closure[group] for group in gone if group in self.closure))
        return gone.union(*(shared for blocks, shared in self.joint if blocks <= gone))

    def closed(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Widths with everything at 0 that is gone."""
        return {**widths, **dict.fromkeys(self.vanished(group for group, width in widths.items() if width == 0), 0)}

    def close_rows(self, widths: npt.NDArray[np.int64], index: Mapping[str, int]) -> None:
        """The same for many policies of the search, in place.

        Args:
            widths: a policy a row.  # (n, n_groups)
            index: group -> its column.
        """
        removed = {group: widths[:, index[group]] == 0 for group in self.groups}
        for group, rows in removed.items():
            _empty(widths, rows, [index[other] for other in self.closure[group]])
        for blocks, shared in self.joint:
            rows = (widths[:, [index[group] for group in blocks]] == 0).all(axis=1)
            _empty(widths, rows, [index[other] for other in shared])

    def generators(self, gone: Collection[str]) -> Groups:
        """The fewest deciding groups that have to be removed for all of `gone` to be: inner blocks go with outer ones.

        Depends on `gone` alone, so that equal policies have equal generators.
        """
        left = [group for group in self.groups if group in gone]
        whole = self.vanished(left)
        for group in sorted(left, key=lambda one: len(self.closure[one])):
            others = [other for other in left if other != group]
            if self.vanished(others) == whole:
                left = others
        return frozenset(left)


def _empty(widths: npt.NDArray[np.int64], rows: npt.NDArray[np.bool_], columns: Sequence[int]) -> None:
    widths[np.ix_(np.flatnonzero(rows), np.array(columns, dtype=np.int64))] = 0


def _is_made_of_others(
    group: str, blocks: Mapping[Groups, str], closure: Mapping[str, Groups], graph: DependencyGraph
) -> bool:
    """Whether smaller blocks together are all of it: heads that all layers share are no block, each attention is."""
    inner = [other for gone, other in blocks.items() if gone < closure[group]]
    return len(inner) > 1 and closure[group] <= (_gone(inner, graph) or frozenset())


def _described(groups: Sequence[str], closure: Mapping[str, Groups], graph: DependencyGraph) -> Removal | None:
    """The removal of these groups, None where they may not all go or what goes with them cannot be told apart."""
    alone = Removal(tuple(groups), closure)
    gone = _gone(groups, graph)
    if gone is None:
        return None
    shared: dict[Groups, set[str]] = {}
    for group in gone - alone.vanished(groups):
        shared.setdefault(_sharing(group, groups, graph), set()).add(group)
    found = Removal(tuple(groups), closure, tuple((blocks, frozenset(those)) for blocks, those in shared.items()))
    sound = all((_gone(blocks, graph) or frozenset()) == found.vanished(blocks) for blocks in shared)
    return found if sound else None


def _gone(removed: Iterable[str], graph: DependencyGraph) -> Groups | None:
    """All that the graph says is gone with `removed`; None where it does not allow that."""
    try:
        return frozenset(group for group, width in graph.check(dict.fromkeys(removed, 0)).items() if width == 0)
    except InputError:
        return None


def _sharing(group: str, blocks: Sequence[str], graph: DependencyGraph) -> Groups:
    """The blocks with which some value goes that carries the group."""
    values = graph.program.values.values()
    carriers = {value.name for value in values if any(group in groups_of(d) for d in value.dimensions)}
    reduce = graph.program.depth.reduce
    return frozenset(one for one in blocks if not carriers <= reduce(frozenset({one})).program.values.keys())

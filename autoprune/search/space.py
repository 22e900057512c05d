"""Search spaces: the policies that a search may try, from a YAML of rules, the groups and the hardware's quantum.

What the rules may say is in `search/rules.py`, what they select groups by in `search/traits.py`, how they become
decisions in `search/variables.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError, unknown_name
from autoprune.core.files import canonical_json, digest
from autoprune.graph.policy import SparsityPolicy
from autoprune.search.removal import Removal
from autoprune.search.rules import list_spaces, read_rules
from autoprune.search.traits import default_space
from autoprune.search.variables import Variable, make_variables

if TYPE_CHECKING:
    from autoprune.graph.graph import DependencyGraph

__all__ = ["AUTO", "Choice", "SearchSpace", "Variable", "list_spaces"]

Choice: TypeAlias = tuple[int, ...]  # one level a variable, 0 the narrowest
Integers: TypeAlias = npt.NDArray[np.int64]

AUTO = "auto"
"""The name that stands for the shipped space made for the kind of model: see `default_space`."""


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """All policies a search may try. A policy is a *choice*: one level for each variable.

    A group in two variables has the smaller of the two widths. Where a group is at width 0, so are those that vanish
    with it; what variables say of groups that are gone makes no difference, and `choice` then says dense.

    Attributes:
        name: the file's name, or "custom".
        groups: every group of the graph -> its dense size, in graph order.
        variables: the decisions; groups not in any of them stay dense.
        removal: how groups at width 0 follow from each other.
    """

    name: str
    groups: dict[str, int]
    variables: tuple[Variable, ...]
    removal: Removal = field(default_factory=Removal)
    _index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {group: i for i, group in enumerate(self.groups)})

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], graph: DependencyGraph, quantum: int = 1) -> SearchSpace:
        """The space that `source` describes for one graph.

        Args:
            source: the name of a shipped space (`cnn`, `transformer`, `llm`, `depth`), `auto` for `transformer` where
                the model has attention heads and `cnn` where not, a path to a YAML file, or the same content as a
                mapping.
            graph: the groups to search over.
            quantum: the width step that the hardware rewards; what `multiple: quantum` stands for.

        Raises:
            InputError: unknown name, a file that is wrong, or nothing left to prune.
        """
        if quantum < 1:
            raise InputError(f"search space: expected a quantum of at least 1, got {quantum}.")
        rules = read_rules(default_space(graph) if source == AUTO else source)
        sizes = {group.id: group.size for group in graph.groups.values()}
        return cls(rules.name, sizes, *make_variables(rules, graph, quantum))

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Number of levels of each variable."""
        return tuple(len(variable.widths) for variable in self.variables)

    @cached_property
    def widths(self) -> dict[str, tuple[int, ...]]:
        """Every group of the graph -> its allowed widths, ascending, the dense one last; 0 where its block may go."""
        found: dict[str, set[int]] = {group: {size} for group, size in self.groups.items()}
        for variable in self.variables:
            for column, group in enumerate(variable.groups):
                found[group].update(row[column] for row in variable.widths)
        for group in self.removal.vanished(self.removal.groups):
            found[group].add(0)
        return {group: tuple(sorted(widths)) for group, widths in found.items()}

    @cached_property
    def dense(self) -> Choice:
        """The choice that prunes nothing."""
        return tuple(count - 1 for count in self.levels)

    @cached_property
    def narrowest(self) -> Choice:
        """The choice that prunes everything as far as allowed."""
        return self.canonical((0,) * len(self.levels))

    @cached_property
    def size(self) -> int:
        """Number of choices. Where blocks may go, some of them are the same policy."""
        return math.prod(self.levels)

    @cached_property
    def hash(self) -> str:
        """Identity: equal groups and widths, equal hash."""
        data = [[v.name, list(v.groups), [list(row) for row in v.widths]] for v in self.variables]
        return digest(canonical_json({"groups": self.groups, "variables": data}))

    def policy(self, choice: Sequence[int]) -> SparsityPolicy:
        """The policy of a choice; it names every group of the graph, those that are gone with width 0.

        Raises:
            InputError: not one valid level for each variable.
        """
        self._check(choice)
        return SparsityPolicy(self.removal.closed(self._set(choice)))

    def choice(self, policy: Mapping[str, int]) -> Choice:
        """The choice of a policy (groups not named are dense); equal policies have equal choices.

        Raises:
            InputError: the policy is not in the space; names the first group that is off.
        """
        for group in policy:
            if group not in self.groups:
                raise unknown_name("group", group, self.groups)
        widths = self.removal.closed({group: int(policy.get(group, size)) for group, size in self.groups.items()})
        gone = self.removal.generators({group for group, width in widths.items() if width == 0})
        found = tuple(self._level(variable, widths, gone) for variable in self.variables)
        reached = self.removal.closed(self._set(found))
        for group, width in widths.items():
            if reached[group] != width:
                why = "does not fit the other widths" if len(self.widths[group]) > 1 else "is not searched"
                raise InputError(f"policy: '{group}' {why}; expected {reached[group]} units, got {width}.")
        return found

    def canonical(self, choice: Sequence[int]) -> Choice:
        """The choice that stands for all choices of the same policy: variables of groups that are gone are dense.

        Raises:
            InputError: not one valid level for each variable.
        """
        self._check(choice)
        return self.choice(self.policy(choice)) if self.removal.groups else tuple(map(int, choice))

    def _set(self, choice: Sequence[int]) -> dict[str, int]:
        """Widths as the variables say."""
        kept = dict(self.groups)
        for rows, level in zip(self._rows, choice, strict=True):
            for group, width in rows[level]:
                if width < kept[group]:
                    kept[group] = width
        return kept

    @cached_property
    def _rows(self) -> tuple[tuple[tuple[tuple[str, int], ...], ...], ...]:
        """Variable -> level -> the groups it sets, with their widths: made once, as every trial asks for them."""
        return tuple(
            tuple(tuple(zip(variable.groups, row, strict=True)) for row in variable.widths)
            for variable in self.variables
        )

    def _level(self, variable: Variable, widths: Mapping[str, int], removed: Collection[str]) -> int:
        """The level of a variable in a closed policy: the widest that fits the groups that are left."""
        if variable.removes in removed:
            return 0
        if variable.depth_only:
            return 1
        wanted = tuple(widths[group] for group in variable.groups)
        fitting = [
            level
            for level, row in enumerate(variable.widths)
            if all(width in (0, units) for width, units in zip(wanted, row, strict=True))
        ]
        if not fitting:
            allowed = ", ".join(str(row[0] if len(row) == 1 else row) for row in variable.widths)
            raise InputError(f"policy: expected one of {allowed} for '{variable.name}', got {wanted}.")
        return fitting[-1]

    def group_widths(self, choices: npt.ArrayLike) -> Integers:
        """Widths of all groups, in the order of `groups`, for many choices.

        Args:
            choices: levels.  # (n, n_variables)

        Returns:
            Widths.  # (n, n_groups)
        """
        levels = np.asarray(choices, dtype=np.int64).reshape(-1, len(self.variables))
        widths = np.tile(np.array(list(self.groups.values()), dtype=np.int64), (len(levels), 1))
        for variables, places, offsets, flat in self._tables:
            widths[:, places] = np.minimum(widths[:, places], flat[levels[:, variables] + offsets])
        self.removal.close_rows(widths, self._index)
        return widths

    @cached_property
    def _tables(self) -> tuple[tuple[Integers, Integers, Integers, Integers], ...]:
        """What `group_widths` looks up, for as many groups at once as no two variables share.

        Each time variables and the groups they set (n,), where their widths begin (n,), and all widths (n_widths,).
        """
        waves: list[dict[int, tuple[int, list[int]]]] = []  # group -> variable, widths
        for column, variable in enumerate(self.variables):
            for group, widths in zip(variable.groups, zip(*variable.widths, strict=True), strict=True):
                place = self._index[group]
                wave = next((wave for wave in waves if place not in wave), None)
                if wave is None:
                    waves.append(wave := {})
                wave[place] = column, list(widths)
        found = []
        for wave in waves:
            columns, tables = zip(*wave.values(), strict=True)
            offsets = np.cumsum([0, *map(len, tables[:-1])])
            found.append((np.array(columns), np.array(list(wave)), offsets, np.concatenate(tables)))
        return tuple(found)

    def random(self, rng: np.random.Generator) -> Choice:
        """A choice with every level drawn uniformly."""
        return self.canonical([int(rng.integers(count)) for count in self.levels])

    def uniform(self, ratio: float) -> Choice:
        """The choice that removes about the share `ratio` of every variable's units; the wider where two are as near.

        Blocks stay, unless blocks are all there is to remove: then the share `ratio` of them goes, evenly spread.

        Raises:
            InputError: a ratio outside 0 <= ratio <= 1.
        """
        if not 0.0 <= ratio <= 1.0:
            raise InputError(f"uniform: expected a ratio from 0 (dense) to 1 (narrowest), got {ratio}.")
        if all(variable.depth_only for variable in self.variables):
            gone = np.floor(np.arange(1, len(self.levels) + 1) * ratio + 1e-9)
            return self.canonical([int(level) for level in 1 - np.diff(gone, prepend=0.0).astype(np.int64)])
        found = []
        for variable in self.variables:
            distance = np.abs(variable.ratios - (1.0 - ratio)) - 1e-9 * variable.ratios
            found.append(int(np.argmin(np.where(variable.ratios > 0.0, distance, np.inf))))
        return tuple(found)

    def _check(self, choice: Sequence[int]) -> None:
        if len(choice) != len(self.levels):
            raise InputError(f"choice: expected {len(self.levels)} levels, one a variable, got {len(choice)}.")
        if all(map(operator.lt, choice, self.levels)) and min(choice, default=0) >= 0:
            return
        for variable, level, count in zip(self.variables, choice, self.levels, strict=True):
            if not 0 <= level < count:
                raise InputError(f"choice: expected a level from 0 to {count - 1} for '{variable.name}', got {level}.")

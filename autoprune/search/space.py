"""Search spaces: the widths each group may take, from a YAML of rules, the groups and the hardware's quantum."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, field_validator

from autoprune.core.data import data_folder
from autoprune.core.errors import InputError, unknown_name
from autoprune.core.files import canonical_json, digest
from autoprune.core.settings import read_yaml, validated
from autoprune.graph.policy import SparsityPolicy

if TYPE_CHECKING:
    from autoprune.graph.graph import DependencyGraph

Choice: TypeAlias = tuple[int, ...]  # one level a variable, 0 the narrowest
Integers: TypeAlias = npt.NDArray[np.int64]

MAX_WILDCARDS = 8


class Rule(BaseModel):
    """One rule of a search space: the groups it matches and what it sets for them.

    Attributes:
        match: glob pattern(s) on the group's id; `*` matches anything, dots included, `?` one character.
        unit: only groups of this unit (or one of these): channel, hidden, head, head_dim, group.
        minimum: the narrowest width, as a count (`8`) or as a share of the dense width (`0.25`).
        multiple: widths are multiples of this; `quantum` is the alignment quantum of the hardware profile.
        levels: how many widths, dense included, spread evenly; all allowed widths when not set.
        freeze: true keeps the groups dense.
        tie: groups with the same tie share one relative width. `{1}` stands for what the first wildcard of the
            pattern matched: match `layer*.*.conv1`, tie `stage{1}` makes one variable a stage.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str | tuple[str, ...]
    unit: str | tuple[str, ...] | None = None
    minimum: StrictInt | StrictFloat | None = None
    multiple: StrictInt | Literal["quantum"] | None = None
    levels: StrictInt | None = Field(default=None, ge=2, le=4096)
    freeze: StrictBool | None = None
    tie: str | None = Field(default=None, min_length=1, max_length=200)

    @field_validator("match", "unit", mode="before")
    @classmethod
    def _texts(cls, value: object) -> object:
        texts = value if isinstance(value, (list, tuple)) else [value]
        if value is not None and not (texts and all(isinstance(text, str) and 0 < len(text) <= 200 for text in texts)):
            raise ValueError("expected a text of 1 to 200 characters, or a list of them")
        if any(text.count("*") > MAX_WILDCARDS for text in texts if isinstance(text, str)):
            raise ValueError(f"expected at most {MAX_WILDCARDS} wildcards in a pattern")
        return value

    @field_validator("minimum", mode="before")
    @classmethod
    def _count_or_share(cls, value: object) -> object:
        count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not (value is None or count or (isinstance(value, float) and 0.0 < value <= 1.0)):
            raise ValueError("expected a count of at least 1, or a share above 0.0 and up to 1.0")
        return value

    @field_validator("multiple", mode="before")
    @classmethod
    def _step(cls, value: object) -> object:
        count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not (value is None or count or value == "quantum"):
            raise ValueError("expected a whole number of at least 1, or 'quantum'")
        return value

    def captures(self, group: str, unit: str) -> tuple[str, ...] | None:
        """What the wildcards match in the group's id; None where the rule does not apply."""
        units = (self.unit,) if isinstance(self.unit, str) else self.unit
        if units is not None and unit not in units:
            return None
        for pattern in (self.match,) if isinstance(self.match, str) else self.match:
            found = _glob(pattern).fullmatch(group)
            if found:
                return found.groups()
        return None


class SpaceFile(BaseModel):
    """A search space as written: rules from top to bottom, later ones overriding the keys they name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    description: str = ""
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=1000)


@dataclass(frozen=True)
class Variable:
    """One decision of the search: the width of a group, or the relative width of tied groups.

    Attributes:
        name: the group's id, or the tie's name.
        groups: the groups it sets.
        widths: level -> width of each of `groups`; ascending, the last level dense.
    """

    name: str
    groups: tuple[str, ...]
    widths: tuple[tuple[int, ...], ...]

    @cached_property
    def ratios(self) -> npt.NDArray[np.float64]:
        """Mean share of units kept at each level, the last one 1.  # (n_levels,)"""
        table = np.array(self.widths, dtype=np.float64)
        return np.asarray((table / table[-1]).mean(axis=1))


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """All policies a search may try. A policy is a *choice*: one level for each variable.

    Attributes:
        name: the file's name, or "custom".
        groups: every group of the graph -> its dense size, in graph order.
        variables: the decisions; groups not in any of them stay dense.
    """

    name: str
    groups: dict[str, int]
    variables: tuple[Variable, ...]
    _index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {group: i for i, group in enumerate(self.groups)})

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], graph: DependencyGraph, quantum: int = 1) -> SearchSpace:
        """The space that `source` describes for one graph.

        Args:
            source: the name of a shipped space (`cnn`), a path to a YAML file, or the same content as a mapping.
            graph: the groups to search over.
            quantum: the width step that the hardware rewards; what `multiple: quantum` stands for.

        Raises:
            InputError: unknown name, a file that is wrong, or nothing left to prune.
        """
        if quantum < 1:
            raise InputError(f"search space: expected a quantum of at least 1, got {quantum}.")
        name, data, what = _read(source)
        rules = validated(SpaceFile, data, what).rules
        return cls(name, {g.id: g.size for g in graph.groups.values()}, _variables(rules, graph, quantum, what))

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Number of levels of each variable."""
        return tuple(len(variable.widths) for variable in self.variables)

    @cached_property
    def widths(self) -> dict[str, tuple[int, ...]]:
        """Every group of the graph -> its allowed widths, ascending, the dense one last."""
        found: dict[str, tuple[int, ...]] = {group: (size,) for group, size in self.groups.items()}
        for variable in self.variables:
            for column, group in enumerate(variable.groups):
                found[group] = tuple(sorted({row[column] for row in variable.widths}))
        return found

    @cached_property
    def dense(self) -> Choice:
        """The choice that prunes nothing."""
        return tuple(count - 1 for count in self.levels)

    @cached_property
    def narrowest(self) -> Choice:
        """The choice that prunes everything as far as allowed."""
        return (0,) * len(self.levels)

    @cached_property
    def size(self) -> int:
        """Number of policies in the space."""
        return math.prod(self.levels)

    @cached_property
    def hash(self) -> str:
        """Identity: equal groups and widths, equal hash."""
        data = [[v.name, list(v.groups), [list(row) for row in v.widths]] for v in self.variables]
        return digest(canonical_json({"groups": self.groups, "variables": data}))

    def policy(self, choice: Sequence[int]) -> SparsityPolicy:
        """The policy of a choice; it names every group of the graph.

        Raises:
            InputError: not one valid level for each variable.
        """
        self._check(choice)
        kept = dict(self.groups)
        for variable, level in zip(self.variables, choice, strict=True):
            kept.update(zip(variable.groups, variable.widths[level], strict=True))
        return SparsityPolicy(kept)

    def choice(self, policy: Mapping[str, int]) -> Choice:
        """The choice of a policy (groups not named are dense).

        Raises:
            InputError: the policy is not in the space; names the first group that is off.
        """
        for group in policy:
            if group not in self.groups:
                raise unknown_name("group", group, self.groups)
        widths = {group: int(policy.get(group, size)) for group, size in self.groups.items()}
        found = []
        for variable in self.variables:
            wanted = tuple(widths[group] for group in variable.groups)
            if wanted not in variable.widths:
                allowed = ", ".join(str(row[0] if len(row) == 1 else row) for row in variable.widths)
                raise InputError(f"policy: expected one of {allowed} for '{variable.name}', got {wanted}.")
            found.append(variable.widths.index(wanted))
        searched = {group for variable in self.variables for group in variable.groups}
        for group, size in self.groups.items():
            if group not in searched and widths[group] != size:
                raise InputError(f"policy: '{group}' is not searched; expected {size} units, got {widths[group]}.")
        return tuple(found)

    def group_widths(self, choices: npt.ArrayLike) -> Integers:
        """Widths of all groups, in the order of `groups`, for many choices.

        Args:
            choices: levels.  # (n, n_variables)

        Returns:
            Widths.  # (n, n_groups)
        """
        levels = np.asarray(choices, dtype=np.int64).reshape(-1, len(self.variables))
        widths = np.tile(np.array(list(self.groups.values()), dtype=np.int64), (len(levels), 1))
        for column, variable in enumerate(self.variables):
            places = [self._index[group] for group in variable.groups]
            widths[:, places] = np.array(variable.widths, dtype=np.int64)[levels[:, column]]
        return widths

    def random(self, rng: np.random.Generator) -> Choice:
        """A choice drawn uniformly."""
        return tuple(int(rng.integers(count)) for count in self.levels)

    def uniform(self, ratio: float) -> Choice:
        """The choice that removes about the share `ratio` of every variable's units; the wider where two are as near.

        Raises:
            InputError: a ratio outside 0 <= ratio <= 1.
        """
        if not 0.0 <= ratio <= 1.0:
            raise InputError(f"uniform: expected a ratio from 0 (dense) to 1 (narrowest), got {ratio}.")
        ratios = [variable.ratios for variable in self.variables]
        return tuple(int(np.argmin(np.abs(r - (1.0 - ratio)) - 1e-9 * r)) for r in ratios)

    def _check(self, choice: Sequence[int]) -> None:
        if len(choice) != len(self.levels):
            raise InputError(f"choice: expected {len(self.levels)} levels, one a variable, got {len(choice)}.")
        for variable, level, count in zip(self.variables, choice, self.levels, strict=True):
            if not 0 <= level < count:
                raise InputError(f"choice: expected a level from 0 to {count - 1} for '{variable.name}', got {level}.")


def list_spaces() -> dict[str, str]:
    """Names of the search spaces that ship -> their descriptions."""
    paths = sorted(data_folder("search_spaces").glob("*.yaml"))
    return {path.stem: str(read_yaml(path, "search space").get("description", "")) for path in paths}


def _read(source: str | Path | Mapping[str, Any]) -> tuple[str, Mapping[str, Any], str]:
    """Name, content and what to call it in messages."""
    if isinstance(source, Mapping):
        return "custom", source, "search space"
    shipped = {path.stem: path for path in data_folder("search_spaces").glob("*.yaml")}
    path = shipped.get(str(source), Path(source))
    if not path.is_file() and not (isinstance(source, Path) or path.suffix in (".yaml", ".yml")):
        raise unknown_name("search space", str(source), shipped)
    return path.stem, read_yaml(path, "search space"), f"search space {path}"


def _glob(pattern: str) -> re.Pattern[str]:
    """The pattern with each wildcard as a capture; the first ones match as little as they can."""
    parts = re.split(r"([*?])", pattern)
    return re.compile("".join({"*": "(.*?)", "?": "(.)"}.get(part, re.escape(part)) for part in parts), re.DOTALL)


def _settings(rules: Sequence[Rule], group: str, unit: str) -> dict[str, Any]:
    """What the matching rules set for a group, later ones last; "freeze" where none matches."""
    found: dict[str, Any] = {}
    matched = False
    for rule in rules:
        captured = rule.captures(group, unit)
        if captured is None:
            continue
        matched = True
        for key in rule.model_fields_set - {"match", "unit"}:
            found[key] = getattr(rule, key)
        if rule.tie is not None:
            found["tie"] = re.sub(
                r"\{(\d)\}",
                lambda m, c=captured: c[int(m[1]) - 1] if 0 < int(m[1]) <= len(c) else m[0],  # type: ignore[misc]
                rule.tie,
            )
    return found if matched else {"freeze": True}


def _step(size: int, multiple: int | str | None, quantum: int) -> int:
    """The width step; a quantum is halved until the group holds four, so that narrow groups are searched too."""
    if isinstance(multiple, int):
        return multiple
    step = quantum if multiple == "quantum" else 1
    while step > 1 and size < 4 * step:
        step //= 2
    return step


def _allowed(size: int, settings: Mapping[str, Any], quantum: int) -> tuple[int, ...]:
    """All widths a group may take, ascending, dense last."""
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


def _variables(rules: Sequence[Rule], graph: DependencyGraph, quantum: int, what: str) -> tuple[Variable, ...]:
    tied: dict[tuple[str, str], list[str]] = {}
    settings = {group.id: _settings(rules, group.id, group.unit) for group in graph.groups.values()}
    for group, found in settings.items():
        tie = found.get("tie")
        tied.setdefault(("tie", tie) if tie else ("group", group), []).append(group)
    variables = []
    for (_, name), groups in tied.items():
        allowed = {g: _allowed(graph.groups[g].size, settings[g], quantum) for g in groups}
        free = tuple(group for group in groups if len(allowed[group]) > 1)
        if free:
            variables.append(_variable(name, free, allowed, settings))
    if not variables:
        raise InputError(f"{what}: expected at least one group to prune, got none. {_why_nothing(graph)}")
    return tuple(variables)


def _variable(
    name: str,
    groups: tuple[str, ...],
    allowed: Mapping[str, tuple[int, ...]],
    settings: Mapping[str, Mapping[str, Any]],
) -> Variable:
    """One variable over `groups`: the group with the most widths leads, the others follow its relative width."""
    leader = max(groups, key=lambda group: len(allowed[group]))
    lead = _thinned(allowed[leader], settings[leader].get("levels"))
    columns = []
    for group in groups:
        options = np.array(lead if group == leader else allowed[group], dtype=np.int64)
        wanted = np.array(lead, dtype=np.float64) / lead[-1] * options[-1]
        columns.append(options[np.argmin(np.abs(options[None, :] - wanted[:, None]), axis=1)])
    return Variable(name, groups, tuple(tuple(int(w) for w in row) for row in zip(*columns, strict=True)))


def _why_nothing(graph: DependencyGraph) -> str:
    """Why no group can shrink, for people."""
    if graph.groups:
        return (
            f"The model has {len(graph.groups)} groups ({', '.join(list(graph.groups)[:3])}, ...), but the rules "
            "freeze them, match none of them, or leave one width. Widen `match`, lower `minimum` or `multiple`."
        )
    reasons = Counter(item.reason for item in graph.frozen)
    listed = "; ".join(f"{reason} ({count} dimensions)" for reason, count in reasons.most_common(5))
    return f"Nothing in this model can be pruned: {listed or 'it has no parameters with a free dimension'}."

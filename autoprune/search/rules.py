"""The rules of a search space as people write them: read from YAML, checked, and applied to one group."""

from __future__ import annotations

import functools
import os.path
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, field_validator

from autoprune.core.data import data_folder
from autoprune.core.errors import InputError, unknown_name
from autoprune.core.settings import read_yaml, validated
from autoprune.search.traits import UNITS, Traits

MAX_WILDCARDS = 8
MAX_RULES = 1000
MAX_PATTERNS = 1000  # of all rules together
MAX_LEVELS = 8  # of spaces that extend each other
_SELECTORS = frozenset({"match", "unit", "stream", "removable"})
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


class Rule(BaseModel):
    """One rule of a search space: the groups it selects and what it sets for them.

    A group is selected where every selector that is given applies; a rule without one selects all groups.

    Attributes:
        match: selector: glob pattern(s) on the group's id; `*` matches anything, dots included, `?` one character.
        unit: selector: the group's unit is this (or one of these): channel, hidden, head, query (query heads that share
            a key-value head), head_dim, group.
        stream: selector: whether the group is the width of a residual stream (a transformer's embedding width).
        removable: selector: whether the model allows that all units of the group go, and with them their block.
        minimum: the narrowest width, as a count (`8`) or as a share of the dense width (`0.25`).
        multiple: widths are multiples of this; `quantum` is the alignment quantum of the hardware profile.
        levels: how many widths, dense included, spread evenly; all allowed widths when not set.
        freeze: true keeps the groups dense.
        remove: true allows width 0 besides, where the model does, also for what an earlier rule froze; of several
            groups in one block, one has it.
        tie: groups with the same tie share one relative width. `{1}` stands for what the first wildcard of the
            pattern matched, `{size}` and `{unit}` for the group's own: match `layer*.*.conv1`, tie `stage{1}` makes one
            variable a stage, unit `hidden`, tie `mlp {size}` one for all MLPs of one size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str | tuple[str, ...] = "*"
    unit: str | tuple[str, ...] | None = None
    stream: StrictBool | None = None
    removable: StrictBool | None = None
    minimum: StrictInt | StrictFloat | None = None
    multiple: StrictInt | Literal["quantum"] | None = None
    levels: StrictInt | None = Field(default=None, ge=2, le=4096)
    freeze: StrictBool | None = None
    remove: StrictBool | None = None
    tie: str | None = Field(default=None, min_length=1, max_length=200)

    @field_validator("match", "unit", mode="before")
    @classmethod
    def _texts(cls, value: object) -> object:
        texts = value if isinstance(value, (list, tuple)) else [value]
        if value is not None and not (texts and all(isinstance(text, str) and 0 < len(text) <= 200 for text in texts)):
            raise ValueError("expected a text of 1 to 200 characters, or a list of them")
        if len(texts) > MAX_RULES:
            raise ValueError(f"expected at most {MAX_RULES} patterns")
        if any(text.count("*") > MAX_WILDCARDS for text in texts if isinstance(text, str)):
            raise ValueError(f"expected at most {MAX_WILDCARDS} wildcards in a pattern")
        return value

    @field_validator("unit")
    @classmethod
    def _known_units(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        given = (value,) if isinstance(value, str) else value or ()
        if any(unit not in UNITS for unit in given):
            raise ValueError(f"expected one of {', '.join(UNITS)}, or a list of them")
        return value

    @field_validator("minimum", mode="before")
    @classmethod
    def _count_or_share(cls, value: object) -> object:
        count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not (value is None or count or (isinstance(value, float) and 0.0 < value <= 1.0)):
            raise ValueError(
                "expected a count of at least 1, or a share above 0.0 and up to 1.0 (`remove: true` allows width 0)"
            )
        return value

    @field_validator("multiple", mode="before")
    @classmethod
    def _step(cls, value: object) -> object:
        count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not (value is None or count or value == "quantum"):
            raise ValueError("expected a whole number of at least 1, or 'quantum'")
        return value

    @field_validator("tie")
    @classmethod
    def _placeholders(cls, value: str | None) -> str | None:
        for name in _PLACEHOLDER.findall(value or ""):
            if name not in ("size", "unit", *"123456789"):
                raise ValueError("expected {1} to {9}, {size} or {unit} as placeholders")
        return value

    def captures(self, group: str, traits: Traits) -> tuple[str, ...] | None:
        """What the wildcards match in the group's id; None where the rule does not select it."""
        units = (self.unit,) if isinstance(self.unit, str) else self.unit
        if units is not None and traits.unit not in units:
            return None
        if self.stream not in (None, traits.stream) or self.removable not in (None, traits.removable):
            return None
        for pattern in (self.match,) if isinstance(self.match, str) else self.match:
            found = _glob(pattern).fullmatch(group)
            if found:
                return found.groups()
        return None


class SpaceFile(BaseModel):
    """A search space as written: rules from top to bottom, later ones overriding the keys they name.

    Attributes:
        version: of this format.
        description: one line for people.
        extends: a shipped space, or a path beside this file (or a list of them), whose rules come first.
        rules: its own rules.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    description: str = Field(default="", max_length=4096)
    extends: str | tuple[str, ...] = ()
    rules: tuple[Rule, ...] = Field(default=(), max_length=MAX_RULES)


@dataclass(frozen=True)
class Rules:
    """All rules of a space, extended ones first.

    Attributes:
        name: the file's name, or "custom".
        what: what to call it in messages.
        rules: from top to bottom.
    """

    name: str
    what: str
    rules: tuple[Rule, ...]

    def settings(self, group: str, size: int, traits: Traits) -> dict[str, Any]:
        """What the rules that select a group set for it, later ones last; "freeze" where none does."""
        found: dict[str, Any] = {}
        selected = False
        for rule in self.rules:
            captured = rule.captures(group, traits)
            if captured is None:
                continue
            selected = True
            if rule.freeze:
                found["remove"] = False
            for key in rule.model_fields_set - _SELECTORS:
                found[key] = getattr(rule, key)
            if rule.tie is not None:
                found["tie"] = _filled(rule.tie, captured, size, traits.unit)
        return found if selected else {"freeze": True}


def read_rules(source: str | Path | Mapping[str, Any]) -> Rules:
    """The rules of a shipped space, a YAML file or a mapping.

    Raises:
        InputError: unknown name, unreadable or wrong content, no rules, or spaces that extend each other in a circle.
    """
    return _read(source, Path(), (), {})


def list_spaces() -> dict[str, str]:
    """Names of the search spaces that ship -> their descriptions."""
    return {name: str(read_yaml(path, "search space").get("description", "")) for name, path in _shipped().items()}


def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(data_folder("search_spaces").glob("*.yaml"))}


def _read(
    source: str | Path | Mapping[str, Any], folder: Path, inside: tuple[Path, ...], known: dict[Path, Rules]
) -> Rules:
    """The rules of `source`; a path is from `folder`; `inside` are the files that extend it, `known` were read."""
    if isinstance(source, Mapping):
        name, data, what = "custom", source, "search space"
    else:
        path = _found(source, folder)
        if path in known:
            return known[path]
        name, data, what = path.stem, read_yaml(path, "search space"), f"search space {path}"
        if len(inside) >= MAX_LEVELS:
            raise InputError(f"{what}: expected spaces that extend each other at most {MAX_LEVELS} deep, got more.")
        if path.resolve() in inside:
            raise InputError(f"{what}: expected spaces that do not extend each other in a circle; drop one `extends`.")
        folder, inside = path.parent, (*inside, path.resolve())
    file = validated(SpaceFile, data, what)
    below = (file.extends,) if isinstance(file.extends, str) else file.extends
    rules = [rule for one in below for rule in _read(one, folder, inside, known).rules] + list(file.rules)
    if not 0 < len(rules) <= MAX_RULES:
        raise InputError(f"{what}: expected 1 to {MAX_RULES} rules, extended ones included, got {len(rules)}.")
    patterns = sum(1 if isinstance(rule.match, str) else len(rule.match) for rule in rules)
    if patterns > MAX_PATTERNS:
        raise InputError(f"{what}: expected at most {MAX_PATTERNS} patterns in all rules, got {patterns}.")
    found = Rules(name, what, tuple(rules))
    if not isinstance(source, Mapping):
        known[path] = found
    return found


def _found(source: str | Path, folder: Path) -> Path:
    shipped = _shipped()
    path = shipped.get(str(source)) or folder / source
    if not os.path.isfile(path) and not (isinstance(source, Path) or path.suffix in (".yaml", ".yml")):
        raise unknown_name("search space", str(source), shipped)
    return path


@functools.lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    """The pattern with each wildcard as a capture; the first ones match as little as they can.

    What follows a `*` is taken where it first fits and never looked for again (an atomic group): if the whole matches
    at all, it does so then. A plain expression would try all ways to share an id among eight wildcards.
    """
    first, *others = ("".join("(.)" if c == "?" else re.escape(c) for c in part) for part in pattern.split("*"))
    middle = "".join(f"(?>(.*?){part})" for part in others[:-1])
    last = f"(.*?){others[-1]}" if others else ""
    return re.compile(first + middle + last, re.DOTALL)


def _filled(tie: str, captured: Sequence[str], size: int, unit: str) -> str:
    values = {str(place): text for place, text in enumerate(captured, start=1)} | {"size": str(size), "unit": unit}
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), tie)

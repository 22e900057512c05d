"""A front of several devices as one of them sees it: its members, its columns, its objectives."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from autoprune.artifacts import choice
from autoprune.artifacts.layout import DENSE
from autoprune.artifacts.records import RunRecord
from autoprune.artifacts.table import Row
from autoprune.pareto.dominance import non_dominated

ON_FRONT = "on_front"
"""Column of runs with several profiles (`on_front@phone`): 1 where a member is on that device's front, else 0."""

_CONSTRAINT = re.compile(r"(?P<name>[^@\s]+)@(?P<profile>\S+)(?P<rest>\s.*)")


def record_for(record: RunRecord, profile: str) -> RunRecord:
    """The run's record with what concerns one device, named without `@profile`."""
    return record.model_copy(
        update={
            "profiles": (profile,),
            "objectives": _objectives(record.objectives, profile),
            "constraints": tuple(filter(None, (_constraint(text, profile) for text in record.constraints))),
        }
    )


def rows_for(rows: Sequence[Row], record: RunRecord, profile: str, seen: RunRecord) -> list[Row]:
    """The dense model and the members of one device's front, with that device's columns, named without `@profile`.

    Members are on it where the search says so (it knows how noisy the quality is); where it does not, they are if no
    other dominates them by the values.

    Args:
        rows: of the whole front.
        record: of the run.
        profile: which device.
        seen: the record as this device sees it.
    """
    mark = f"{ON_FRONT}@{profile}"
    plain = [_plain(row, record.profiles, profile) for row in rows]
    members = [place for place, row in enumerate(rows) if row.get("member") != DENSE]
    if any(rows[place].get(mark) is not None for place in members):
        kept = {place for place in members if rows[place].get(mark) == 1}
    else:
        scores = choice.scores([plain[place] for place in members], seen)
        on = non_dominated(scores) if scores.shape[1] else np.ones(len(members), dtype=np.bool_)
        kept = {place for place, good in zip(members, on, strict=True) if good}
    return [row for place, row in enumerate(plain) if place in kept or row.get("member") == DENSE]


def on_front(row: Row, profile: str) -> bool:
    """Whether a row stands on a device's front; those of runs that do not say so do."""
    return row.get(f"{ON_FRONT}@{profile}") != 0


def _plain(row: Row, profiles: Sequence[str], profile: str) -> Row:
    found: Row = {}
    for name, cell in row.items():
        base, at, of = name.partition("@")
        if not at or of not in profiles:
            found[name] = cell
        elif of == profile and base != ON_FRONT:
            found[base] = cell
    return found


def _objectives(names: Sequence[str], profile: str) -> tuple[str, ...]:
    """Those of this device; where none speaks of it, what was minimised on the others."""
    parts = [name.partition("@") for name in names]
    own = [base for base, at, of in parts if not at or of == profile]
    if any(of == profile for _, _, of in parts):
        return tuple(dict.fromkeys(own))
    return tuple(dict.fromkeys(base for base, _, _ in parts))


def _constraint(text: str, profile: str) -> str:
    found = _CONSTRAINT.fullmatch(text)
    if found is None:
        return text
    return found["name"] + found["rest"] if found["profile"] == profile else ""

"""From meanings to one value an attribute; what stays open is tried in a fixed order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from autoprune.graph.native.attributes import configurations, integers
from autoprune.graph.native.evidence import Evidence, Meaning
from autoprune.graph.native.recording import Recording
from autoprune.graph.native.tracked import Place, evaluate, places

# Attributes that no operation of the trace reads are set too where their name says that they are a size.
_SIZE_NAMES = (
    "head", "dim", "hidden", "size", "channel", "feature", "embed", "width", "inner", "plane", "group", "nf", "nx",
    "d_", "chs", "inp", "outp",
)  # fmt: skip
_OTHER_NAMES = (
    "kernel", "patch", "window", "image", "img", "vocab", "depth", "layer", "stride", "pool", "max", "position", "pad",
    "grid", "resolution", "input_size", "chunk", "feat_size", "buckets", "distance", "type",
)  # fmt: skip
_MOST_TRIALS = 48


@dataclass(frozen=True)
class Solution:
    """What the attributes must hold.

    Attributes:
        values: attributes with one meaning.
        open: attributes with several: their possible values, likeliest first.
        conflicts: attributes that would have to hold several values at once, in words.
    """

    values: Mapping[Place, int]
    open: Mapping[Place, tuple[int, ...]]
    conflicts: tuple[str, ...]

    def assignments(self, model: nn.Module) -> Iterator[dict[Place, int]]:
        """Complete assignments, likeliest first; modules of one class choose alike."""
        kinds: dict[tuple[type, tuple[str | int, ...], int], list[Place]] = {}
        modules = dict(model.named_modules())
        for place, choices in self.open.items():
            kinds.setdefault((type(modules[place.module]), place.path, len(choices)), []).append(place)
        ranks = [range(key[2]) for key in kinds]
        ordered = sorted(itertools.islice(itertools.product(*ranks), 4096), key=lambda choice: (sum(choice), choice))
        for choice in ordered[:_MOST_TRIALS]:
            chosen = {
                place: self.open[place][rank]
                for rank, members in zip(choice, kinds.values(), strict=True)
                for place in members
            }
            yield {**self.values, **chosen}


def solve(model: nn.Module, recording: Recording, evidence: Evidence) -> Solution:
    """Combine every use of every attribute, then name what was not used."""
    dense = integers(model)
    meanings = [meaning for use in recording.uses for meaning in evidence.meanings(use)]
    values: dict[Place, int] = {}
    candidates: dict[Place, tuple[int, ...]] = {}
    conflicts: list[str] = []
    used = dict.fromkeys(place for meaning in meanings for place in places(meaning.origin))
    for place in used:
        direct = [m for m in meanings if m.origin == place]
        exact = tuple(dict.fromkeys(value for m in direct if m.exact for value in m.values))
        if len(exact) > 1:
            conflicts.append(f"{place} stands for sizes that are now {' and '.join(map(str, exact))}")
        found = exact or _common([m.values for m in direct if m.values])
        sized = _names_a_size(place)
        if len(found) == 1 and (exact or sized or found[0] == dense[place]):
            values[place] = found[0]
            continue
        pool = found or evidence.values_of(dense[place], evidence.parameters_under(place.module))
        choices = (*pool, dense[place]) if sized or exact else (dense[place], *pool)
        candidates[place] = tuple(dict.fromkeys(choices))
    for place in (place for origin in recording.escapes for place in places(origin) if place not in used):
        values[place] = dense[place]  # only ever a float, such as a scale, and that stays the trained one
    _by_sums(candidates, values, meanings)
    _unused(model, dense, used, values, evidence)
    return Solution(values, candidates, tuple(conflicts))


def _common(found: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Values that all uses allow; any where they have none in common."""
    if not found:
        return ()
    shared = tuple(value for value in found[0] if all(value in other for other in found[1:]))
    return shared or tuple(dict.fromkeys(value for values in found for value in values))


def _by_sums(candidates: dict[Place, tuple[int, ...]], values: dict[Place, int], meanings: Sequence[Meaning]) -> None:
    """Settle an open attribute by the products, sums and quotients it stands in: those must come out right."""
    likeliest = {place: choices[0] for place, choices in candidates.items()}
    combined = [meaning for meaning in meanings if not isinstance(meaning.origin, Place) and meaning.values]
    for place in list(candidates):
        judges = [meaning for meaning in combined if place in places(meaning.origin)]
        if not judges:
            continue
        known = {**likeliest, **values}
        scores = {value: _right(judges, known, place, value) for value in candidates[place]}
        if not any(scores.values()):  # none of the sizes at hand: the smallest number that does
            largest = range(1, max(candidates[place]) + 1)
            found = next((value for value in largest if _right(judges, known, place, value) == len(judges)), None)
            scores = scores if found is None else {found: 1, **scores}
        best = max(scores.values())
        leaders = [value for value, score in scores.items() if score == best]
        if len(leaders) == 1 and best > 0:
            values[place] = leaders[0]
            del candidates[place]
        else:
            candidates[place] = tuple(sorted(scores, key=scores.__getitem__, reverse=True))


def _right(judges: Sequence[Meaning], known: Mapping[Place, int], place: Place, value: int) -> int:
    """How many of these come out right when a place holds a value."""
    held = {**known, place: value}
    return sum(value > 0 and evaluate(judge.origin, held) in judge.values for judge in judges)


def _unused(
    model: nn.Module,
    dense: Mapping[Place, int],
    used: Mapping[Place, None],
    values: dict[Place, int],
    evidence: Evidence,
) -> None:
    """Sizes that the traced run did not read, set where only one value is possible."""
    objects = configurations(model)
    read = {objects[place] for place in used if place in objects}
    for place, size in dense.items():
        if place in used or place in values or objects.get(place) in read or not _names_a_size(place):
            continue
        found = evidence.values_of(size, evidence.parameters_under(place.module))
        if len(found) == 1:
            values[place] = found[0]


def _names_a_size(place: Place) -> bool:
    name = next(str(part) for part in reversed(place.path) if isinstance(part, str)).lower()
    return any(word in name for word in _SIZE_NAMES) and not any(word in name for word in _OTHER_NAMES)

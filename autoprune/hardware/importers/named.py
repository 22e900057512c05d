"""Times by the names of a model's operations, brought to its kernels.

Runtimes fuse operations, rename and add some of their own. A reported name is searched for the model's operations; a
report of several kernels is one time of them all, several reports of one kernel are added up.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoprune.core.errors import InputError, shortened
from autoprune.hardware.importers import Imported, ImportSettings, NamedKernels, Timing
from autoprune.hardware.importers.reading import check_count

MAX_NAME, MAX_WORD = 4000, 300  # characters that are looked at
MOST_ENDINGS, MOST_PARTS = 8, 32  # that are taken off a word
_SEPARATORS = re.compile(r"[\s+,;:()\[\]]+")
_ENDINGS = re.compile(r"(_kernel_time|_nchwc|_token_\d+|_(Quantize|Dequantize)Linear(_Output)?|\.\d+)$")


@dataclass(frozen=True)
class Report:
    """What a runtime reports under one name.

    Attributes:
        name: as the runtime writes it.
        mean_us, std_us, n: of its runs.
        percentiles_us: as far as they are reported.
    """

    name: str
    mean_us: float
    std_us: float = 0.0
    n: int = 1
    percentiles_us: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Together:
    """Kernels of which only the sum of some reports is known; `last` is the number of the last of these."""

    places: set[int]
    reports: list[Report]
    last: int


def needed_model(path: Path, what: str, settings: ImportSettings) -> NamedKernels:
    """The model of the settings.

    Raises:
        InputError: there is none.
    """
    if settings.model is None:
        raise InputError(
            f"{what} {path}: expected the model that was measured as well, since the file only names its operations. "
            "Give it with --model and --input."
        )
    return settings.model


def timings_of(reports: Sequence[Report], model: NamedKernels, place: str) -> Imported:
    """The times of the model's kernels.

    Raises:
        InputError: nothing in the file is named as the model's operations are.
    """
    check_count(len(reports), place)
    together: dict[int, _Together] = {}  # kernel -> all that is reported with it
    strange: list[Report] = []
    for number, report in enumerate(reports):
        found = places_in(report.name, model.places)
        if not found:
            strange.append(report)
            continue
        _join(together, found, report, number)
    groups = sorted({id(group): group for group in together.values()}.values(), key=lambda group: group.last)
    if not groups:
        raise InputError(
            f"{place}: expected the names of the model's operations, such as {_some(model.places)}, got "
            f"{_some(report.name for report in reports)}. Measure the ONNX file that autoprune exported of this model."
        )
    timings = tuple(_timing(group.places, group.reports, model, place) for group in groups)
    return Imported(timings, _notes(strange, reports))


def _join(together: dict[int, _Together], found: set[int], report: Report, number: int) -> None:
    """Add a report of some kernels; what was reported with any of them before is one time with it."""
    touched = {id(together[place]): together[place] for place in found if place in together}
    first, *others = sorted(touched.values(), key=lambda group: group.last) or [_Together(set(), [], number)]
    for other in others:
        first.places |= other.places
        first.reports = other.reports + first.reports
    first.places |= found
    first.reports.append(report)
    first.last = number
    together.update(dict.fromkeys(found.union(*(other.places for other in others)), first))


def places_in(name: str, places: Mapping[str, int]) -> set[int]:
    """Indices of the kernels whose operations a reported name mentions."""
    return {places[operation] for operation in mentioned(name, places)}


def mentioned(name: str, operations: Container[str]) -> list[str]:
    """The operations that a reported name mentions, in its order."""
    found = []
    for word in _SEPARATORS.split(name[:MAX_NAME]):
        candidates = _candidates(word) if len(word) <= MAX_WORD else ()
        known = next((candidate for candidate in candidates if candidate in operations), None)
        if known is not None:
            found.append(known)
    return found


def _candidates(word: str) -> Iterable[str]:
    """`linear.product/MatMul_token_1` -> itself, without its endings, its first part, and what that is a part of."""
    yield word
    for _ in range(MOST_ENDINGS):
        if (shorter := _ENDINGS.sub("", word)) == word:
            break
        yield (word := shorter)
    yield (word := word.partition("/")[0])
    for _ in range(MOST_PARTS):
        if not (word := word.rpartition(".")[0]):
            break
        yield word


def _timing(places: set[int], reports: Sequence[Report], model: NamedKernels, place: str) -> Timing:
    percentiles = {}
    if len(reports) == 1:  # percentiles do not add
        percentiles = dict(reports[0].percentiles_us)
    return Timing(
        place=f"{place}, {shortened(reports[0].name)}",
        kernels=tuple(model.kernels[index] for index in sorted(places)),
        mean_us=sum(report.mean_us for report in reports),
        std_us=sum(report.std_us**2 for report in reports) ** 0.5,
        n=min(report.n for report in reports),
        percentiles_us=percentiles,
    )


def _notes(strange: Sequence[Report], reports: Sequence[Report]) -> tuple[str, ...]:
    if not strange:
        return ()
    share = sum(report.mean_us for report in strange) / max(sum(report.mean_us for report in reports), 1e-12)
    return (f"{len(strange)} reports ({share:.1%} of the time) are of no operation of the model and left out",)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(f"'{shortened(name)}'" for name in listed[:3]) + (", ..." if len(listed) > 3 else "")

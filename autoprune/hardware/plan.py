"""Which kernels to time, and in which order: coarse grids first, so that a budget that ends leaves complete ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.graph.dimension import Dimension, Widths, groups_of, size
from autoprune.graph.fusion import KernelSlot
from autoprune.graph.kernel import Kernel

MAX_COMBINATIONS = 64  # of the widths of the groups in one dimension


@dataclass(frozen=True)
class PlannedKernel:
    """A kernel to time.

    Attributes:
        kernel: which.
        operator: its class.
        detail: 0 for the ends of every axis, larger the later it is needed.
    """

    kernel: Kernel
    operator: str
    detail: int


def plan_kernels(
    slots: Sequence[KernelSlot],
    widths: Mapping[str, Sequence[int]],
    dense: Mapping[str, int],
    batch: int,
    quantum: int = 1,
) -> list[PlannedKernel]:
    """The product grid of every family's widths, coarse to fine; multiples of the quantum come before other widths.

    Args:
        slots: the model's kernels.
        widths: allowed widths by group; groups not named are dense only.
        dense: size of every group.
        batch: batch size.
        quantum: the width multiple that the device rewards.
    """
    aligned = {group: aligned_widths(values, dense[group], quantum) for group, values in widths.items()}
    first: dict[str, list[set[int]]] = {}
    later: dict[str, list[set[int]]] = {}
    operators: dict[str, str] = {}
    for slot in slots:
        family = slot.family(batch)
        operators[family] = slot.operator
        for levels, allowed in ((first, aligned), (later, widths)):
            axes = levels.setdefault(family, [set() for _ in slot.dimensions])
            for axis, dimension in zip(axes, slot.dimensions, strict=True):
                axis.update(_sizes(dimension, allowed, dense))
    planned = []
    for family, axes in first.items():
        ranked = [_ranked(axis, other) for axis, other in zip(axes, later[family], strict=True)]
        for combination in itertools.product(*(rank.items() for rank in ranked)):
            detail = max((rank for _, rank in combination), default=0)
            kernel = Kernel(family, tuple(value for value, _ in combination))
            planned.append(PlannedKernel(kernel, operators[family], detail))
    return sorted(planned, key=lambda item: (item.detail, item.kernel.family, item.kernel.sizes))


def aligned_widths(widths: Sequence[int], dense: int, quantum: int) -> tuple[int, ...]:
    """The ends of a group's widths and the multiples of the quantum between; all of them where the quantum is 1.

    The quantum is halved until the group holds four, as search spaces do.
    """
    low = min([width for width in widths if width > 0], default=dense)
    while quantum > 1 and dense < 4 * quantum:
        quantum //= 2
    if quantum <= 1:
        return tuple(sorted({*widths, dense} - {0}))
    multiples = range(quantum * -(-low // quantum), dense, quantum)
    return (*sorted({low, *multiples}), dense) if low < dense else (dense,)


def _ranked(first: set[int], later: set[int]) -> dict[int, int]:
    """Level -> how early it is needed."""
    ranks = _details(sorted(first))
    last = max(ranks.values())
    rest = sorted(later - first)
    return ranks | {level: last + 1 + rank for level, rank in (_details(rest) if rest else {}).items()}


def _sizes(dimension: Dimension, widths: Mapping[str, Sequence[int]], dense: Mapping[str, int]) -> set[int]:
    """Sizes a dimension takes: over all combinations of its groups' widths where few, else over their common ranks."""
    groups = groups_of(dimension)
    choices = [sorted({*widths.get(group, ()), dense[group]} - {0}) for group in groups]
    if np.prod([len(choice) for choice in choices], dtype=np.float64) <= MAX_COMBINATIONS:
        combinations = list(itertools.product(*choices))
    else:
        ranks = np.linspace(0, 1, max(len(choice) for choice in choices))
        combinations = [tuple(choice[round(rank * (len(choice) - 1))] for choice in choices) for rank in ranks]
    named: list[Widths] = [dict(zip(groups, combination, strict=True)) for combination in combinations]
    return {int(size(dimension, item)) for item in named}


def _details(levels: Sequence[int]) -> dict[int, int]:
    """Each level -> how early it is needed: the ends 0, the middle 1, the quarters 2, ..."""
    details = {levels[0]: 0, levels[-1]: 0}
    spans, detail = [(0, len(levels) - 1)], 0
    while spans:
        detail += 1
        following = []
        for low, high in spans:
            if high - low > 1:
                middle = (low + high) // 2
                details[levels[middle]] = detail
                following += [(low, middle), (middle, high)]
        spans = following
    return details


def sample_policies(
    widths: Mapping[str, Sequence[int]], dense: Mapping[str, int], count: int, seed: int
) -> npt.NDArray[np.int64]:
    """Policies for whole models: the dense one, the smallest one, and random ones spread from small to large.

    Each random policy has a level of its own, around which its groups scatter.

    Returns:
        Widths, columns in the order of `dense`.  # (count, n_groups)
    """
    random = np.random.default_rng(seed)
    choices = [sorted({*widths.get(group, ()), units} - {0}) for group, units in dense.items()]
    rows = [[choice[-1] for choice in choices], [choice[0] for choice in choices]]
    for level in np.linspace(0.1, 0.95, max(count - 2, 0)):
        places = np.clip(random.normal(level, 0.25, len(choices)), 0, 1)
        rows.append([c[round(float(p) * (len(c) - 1))] for c, p in zip(choices, places, strict=True)])
    return np.array(rows[:count], dtype=np.int64).reshape(-1, len(choices))

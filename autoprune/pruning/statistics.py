"""What criteria measure: for every group a number a unit, summed over calibration batches in double precision.

Nothing is kept of a sample or a batch once it is summed, so memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph
from autoprune.pruning.calibration import Watcher, watch
from autoprune.pruning.criteria import Need
from autoprune.pruning.criteria.units import unit_sums
from autoprune.pruning.gradients import Loss, gradient_statistics
from autoprune.pruning.taps import Tap, find_taps

Statistics = Mapping[Need, Mapping[str, Tensor]]
"""Statistic -> group id -> a number a unit.  # (size,) float64"""


def measure(
    graph: DependencyGraph, calibration: Sequence[Any], wanted: Collection[Need], loss: Loss | None, seed: int
) -> Statistics:
    """The wanted statistics of all groups; of a group that a statistic is not measured at, nothing.

    Args:
        graph: the traced dense model.
        calibration: batches of model inputs.
        wanted: names; "consumers" is none of these statistics and is passed over.
        loss: as `gradient_statistics`.
        seed: likewise.

    Raises:
        InputError: a batch that does not fit the model's inputs; what is measured is not finite.
    """
    found: dict[Need, Mapping[str, Tensor]] = {}
    if "activation" in wanted:
        found["activation"] = activations(graph, calibration)
    gradients = sorted({"taylor", "fisher"} & set(wanted))
    if gradients:
        found.update(gradient_statistics(graph, calibration, gradients, loss, seed))
    for name, groups in found.items():
        _check_finite(name, groups)
    return found


def activations(graph: DependencyGraph, calibration: Sequence[Any]) -> dict[str, Tensor]:
    """Group id -> energy of each unit's activations where they are read, as a share of all units', over readings.

    Readings that see the same values count each.  # (size,) float64
    """
    taps = find_taps(graph)
    sums: dict[tuple[str, int], Tensor] = {}
    watchers: dict[str, list[Watcher]] = {}

    def watcher(value: str, axis: int) -> Watcher:
        def add(values: Mapping[str, Any]) -> None:
            x = values[value].detach()
            rest = [place for place in range(x.dim()) if place != axis]
            energy = x.square().sum(dim=rest, dtype=torch.float64).cpu()
            sums[value, axis] = sums[value, axis] + energy if (value, axis) in sums else energy

        return add

    for (value, axis), operation in {(tap.value, tap.axis): tap.operation for tap in reversed(taps)}.items():
        watchers.setdefault(operation, []).append(watcher(value, axis))  # at the first of those that read it
    watch(graph, calibration, watchers)
    found: dict[str, Tensor] = {}
    for group, tap in _by_group(taps):
        own = unit_sums(sums[tap.value, tap.axis], tap.dimension, group, graph.groups[group].size)
        share = own / own.sum() if float(own.sum()) > 0 else own
        found[group] = found[group] + share if group in found else share
    return found


def _by_group(taps: Iterable[Tap]) -> list[tuple[str, Tap]]:
    return [(group, tap) for tap in taps for group in tap.groups]


def _check_finite(name: str, groups: Mapping[str, Tensor]) -> None:
    for group, score in groups.items():
        if not bool(torch.isfinite(score).all()):
            raise InputError(
                f"criterion '{name}': expected finite activations and gradients, got NaN or infinity in group "
                f"'{group}'. Check that the calibration batches are preprocessed as in training."
            )

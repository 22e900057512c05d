"""The models that a profile is measured for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.core.errors import InputError
from autoprune.graph.fusion import kernel_slots
from autoprune.hardware.binding import slots_left
from autoprune.hardware.cost import Graph
from autoprune.hardware.plan import PlannedKernel, plan_kernels, sample_policies

DRAWS = 3  # of policies: small spaces draw some of them more than once


@dataclass(frozen=True, eq=False)
class Target:
    """A model to profile for, with its widths checked.

    Attributes:
        graph: the traced model.
        dense: size of every group, in order.
        widths: the widths each group may take.
    """

    graph: Graph
    dense: dict[str, int]
    widths: dict[str, Sequence[int]]

    @classmethod
    def of(cls, graph: Graph, widths: Mapping[str, Sequence[int]] | None) -> Target:
        """A model with given widths, or eight even steps a group.

        Raises:
            InputError: widths that do not fit the groups.
        """
        dense = {group: int(item.size) for group, item in graph.groups.items()}
        return cls(graph, dense, checked_widths(widths, dense))

    def planned(self, batch: int, quantum: int) -> list[PlannedKernel]:
        """The kernels to time, those of removed branches too, coarse to fine."""
        program = self.graph.program
        slots = kernel_slots(program)
        removed = [group for group, widths in self.widths.items() if 0 in widths and group in program.depth.removable]
        slots = (*slots, *slots_left(program, removed, slots))
        return plan_kernels(slots, self.widths, self.dense, batch, quantum)

    def policies(self, count: int, seed: int) -> list[tuple[int, ...]]:
        """Widths of whole models, spread over all that are allowed, each once.

        Returns:
            The dense one, the smallest, and others; fewer where there are not so many.  # count x (n_groups,)
        """
        found: dict[tuple[int, ...], None] = {}
        for draw in range(DRAWS):
            rows = sample_policies(self.widths, self.dense, count, seed + draw)
            found |= dict.fromkeys(tuple(int(width) for width in row) for row in rows)
        return list(found)[:count]

    def named(self, widths: Sequence[int]) -> dict[str, int]:
        """Group -> kept units."""
        return dict(zip(self.dense, widths, strict=True))


def checked_widths(widths: Mapping[str, Sequence[int]] | None, dense: Mapping[str, int]) -> dict[str, Sequence[int]]:
    """The widths of each group; eight even steps where there are none.

    Raises:
        InputError: an unknown group, or a width outside it.
    """
    if widths is None:
        return {
            group: sorted({max(1, round(units * step / 8)) for step in range(1, 9)}) for group, units in dense.items()
        }
    for group, values in widths.items():
        if group not in dense or any(not 0 <= value <= dense[group] for value in values):
            raise InputError(
                f"profile: expected widths of the model's groups from 0 to their size, got {list(values)} "
                f"for '{group}' (size {dense.get(group, 'unknown')})."
            )
    return dict(widths)

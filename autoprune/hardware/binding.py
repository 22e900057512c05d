"""A model's kernels bound to a profile's tables, and which of them are gone once branches are removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import InputError
from autoprune.graph.dimension import Batch, Dimension, dense_size, has_batch, size
from autoprune.graph.fusion import KernelSlot, kernel_slots
from autoprune.graph.program import Program
from autoprune.hardware.interpolation import ESTIMATED, FamilyTable, Floats, Integers
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.surface import Surface

MAX_CACHE = 1 << 22  # widths of one family that are kept in a flat array

Kinds = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_]


@dataclass(eq=False)
class Family:
    """One family in this model: its measured kernels and everything predicted so far.

    Attributes:
        name: its text.
        table: times alone.
        surface: times inside models, where those are to predict.
        bases: one more than the widest size of each dimension.
    """

    name: str
    table: FamilyTable | None
    surface: Surface | None
    bases: tuple[int, ...]
    times: Floats = field(init=False)
    kinds: Kinds = field(init=False)

    def __post_init__(self) -> None:
        self.cells = int(np.prod(self.bases, dtype=np.float64))
        kept = self.cells if self.cells <= MAX_CACHE else 0
        self.times = np.full(kept, np.nan)
        self.kinds = np.full(kept, ESTIMATED, dtype=np.int8)

    def decode(self, codes: Integers) -> Integers:
        """Mixed-radix codes back to sizes.  # (m, d)"""
        sizes = np.zeros((len(codes), len(self.bases)), dtype=np.int64)
        rest = codes
        for axis in reversed(range(len(self.bases))):
            rest, sizes[:, axis] = np.divmod(rest, self.bases[axis])
        return sizes


@dataclass(frozen=True, eq=False)
class BoundSlot:
    """One kernel of the model and the table that times it."""

    slot: KernelSlot
    family: Family


@dataclass(frozen=True, eq=False)
class _Removal:
    """What removing one group's branch does to the kernels."""

    operations: frozenset[str]  # of the dense program that are gone
    gone: frozenset[int]  # kernels of the dense program that are gone, or run without some of their operations
    added: tuple[BoundSlot, ...]  # what is left of those


class Binding:
    """The kernels of a program with the rows that time them.

    Args:
        program: the dense program.
        rows: of the profile, none of a kernel that failed.
        batch: of the profile.
        quantum: of the profile, for times inside models; None where only times alone are to predict.

    Attributes:
        slots: kernels of the dense program, in execution order.
    """

    def __init__(self, program: Program, rows: Sequence[KernelRow], batch: int, quantum: int | None = None) -> None:
        self._program = program
        self._batch = batch
        self._quantum = quantum
        self._rows: dict[tuple[str, str], list[KernelRow]] = {}
        for row in rows:
            self._rows.setdefault((row.family, row.within), []).append(row)
        self.slots = self._bound(kernel_slots(program))
        self._removals: dict[str, _Removal] = {}

    def _bound(self, slots: Sequence[KernelSlot]) -> tuple[BoundSlot, ...]:
        names = [slot.family(self._batch) for slot in slots]
        bases: dict[str, tuple[int, ...]] = {}
        for slot, name in zip(slots, names, strict=True):
            own = tuple(self._dense(dimension) + 1 for dimension in slot.dimensions)
            bases[name] = tuple(map(max, own, bases.get(name, own)))
        families = {
            name: Family(name, self._table(name, len(base)), self._surface(name, len(base)), base)
            for name, base in bases.items()
        }
        return tuple(BoundSlot(slot, families[name]) for slot, name in zip(slots, names, strict=True))

    def _table(self, family: str, dimensions: int) -> FamilyTable | None:
        rows = self._checked(family, "alone", dimensions)
        return FamilyTable.of(rows) if rows else None

    def _surface(self, family: str, dimensions: int) -> Surface | None:
        if self._quantum is None:
            return None
        return Surface.of(self._checked(family, "model", dimensions), self._quantum)

    def _checked(self, family: str, within: str, dimensions: int) -> list[KernelRow]:
        rows = self._rows.get((family, within), [])
        wrong = [row for row in rows if len(row.sizes) != dimensions]
        if wrong:
            raise InputError(
                f"profile: expected {dimensions} sizes for the kernels of {family[:80]!r}, got {wrong[0].sizes}. "
                "Correct kernels.csv, or profile the device anew."
            )
        return rows

    def _dense(self, dimension: Dimension) -> int:
        return int(size(dimension, {Batch.KEY: self._batch})) if has_batch(dimension) else dense_size(dimension)

    def running(self, named: Mapping[str, Integers]) -> Iterator[tuple[BoundSlot, Mask | None]]:
        """Every kernel that some policy runs, and which policies do (all where None).

        First those of the dense program, in order; then what is left of kernels that lost a part with a removed branch.
        Removals are looked at one by one: where several meet in one kernel, it counts as one of them leaves it.

        Args:
            named: closed widths of all groups.  # group id -> (n,)
        """
        removable = self._program.depth.removable
        zeros = {group: widths == 0 for group, widths in named.items() if group in removable and np.any(widths == 0)}
        removals = {group: self._removal(group) for group in zeros}
        for place, slot in enumerate(self.slots):
            gone = [zeros[group] for group, removal in removals.items() if place in removal.gone]
            yield slot, ~np.logical_or.reduce(gone) if gone else None
        added: dict[tuple[str, ...], tuple[BoundSlot, Mask]] = {}
        for group, removal in removals.items():
            for bound in removal.added:
                operations = bound.slot.operations
                gone = [zeros[g] for g, other in removals.items() if not other.operations.isdisjoint(operations)]
                here = zeros[group] & ~np.logical_or.reduce([*gone, np.zeros_like(zeros[group])])
                before = added.get(operations)
                added[operations] = (bound, here if before is None else before[1] | here)
        yield from added.values()

    def _removal(self, group: str) -> _Removal:
        if group not in self._removals:
            reduced = self._program.depth.reduce(frozenset({group})).program
            left = {operation.name for operation in reduced.operations}
            same = {slot.operations for slot in kernel_slots(reduced)}
            self._removals[group] = _Removal(
                frozenset(op.name for op in self._program.operations if op.name not in left),
                frozenset(place for place, bound in enumerate(self.slots) if bound.slot.operations not in same),
                self._bound(slots_left(self._program, [group], [bound.slot for bound in self.slots])),
            )
        return self._removals[group]


def slots_left(program: Program, groups: Iterable[str], dense: Sequence[KernelSlot]) -> list[KernelSlot]:
    """Kernels that only run where a group's branch is removed: what is left of those that lost a part with it.

    Args:
        program: the dense program.
        groups: removable groups, looked at one by one.
        dense: its kernels.
    """
    seen = {slot.operations for slot in dense}
    found = []
    for group in groups:
        for slot in kernel_slots(program.depth.reduce(frozenset({group})).program):
            if slot.operations not in seen:
                seen.add(slot.operations)
                found.append(slot)
    return found

"""Consumers: the parameters that are contracted with a group's activations, seen as regressions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from autoprune.graph import DependencyGraph
from autoprune.graph.dimension import (
    Constant,
    Dimension,
    Indices,
    Product,
    dense_size,
    groups_of,
    indices,
)
from autoprune.graph.program import Operation, Program, Ref
from autoprune.pruning.contractions import Contraction, Layout, Reading, find_contractions, parameter_views

JOINT_UP_TO = 1152
"""Convolutions with at most this many inputs x kernel positions are fitted over all of them at once (128 channels at
3 x 3); above, all kernel positions share one channel-level fit. On a ResNet-20 cut by 50, 62.5, 75 and 87.5 % the joint
fit keeps 0.6, 0.8, 0.5 and 6.1 points more accuracy."""

POOL_ABOVE = 2048
"""Flattened inputs with more columns than this share one fit over positions."""

LARGEST = 8192
"""Inputs with more columns than this are not fitted (a Gram matrix takes 0.5 GB there): their units are ordered by
energy and sliced."""


@dataclass(frozen=True)
class Shift:
    """A per-output vector that can take up a change of means.

    Attributes:
        name: state-dict name: a bias, or the running mean of the batch norm right behind.
        sign: +1 where it is added to the output, -1 where it is subtracted.
    """

    name: str
    sign: int


@dataclass(frozen=True)
class Source:
    """What moments are taken of: consumers that read the same values alike share them.

    Attributes:
        readings: the activations; several where a parameter is used several times.
        operations: one for each reading, before which its value is at hand.
        joint: whether kernel positions are columns too.
        split: positions that a flattened input's columns split into (they share one fit), else 1.
        columns: columns of the regression in the dense model.
        name: of the layer, for messages.
        diagonal: whether only the energies of columns are wanted, not their correlations.
    """

    readings: tuple[Reading, ...]
    operations: tuple[str, ...]
    joint: bool
    split: int
    columns: int
    name: str
    diagonal: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for sources with equal moments."""
        return (self.readings, self.joint, self.split, self.diagonal)


@dataclass(frozen=True)
class Consumer:
    """One parameter that is contracted with activations that carry groups.

    Attributes:
        parameter: state-dict name.
        source: what it reads.
        dimension: the columns of the regression, over groups.
        axes: the parameter's column axes, over groups.
        layout: which axes these are.
        shift: what takes up a change of means; None where nothing can.
        fixed: whether the weight must stay as it is (it is used otherwise too: tied to an embedding, say). It then
            counts for orders, without compensation.
    """

    parameter: str
    source: Source
    dimension: Dimension
    axes: tuple[Dimension, ...]
    layout: Layout
    shift: Shift | None = None
    fixed: bool = False

    @property
    def columns(self) -> int:
        """Columns of the regression in the dense model."""
        return self.source.columns

    @property
    def groups(self) -> tuple[str, ...]:
        """Ids of the groups its input carries."""
        return groups_of(self.dimension)

    def rows(self, weight: Tensor) -> Tensor:
        """The weight as rows over columns.

        A row is one output, at one kernel position where these share a fit, at one position of a flattened input.
        # (blocks, rows, columns)
        """
        shaped, order = self._ordered(weight)
        sizes = [shaped.shape[axis] for axis in order]
        blocks = math.prod(sizes[: len(self.layout.blocks)])
        rows = math.prod(sizes[len(self.layout.blocks) : -len(self.layout.columns)])
        split = self.source.split
        flat = shaped.permute(order).reshape(blocks, rows, -1, split)
        return flat.transpose(2, 3).reshape(blocks, rows * split, flat.shape[2])

    def weight(self, rows: Tensor, like: Tensor, kept: Mapping[str, Indices]) -> Tensor:
        """The inverse of `rows` for kept columns; `like` is the dense weight."""
        shaped, order = self._ordered(like)
        sizes = [shaped.shape[axis] for axis in order][: -len(self.layout.columns)]
        left = [indices(dimension, kept).size for dimension in self.axes]
        split, blocks = self.source.split, rows.shape[0]
        flat = rows.reshape(blocks, rows.shape[1] // split, split, rows.shape[2]).transpose(2, 3)
        back = sorted(range(len(order)), key=order.__getitem__)
        result = flat.reshape(*sizes, *left).permute(back)
        result = result.flatten(0, 1) if self.layout.groups is not None else result
        return result.contiguous().to(like.dtype)

    def _ordered(self, weight: Tensor) -> tuple[Tensor, list[int]]:
        """The weight with its groups apart, and its axes in the order blocks, outputs, columns."""
        layout = self.layout
        groups = layout.groups
        shaped = weight if groups is None else weight.unflatten(0, (groups, weight.shape[0] // groups))
        rest = [a for a in range(shaped.dim()) if a not in (*layout.blocks, *layout.columns)]
        return shaped, [*layout.blocks, *rest, *layout.columns]


def find_consumers(graph: DependencyGraph) -> tuple[Consumer, ...]:
    """Every parameter that is contracted with activations of a group, in program order.

    A parameter that is contracted in two ways, or used by another operation too, makes fixed consumers.
    """
    program = graph.program
    views = parameter_views(program)
    contractions = find_contractions(program)
    made = {contraction.operation for contraction in contractions}
    others = {  # parameters that something else reads
        views[name][0]
        for operation in program.operations
        if operation.name not in made and operation.name not in views
        for name in operation.refs()
        if name in views
    }
    uses: dict[tuple[str, Layout], list[Contraction]] = {}
    for contraction in contractions:
        uses.setdefault((contraction.parameter, contraction.layout), []).append(contraction)
    layouts = [parameter for parameter, _ in uses]
    found = []
    for (parameter, layout), alike in uses.items():
        fixed = parameter in others or layouts.count(parameter) > 1
        consumer = _consumer(graph, parameter, layout, alike, fixed)
        found.extend([] if consumer is None else [consumer])
    return tuple(found)


def _consumer(
    graph: DependencyGraph, parameter: str, layout: Layout, uses: Sequence[Contraction], fixed: bool
) -> Consumer | None:
    program = graph.program
    dims = program.values[parameter].dimensions
    if layout.groups is not None and 1 in layout.columns and layout.groups > 1:
        return None  # a grouped transposed convolution: its axis 0 is groups x inputs, one dimension
    places = [axis if layout.groups is None else axis - 1 for axis in layout.columns]
    axes = tuple(dims[place] for place in places)
    columns: Dimension = axes[0] if len(axes) == 1 else Product(axes)
    if not groups_of(columns):
        return None
    windows = {use.reading.window for use in uses}
    window = next(iter(windows))
    split, joint = 1, False
    if window is None:
        columns, split = _pooled(graph, columns)
    elif len(windows) == 1 and not window.transposed and dense_size(columns) * window.taps <= JOINT_UP_TO:
        joint = True
        if window.taps > 1:
            kernel = tuple(dims[2:])
            axes, columns = (*axes, *kernel), Product((columns, Constant(window.taps)))
            layout = Layout(layout.groups, layout.blocks, (*layout.columns, *range(3, 3 + len(kernel))))
    fixed = fixed or dense_size(columns) > LARGEST
    operations = {use.reading: use.operation for use in uses}
    readings = tuple(sorted(operations, key=repr))  # equal sources have equal keys
    name = parameter.removesuffix(".weight")
    source = Source(
        readings, tuple(operations[r] for r in readings), joint, split, dense_size(columns), name, diagonal=fixed
    )
    return Consumer(parameter, source, columns, axes, layout, None if fixed else _shift(program, uses), fixed)


def _pooled(graph: DependencyGraph, dimension: Dimension) -> tuple[Dimension, int]:
    """A flattened input's columns and the positions that share them (see `POOL_ABOVE`); heads are no positions."""
    units = {graph.groups[name].unit for name in groups_of(dimension)}
    split = 1
    if dense_size(dimension) > POOL_ABOVE and not units & {"head", "head_dim"}:
        while isinstance(dimension, Product) and isinstance(dimension.factors[-1], Constant):
            split *= dimension.factors[-1].value
            rest = dimension.factors[:-1]
            dimension = rest[0] if len(rest) == 1 else Product(rest)
    return dimension, split


def _shift(program: Program, uses: Sequence[Contraction]) -> Shift | None:
    """What can take up the means of all uses at once."""
    readers = program.readers
    found = {_taken_up(program, readers, use) for use in uses}
    shift = found.pop()
    alone = shift is not None and not found and len(readers[shift.name]) == len(uses)
    return shift if alone else None


def _taken_up(program: Program, readers: Mapping[str, tuple[Operation, ...]], use: Contraction) -> Shift | None:
    """The bias of one use: its own, or a batch norm's mean or a parameter that is added right behind."""
    if use.added is not None:
        return Shift(use.added, 1) if _along_outputs(program, use, use.added) else None
    behind = readers.get(use.operation, ()) if use.operation not in program.outputs else ()
    if len(behind) != 1:
        return None
    operation = behind[0]
    if operation.target == "aten.batch_norm.default" and operation.module is not None:
        mean = operation.argument(3, "running_mean")
        return Shift(mean.name, -1) if isinstance(mean, Ref) else None
    if operation.kind == "add" and not operation.kwargs and use.reading.window is None:
        others = [a for a in operation.args if isinstance(a, Ref) and a.name != use.operation]
        if len(others) == 1 and _along_outputs(program, use, others[0].name):
            return Shift(others[0].name, 1)
    return None


def _along_outputs(program: Program, use: Contraction, bias: str) -> bool:
    """Whether a parameter's elements are the weight's blocks x outputs, in this order."""
    if bias not in program.parameters:
        return False
    given = [d for d in program.values[bias].dimensions if d != Constant(1)]
    if use.reading.window is not None:
        return len(given) == 1 or not given  # a convolution's own
    weight = program.values[use.parameter].dimensions
    blocks = [weight[axis] for axis in use.layout.blocks]
    outputs = [d for axis, d in enumerate(weight) if axis not in (*use.layout.blocks, *use.layout.columns)]
    wide = [d for d in outputs if d != Constant(1)]
    result = program.values[use.operation].dimensions
    if not blocks:
        return given == wide and list(result[len(result) - len(outputs) :]) == outputs
    aligned = len(program.values[bias].dimensions) == len(result) and list(result[: len(blocks)]) == blocks
    return aligned and given == [*blocks, *wide] and list(result[len(result) - len(outputs) :]) == outputs

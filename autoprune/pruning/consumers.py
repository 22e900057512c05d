"""Consumers: the convolutions and linear layers that read a group's activations, seen as regressions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from autoprune.graph import DependencyGraph
from autoprune.graph.dimension import Constant, Dimension, Product, dense_size, groups_of
from autoprune.graph.program import Operation, Program, Ref

JOINT_UP_TO = 1152
"""Convolutions with at most this many inputs x kernel positions are fitted over all of them at once (128 channels at
3 x 3); above, all kernel positions share one channel-level fit. On a ResNet-20 cut by 50, 62.5, 75 and 87.5 % the joint
fit keeps 0.6, 0.8, 0.5 and 6.1 points more accuracy."""

POOL_ABOVE = 2048
"""Flattened inputs with more columns than this share one fit over positions."""


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
class Consumer:
    """One layer whose input carries groups.

    Attributes:
        parameter: state-dict name of its weight.
        module: name of the layer.
        dimension: the columns of the regression, over groups.
        blocks: groups of a grouped convolution, else 1.
        positions: kernel positions (or positions of a flattened input) that share one fit; 1 where each is a column.
        shift: what takes up a change of means; None where nothing can.
    """

    parameter: str
    module: str
    dimension: Dimension
    blocks: int
    positions: int
    shift: Shift | None

    @property
    def columns(self) -> int:
        """Columns of the regression in the dense model."""
        return dense_size(self.dimension)

    @property
    def groups(self) -> tuple[str, ...]:
        """Ids of the groups its input carries."""
        return groups_of(self.dimension)

    def rows(self, weight: Tensor) -> Tensor:
        """The weight as rows over columns; a row is one output at one shared position.  # (blocks, rows, columns)"""
        shaped = weight.reshape(self.blocks, weight.shape[0] // self.blocks, -1, self.positions)
        return shaped.transpose(2, 3).reshape(self.blocks, -1, shaped.shape[2])

    def weight(self, rows: Tensor, like: Tensor) -> Tensor:
        """The inverse of `rows`; `like` is the dense weight, the columns may be fewer."""
        shaped = rows.reshape(self.blocks, like.shape[0] // self.blocks, self.positions, -1).transpose(2, 3)
        return shaped.reshape(like.shape[0], -1, *like.shape[2:]).to(like.dtype)


def find_consumers(graph: DependencyGraph, module: nn.Module) -> dict[str, Consumer]:
    """Every convolution and linear layer whose input carries a group, by weight parameter, in program order.

    Weights used by something that is not such a layer (a functional call, a transposed convolution) are left out: their
    groups are ordered by their other consumers, and they are sliced without compensation.
    """
    uses: dict[str, list[Operation]] = {}
    for operation in graph.program.operations:
        for read in dict.fromkeys(operation.refs()):
            uses.setdefault(read, []).append(operation)
    parameters = dict.fromkeys(m.parameter for group in graph.groups.values() for m in group.consumers if m.axis == 1)
    order = {operation.module: index for index, operation in enumerate(graph.program.operations)}
    found = {}
    for parameter in parameters:
        names: set[str | None] = {operation.module for operation in uses.get(parameter, ())}
        name = names.pop() if len(names) == 1 else None
        layer = module.get_submodule(name) if name is not None else None
        if name is None or not _is_regression(layer):
            continue
        columns, positions = _columns(graph.program.values[parameter].dimensions[1], layer)
        shift = _shift(graph.program, uses, uses[parameter])
        found[parameter] = Consumer(parameter, name, columns, getattr(layer, "groups", 1), positions, shift)
    return dict(sorted(found.items(), key=lambda pair: order[pair[1].module]))


def _is_regression(layer: nn.Module | None) -> bool:
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return isinstance(layer, (nn.Linear, *convolutions)) and not isinstance(layer, _ConvTransposeNd)


def _columns(dimension: Dimension, layer: nn.Module | None) -> tuple[Dimension, int]:
    """The regression's columns and the positions that share them (see `JOINT_UP_TO`, `POOL_ABOVE`)."""
    positions = 1
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        taps = math.prod(layer.kernel_size)
        joint = dense_size(dimension) * taps <= JOINT_UP_TO
        return (Product((dimension, Constant(taps))), 1) if joint and taps > 1 else (dimension, taps)
    if isinstance(layer, nn.Linear) and dense_size(dimension) > POOL_ABOVE:
        while isinstance(dimension, Product) and isinstance(dimension.factors[-1], Constant):
            positions *= dimension.factors[-1].value
            rest = dimension.factors[:-1]
            dimension = rest[0] if len(rest) == 1 else Product(rest)
    return dimension, positions


def _shift(program: Program, uses: dict[str, list[Operation]], calls: list[Operation]) -> Shift | None:
    bias = calls[0].argument(2, "bias")
    if isinstance(bias, Ref):
        return Shift(bias.name, 1) if bias.name in program.parameters and len(uses[bias.name]) == len(calls) else None
    result = calls[0].results[0]
    readers = uses.get(result, []) if len(calls) == 1 and result not in program.outputs else []
    if len(readers) == 1 and readers[0].target == "aten.batch_norm.default" and readers[0].module is not None:
        mean = readers[0].argument(3, "running_mean")
        if isinstance(mean, Ref) and len(uses[mean.name]) == 1:
            return Shift(mean.name, -1)
    return None

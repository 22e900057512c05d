"""Which values are constant once some groups are empty, followed operation by operation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from autoprune.graph.dimension import Batch, Constant, has_batch, size
from autoprune.graph.program import Operation, Program, Ref
from autoprune.graph.rules import is_elementwise, segments

CHANNELS = {"linear": -1, "conv1d": 1, "conv2d": 1, "conv3d": 1, "conv_transpose1d": 1, "conv_transpose2d": 1,
            "conv_transpose3d": 1, "batch_norm": 1, "group_norm": 1, "layer_norm": -1}  # fmt: skip
"""Operators with a bias: the axis of the result that it is added along."""

_CONTRACTIONS = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
                 "matmul", "bmm", "mm", "addmm", "baddbmm", "einsum")  # fmt: skip
_MERGES = ("add", "sub", "mul")
_KEEP_ZERO = ("relu", "gelu", "silu", "tanh", "mul", "dropout", "clone", "contiguous", "to", "_to_copy", "neg",
              "permute", "transpose", "reshape", "view", "unsqueeze", "squeeze", "roll", "slice", "flip")  # fmt: skip
_SAME_AXES = ("roll", "slice", "flip")
_AVERAGES = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
_TRACED = {Batch.KEY: 1009}  # a prime: it divides nothing else


class NotConstantError(Exception):
    """What follows from the empty groups cannot leave the program; the message is a reason."""


@dataclass(frozen=True)
class Known:
    """What is known of a constant value.

    Attributes:
        varies: per axis, whether elements differ along it.
        zero: whether it is zero everywhere.
    """

    varies: tuple[bool, ...]
    zero: bool

    @property
    def axis(self) -> int | None:
        """The one axis along which it varies; None where it is the same everywhere."""
        return self.varies.index(True) if True in self.varies else None


@dataclass
class Flow:
    """What is empty and what is constant, followed operation by operation."""

    program: Program
    fixed: frozenset[str]  # parameters, buffers, and what is computed from them alone
    empty: set[str]
    constants: dict[str, Known] = field(default_factory=dict)
    merges: dict[str, str] = field(default_factory=dict)  # operation -> its constant operand

    def visit(self, operation: Operation) -> tuple[str, ...]:
        """Decide one operation; the results that are constant, which is to be followed."""
        if all(name in self.empty for name in operation.results):
            return ()
        reads = operation.refs()
        kind = operation.kind
        if any(name in self.empty for name in reads):
            if kind not in _CONTRACTIONS:
                raise NotConstantError(f"{operation.target} ({operation.name}) would read an empty tensor")
            return self._constant(operation, self._of_nothing(operation, kind))
        if all(name in self.constants or name in self.fixed for name in reads):
            return self._constant(operation, self._followed(operation, kind))
        held = [name for name in reads if name in self.constants]
        if kind not in _MERGES or len(held) != 1:
            raise NotConstantError(f"{operation.target} ({operation.name}) needs more than a constant")
        known = self.constants[held[0]]
        if sum(known.varies) > 1 or (kind == "mul" and known.zero):
            raise NotConstantError(f"the constant at {operation.name} differs from place to place")
        if known.axis is not None and has_batch(self.program.values[held[0]].dimensions[known.axis]):
            raise NotConstantError(f"the constant at {operation.name} differs along the batch")
        self.merges[operation.name] = held[0]
        return ()

    def _constant(self, operation: Operation, known: Known) -> tuple[str, ...]:
        if any(name in self.program.outputs for name in operation.results):
            raise NotConstantError("an output of the model would not depend on its inputs")
        if len(operation.results) != 1:
            raise NotConstantError(f"{operation.target} ({operation.name}) has several results")
        self.constants[operation.name] = known
        return operation.results

    def _of_nothing(self, operation: Operation, kind: str) -> Known:
        """A sum over nothing: zero, plus the bias."""
        rank = len(self.program.values[operation.name].dimensions)
        varies = [False] * rank
        added = operation.args[0] if kind in ("addmm", "baddbmm") else operation.argument(2, "bias")
        if kind not in (*CHANNELS, "addmm", "baddbmm") or not isinstance(added, Ref):
            return Known(tuple(varies), zero=True)
        if kind in CHANNELS:
            varies[CHANNELS[kind] % rank] = True
            return Known(tuple(varies), zero=False)
        if added.name not in self.fixed or operation.kwargs:
            raise NotConstantError(f"{operation.target} ({operation.name}) adds to a live value")
        return Known(self._aligned([added.name], rank), zero=False)

    def _followed(self, operation: Operation, kind: str) -> Known:
        """An operator on constants and parameters alone."""
        first = self.constants.get(operation.refs()[0])
        dimensions = self.program.values[operation.name].dimensions
        zero = kind in _KEEP_ZERO and any(self.constants[n].zero for n in operation.refs() if n in self.constants)
        if first is None and not is_elementwise(operation.target):
            return Known((True,) * len(dimensions), zero=False)
        return Known(self._variation(operation, kind, first), zero)

    def _variation(self, operation: Operation, kind: str, first: Known | None) -> tuple[bool, ...]:
        rank = len(self.program.values[operation.name].dimensions)
        if is_elementwise(operation.target):
            return self._aligned(operation.refs(), rank)
        varies = list(first.varies) if first is not None else []
        if kind in _SAME_AXES:
            return tuple(varies)
        if kind in ("batch_norm", "group_norm"):
            varies[1] = True
        elif kind in ("layer_norm", "rms_norm"):
            trailing = len(operation.args[1])
            varies[-trailing:] = [True] * trailing
        elif kind == "linear":
            varies[-1] = True
        elif kind in ("conv1d", "conv2d", "conv3d") and self._is_pointwise(operation):
            varies[1] = True
        elif kind == "permute":
            varies = [varies[axis] for axis in operation.args[1]]
        elif kind in ("transpose", "swapaxes"):
            a, b = operation.args[1], operation.args[2]
            varies[a], varies[b] = varies[b], varies[a]
        elif kind == "unsqueeze":
            varies.insert(operation.args[1] % rank, False)
        elif kind in _AVERAGES and not any(varies[2:]):
            pass
        elif kind == "mean" and len(operation.args) > 1:
            axes = {axis % len(varies) for axis in _flat(operation.args[1])}
            keeps = operation.argument(2, "keepdim", False)
            varies = [flag and axis not in axes for axis, flag in enumerate(varies) if keeps or axis not in axes]
        elif kind in ("reshape", "view"):
            varies = self._reshaped(operation, varies)
        else:
            varies = [True] * rank
        return tuple(varies)

    def _aligned(self, names: Iterable[str], rank: int) -> tuple[bool, ...]:
        """Broadcasting: an axis varies where it does in one of the operands."""
        varies = [False] * rank
        for name in names:
            dimensions = self.program.values[name].dimensions
            known = self.constants.get(name)
            own = known.varies if known is not None else [d != Constant(1) for d in dimensions]
            for axis, flag in enumerate(own, start=rank - len(dimensions)):
                varies[axis] = varies[axis] or flag
        return tuple(varies)

    def _is_pointwise(self, operation: Operation) -> bool:
        kernel = self.program.values[operation.args[1].name].dimensions[2:]
        padding = operation.argument(4, "padding", 0)
        return all(d == Constant(1) for d in kernel) and set(_flat(padding)) <= {0}

    def _reshaped(self, operation: Operation, varies: list[bool]) -> list[bool]:
        """Regrouped axes vary where one of those they are made of does."""
        source = self.program.values[operation.refs()[0]].dimensions
        target = self.program.values[operation.name].dimensions
        sizes = [[size(d, _TRACED) for d in dimensions] for dimensions in (source, target)]
        result = [False] * len(target)
        for old, new in segments(*sizes):
            if any(varies[old]):
                wide = [axis for axis in range(*new.indices(len(target))) if sizes[1][axis] != 1]
                for axis in wide:
                    result[axis] = True
        return result


def _flat(item: Any) -> list[Any]:
    return [part for each in item for part in _flat(each)] if isinstance(item, (tuple, list)) else [item]

"""Fused operations of the deployed program: what an inference runtime runs as one kernel.

A convolution takes the batch norm, activation, residual addition and activation behind it; a linear layer or any
element-wise operation takes the element-wise ones behind it; views cost nothing; everything else is a kernel alone.
Only values that nothing else reads are fused away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from autoprune.graph.dimension import Batch, Constant, Dimension, Widths, size
from autoprune.graph.kernel import Kernel
from autoprune.graph.program import Operation, Program, Ref, Size, Value
from autoprune.graph.slot_text import folded_norm, slot_text

CONVOLUTIONS = frozenset(
    f"aten.{name}"
    for name in ("conv1d.default", "conv2d.default", "conv3d.default", "conv1d.padding", "conv2d.padding")
)
LINEAR = "aten.linear.default"
_UNARY = ("relu", "relu6", "hardtanh", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish", "hardsigmoid")
_UNARY_TOO = ("sigmoid", "tanh", "softplus", "clamp", "neg", "exp", "sqrt", "rsqrt", "abs")
_BINARY = ("add", "sub", "mul", "div")
ELEMENTWISE = frozenset(
    [f"aten.{name}{mark}.default" for name in (*_UNARY, *_UNARY_TOO) for mark in ("", "_")]
    + [f"aten.{name}{mark}.{kind}" for name in _BINARY for mark in ("", "_") for kind in ("Tensor", "Scalar")]
    + ["aten.batch_norm.default", "aten.pow.Tensor_Scalar"]
)
_IDENTITIES = ("dropout", "dropout_", "feature_dropout", "alpha_dropout", "alias", "contiguous", "detach", "detach_")
IDENTITIES = frozenset(f"aten.{name}.default" for name in (*_IDENTITIES, "clone", "lift_fresh_copy"))
_VIEWS = ("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int")
VIEWS = frozenset(
    f"aten.{name}" for name in (*_VIEWS, "squeeze.default", "squeeze.dim", "squeeze.dims", "unsqueeze.default")
)
_ENDLESS = (1 << 63) - 1
_BATCH = re.compile(r"\bn\b")
_BYTES = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}


def value_bytes(value: Value, widths: Widths) -> Any:
    """Bytes of a tensor under `widths`: an int, or an int64 array."""
    total: Any = _BYTES.get(value.dtype, 4)
    for dimension in value.dimensions:
        total = total * size(dimension, widths)
    return total


def _elements(value: Value, widths: Widths) -> Any:
    total: Any = 1
    for dimension in value.dimensions:
        total = total * size(dimension, widths)
    return total


@dataclass(frozen=True, eq=False)
class KernelSlot:
    """One fused operation of the deployed program, sizes as expressions over groups.

    Attributes:
        name: of its first operation.
        operator: the class its efficiency is fitted by: `conv`, `pointwise`, `depthwise`, `grouped`, `linear`,
            `matmul`, `pool`, `concat`, `reduce`, `elementwise`, `other`.
        operations: names of the fused operations, in order.
        inputs, parameters, outputs: names of the activations and parameters it reads and the values it leaves.
        signature: the family's text with the batch still named `n`.
        dimensions: what `c0`, `c1`, ... of the signature are.
    """

    name: str
    operator: str
    operations: tuple[str, ...]
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    outputs: tuple[str, ...]
    signature: str
    dimensions: tuple[Dimension, ...]
    _program: Program
    _folded: frozenset[str]  # norms that are part of a convolution's weights when deployed

    def family(self, batch: int = 1) -> str:
        """The family's text at a batch size."""
        return _BATCH.sub(str(batch), self.signature)

    def kernel(self, widths: Widths) -> Kernel:
        """The kernel under `widths` (group id -> int; batch under `Batch.KEY`)."""
        sizes = tuple(int(size(dimension, widths)) for dimension in self.dimensions)
        return Kernel(self.family(int(widths.get(Batch.KEY, 1))), sizes)

    def flops(self, widths: Widths) -> Any:
        """Floating-point operations (two a multiply-accumulate) under `widths`."""
        total: Any = 0
        by_name = {operation.name: operation for operation in self._program.operations}
        for name in self.operations:
            if name not in self._folded:
                total = total + _operation_flops(self._program, by_name[name], widths)
        return total

    def bytes(self, widths: Widths) -> Any:
        """Bytes of everything it reads and writes, once each, under `widths`."""
        names = (*self.inputs, *self.parameters, *self.outputs)
        return sum(value_bytes(self._program.values[name], widths) for name in names)


def _operation_flops(program: Program, operation: Operation, widths: Widths) -> Any:
    result = program.values[operation.results[0]]
    if operation.target in CONVOLUTIONS or operation.target == LINEAR:
        weight = program.values[operation.argument(1, "weight").name]
        inner: Any = 2
        for dimension in weight.dimensions[1:]:
            inner = inner * size(dimension, widths)
        return inner * _elements(result, widths)
    if operation.target in ("aten.matmul.default", "aten.bmm.default", "aten.mm.default"):
        left = program.values[operation.argument(0, "self").name]
        return 2 * size(left.dimensions[-1], widths) * _elements(result, widths)
    reads = [name for name in operation.refs() if name not in program.parameters and name not in program.buffers]
    return max((_elements(program.values[name], widths) for name in reads), key=_magnitude, default=0)


def _magnitude(value: Any) -> float:
    return float(value.max()) if hasattr(value, "max") else float(value)


@dataclass
class _Draft:
    """A kernel while operations are still being added to it."""

    operations: list[Operation]
    tail: str


def kernel_slots(program: Program) -> tuple[KernelSlot, ...]:
    """The fused operations of a program, in execution order."""
    readers = _reader_counts(program)
    alias: dict[str, str] = {}  # same value, same shape, under another name
    drafts: list[_Draft] = []
    producer: dict[str, int] = {}  # value -> index of the draft that leaves it (views included)
    for operation in program.operations:
        if _is_identity(operation):
            source = operation.refs()[0]
            alias[operation.name] = alias.get(source, source)
            producer[operation.name] = producer.get(source, -1)
            continue
        if operation.target in VIEWS or not _is_tensor(program, operation):
            reads = [producer.get(name, -1) for name in operation.refs()]
            for result in operation.results:
                producer[result] = max(reads, default=-1)
            continue
        index = _fuse_into(program, operation, drafts, producer, alias, readers)
        if index is None:
            drafts.append(_Draft([operation], operation.name))
            index = len(drafts) - 1
        else:
            drafts[index].operations.append(operation)
            drafts[index].tail = operation.name
        for result in operation.results:
            producer[result] = index
    return tuple(_slot(program, draft, alias) for draft in drafts)


def storage(program: Program) -> dict[str, str]:
    """Each view, and each value under another name -> the value whose bytes it shares."""
    owner: dict[str, str] = {}
    for operation in program.operations:
        if operation.target in VIEWS or _is_identity(operation):
            source = operation.refs()[0]
            owner[operation.name] = owner.get(source, source)
    return owner


def _reader_counts(program: Program) -> dict[str, int]:
    counts: dict[str, int] = {}
    for operation in program.operations:
        for name in set(operation.refs()):
            counts[name] = counts.get(name, 0) + 1
    for output in program.outputs:
        if output is not None:
            counts[output] = counts.get(output, 0) + 1
    return counts


def _is_tensor(program: Program, operation: Operation) -> bool:
    if not operation.target.startswith("aten.") or operation.target.startswith(("aten.sym_", "aten._assert")):
        return False
    return any(program.values[name].dtype != "int" for name in operation.results if name in program.values)


def _is_identity(operation: Operation) -> bool:
    return bool(operation.refs()) and (operation.target in IDENTITIES or is_whole_slice(operation))


def is_whole_slice(operation: Operation) -> bool:
    """Whether it is a slice that takes everything, as `x[:, None]` leaves behind."""
    if operation.target != "aten.slice.Tensor":
        return False
    start, end, step = (operation.argument(2, "start"), operation.argument(3, "end"), operation.argument(4, "step", 1))
    return start in (None, 0) and (end is None or (isinstance(end, int) and end >= _ENDLESS)) and step == 1


def _fuse_into(
    program: Program,
    operation: Operation,
    drafts: list[_Draft],
    producer: dict[str, int],
    alias: dict[str, str],
    readers: dict[str, int],
) -> int | None:
    """The draft this operation joins: that of its latest operand, if that is its tail and nothing else reads it."""
    if operation.target not in ELEMENTWISE:
        return None
    operands = [name for name in operation.refs() if name not in program.parameters and name not in program.buffers]
    if not operands:
        return None
    latest = max(operands, key=lambda name: producer.get(name, -1))
    index = producer.get(latest, -1)
    if index < 0 or drafts[index].tail != alias.get(latest, latest):
        return None
    anchor = drafts[index].operations[0].target
    fusable = anchor in CONVOLUTIONS or anchor == LINEAR or anchor in ELEMENTWISE
    alone = all(readers.get(name, 0) == 1 for name in {latest, alias.get(latest, latest)})
    same_shape = program.values[latest].dimensions == program.values[operation.name].dimensions
    return index if fusable and alone and same_shape else None


def _slot(program: Program, draft: _Draft, alias: dict[str, str]) -> KernelSlot:
    fixed = set(program.parameters) | set(program.buffers)
    inside = {name for operation in draft.operations for name in operation.results}
    folded = folded_norm(draft.operations)
    read = [alias.get(name, name) for op in draft.operations if op is not folded for name in op.refs()]
    if (
        folded is not None
        and isinstance(folded.argument(2, "bias"), Ref)
        and not draft.operations[0].argument(2, "bias")
    ):
        read.append(folded.argument(2, "bias").name)
    outputs = draft.operations[-1].results
    operator = operator_class(program, draft.operations[0])
    signature, dimensions = slot_text(program, draft.operations, alias, operator)
    return KernelSlot(
        name=draft.operations[0].name,
        operator=operator,
        operations=tuple(operation.name for operation in draft.operations),
        inputs=tuple(dict.fromkeys(name for name in read if name not in inside and name not in fixed)),
        parameters=tuple(dict.fromkeys(name for name in read if name in fixed)),  # a folded norm leaves its shift
        outputs=tuple(outputs),
        signature=signature,
        dimensions=dimensions,
        _program=program,
        _folded=frozenset() if folded is None else frozenset((folded.name,)),
    )


def operator_class(program: Program, anchor: Operation) -> str:
    """The class of kernels whose efficiency is fitted together (see `KernelSlot.operator`)."""
    name = anchor.target.removeprefix("aten.").split(".")[0]
    if anchor.target in CONVOLUTIONS:
        weight = program.values[anchor.argument(1, "weight").name].dimensions
        groups = anchor.argument(6, "groups", 1)
        if groups != 1 and groups != Size(Constant(1)):
            return "depthwise" if weight[1] == Constant(1) else "grouped"
        return "pointwise" if all(d == Constant(1) for d in weight[2:]) else "conv"
    if anchor.target in ELEMENTWISE:
        return "elementwise"
    classes = {
        "linear": "linear",
        "addmm": "linear",
        "matmul": "matmul",
        "bmm": "matmul",
        "mm": "matmul",
        "cat": "concat",
    }
    if name in classes:
        return classes[name]
    if "pool" in name:
        return "pool"
    return "reduce" if name in ("mean", "sum", "amax", "softmax", "layer_norm", "group_norm") else "other"

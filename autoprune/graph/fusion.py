"""Fused operations of the deployed program: what an inference runtime runs as one kernel.

A convolution takes the batch norm, activation, residual addition and activation behind it; a linear layer or any
element-wise operation takes the element-wise ones behind it; views cost nothing, nor does what no input reaches, which
runtimes compute once when they load a model; everything else, attention as a whole, is a kernel alone. Only values that
nothing else reads are fused away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from autoprune.graph.dimension import Batch, Constant, Dimension, Widths, size
from autoprune.graph.folding import fixed_values
from autoprune.graph.kernel import Kernel
from autoprune.graph.macs import operation_macs
from autoprune.graph.program import Operation, Program, Ref, Size, Value
from autoprune.graph.slot_text import NORMS, Known, folded_norm, slot_text

CONVOLUTIONS = frozenset(
    f"aten.{name}"
    for name in ("conv1d.default", "conv2d.default", "conv3d.default", "conv1d.padding", "conv2d.padding")
)
LINEAR = "aten.linear.default"
_UNARY = (
    "relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid sigmoid tanh softplus",
    "clamp clamp_min clamp_max neg exp expm1 sqrt rsqrt abs sign floor ceil round trunc log log1p log2 log_sigmoid",
    "square reciprocal erf sin cos tan logical_not bitwise_not isnan isinf nan_to_num threshold rrelu",
)
_BINARY = (
    "add.Tensor add.Scalar sub.Tensor sub.Scalar mul.Tensor mul.Scalar div.Tensor div.Scalar div.Tensor_mode",
    "rsub.Scalar rsub.Tensor remainder.Scalar remainder.Tensor fmod.Scalar floor_divide.default maximum.default",
    "minimum.default max.other min.other pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar addcmul.default",
    "addcdiv.default lerp.Scalar lerp.Tensor where.self where.ScalarOther where.ScalarSelf where.Scalar",
    "masked_fill.Scalar masked_fill.Tensor logical_and.default logical_or.default logical_xor.default",
)
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "__and__", "__or__", "bitwise_and", "bitwise_or")
_CASTS = ("to.dtype", "to.dtype_layout", "to.device", "to.other", "_to_copy.default", "type_as.default")
CASTS = frozenset(f"aten.{name}" for name in _CASTS)
ELEMENTWISE = (
    frozenset(
        [f"aten.{name}.default" for name in " ".join(_UNARY).split()]
        + [f"aten.{name}" for name in " ".join(_BINARY).split()]
        + [f"aten.{name}.{kind}" for name in _COMPARISONS for kind in ("Tensor", "Scalar")]
    )
    | NORMS
    | CASTS
)
_IDENTITIES = ("dropout", "feature_dropout", "alpha_dropout", "alias", "contiguous", "detach", "clone")
IDENTITIES = frozenset(f"aten.{name}.default" for name in (*_IDENTITIES, "lift_fresh_copy"))
_VIEWS = ("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int")
VIEWS = frozenset(
    f"aten.{name}" for name in (*_VIEWS, "squeeze.default", "squeeze.dim", "squeeze.dims", "unsqueeze.default")
)
_ENDLESS = (1 << 62) - 1
_QUOTED_OR_BATCH = re.compile(r"'[^']*'|\bn\b")
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
            `matmul`, `attention`, `pool`, `concat`, `reduce`, `elementwise`, `other`.
        operations: names of the fused operations, in order.
        inputs, parameters, outputs: names of the activations it reads, of the parameters and the constants made of
            them (masks, position tables), and of the values it leaves.
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
    _chain: tuple[Operation, ...]
    _folded: frozenset[str]  # norms that are part of a convolution's weights when deployed

    def family(self, batch: int = 1) -> str:
        """The family's text at a batch size."""
        return _QUOTED_OR_BATCH.sub(lambda found: found[0] if found[0] != "n" else str(batch), self.signature)

    def kernel(self, widths: Widths) -> Kernel:
        """The kernel under `widths` (group id -> int; batch under `Batch.KEY`)."""
        sizes = tuple(int(size(dimension, widths)) for dimension in self.dimensions)
        return Kernel(self.family(int(widths.get(Batch.KEY, 1))), sizes)

    def flops(self, widths: Widths) -> Any:
        """Floating-point operations (two a multiply-accumulate) under `widths`."""
        total: Any = 0
        for operation in self._chain:
            if operation.name not in self._folded:
                total = total + self._operation_flops(operation, widths)
        return total

    def bytes(self, widths: Widths) -> Any:
        """Bytes of everything it reads and writes, once each, under `widths`."""
        names = (*self.inputs, *self.parameters, *self.outputs)
        return sum(value_bytes(self._program.values[name], widths) for name in names)

    def _operation_flops(self, operation: Operation, widths: Widths) -> Any:
        """Two a multiply-accumulate, one an element of the largest activation where nothing is multiplied."""
        products = operation_macs(self._program, operation, widths)
        if _magnitude(products):
            return 2 * products
        reads = [name for name in operation.refs() if name not in self.parameters and name in self._program.values]
        return max((_elements(self._program.values[name], widths) for name in reads), key=_magnitude, default=0)


def _magnitude(value: Any) -> float:
    return float(value.max()) if hasattr(value, "max") else float(value)


def kernel_slots(program: Program) -> tuple[KernelSlot, ...]:
    """The fused operations of a program, in execution order."""
    return _Fusion(program).slots()


def storage(program: Program) -> dict[str, str]:
    """Each view, and each value under another name -> the value whose bytes it shares."""
    owner: dict[str, str] = {}
    for operation in program.operations:
        if operation.target in VIEWS or _is_identity(program, operation):
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


def _is_identity(program: Program, operation: Operation) -> bool:
    """Whether its result is its first operand: nothing runs for it."""
    reads = operation.refs()
    if not reads or operation.name not in program.values:
        return False
    if operation.target in IDENTITIES:
        return True
    before, after = program.values[reads[0]], program.values[operation.name]
    if operation.target in CASTS:
        return before.dtype == after.dtype
    return is_whole_slice(operation)


def is_whole_slice(operation: Operation) -> bool:
    """Whether it is a slice that takes everything, as `x[:, None]` leaves behind."""
    if operation.target != "aten.slice.Tensor":
        return False
    start, end, step = (operation.argument(2, "start"), operation.argument(3, "end"), operation.argument(4, "step", 1))
    return start in (None, 0) and (end is None or (isinstance(end, int) and end >= _ENDLESS)) and step == 1


@dataclass
class _Draft:
    """A kernel while operations are still being added to it."""

    operations: list[Operation]
    tail: str


class _Fusion:
    """One pass over a program that joins operations to kernels.

    Attributes:
        alias: value -> the value that it is under another name.
        producer: value -> index of the draft that leaves it, views included; -1 for inputs.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.fixed = fixed_values(program)
        self.readers = _reader_counts(program)
        self.alias: dict[str, str] = {}
        self.producer: dict[str, int] = {}
        self.drafts: list[_Draft] = []

    def slots(self) -> tuple[KernelSlot, ...]:
        for operation in self.program.operations:
            if operation.name in self.fixed or not self._is_tensor(operation):
                continue
            reads = self._activations(operation)
            if _is_identity(self.program, operation):
                self.alias[operation.name] = self.alias.get(reads[0], reads[0])
                self.producer[operation.name] = self.producer.get(reads[0], -1)
            elif operation.target in VIEWS:
                self.producer[operation.name] = self.producer.get(reads[0], -1)
            elif reads:
                self._add(operation)
        return tuple(self._slot(draft) for draft in self.drafts)

    def _is_tensor(self, operation: Operation) -> bool:
        if not operation.target.startswith("aten.") or operation.target.startswith(("aten.sym_", "aten._assert")):
            return False
        values = self.program.values
        return any(values[name].dtype != "int" for name in operation.results if name in values)

    def _activations(self, operation: Operation) -> list[str]:
        """Tensors it reads that follow from the model's inputs."""
        values = self.program.values
        return [n for n in operation.refs() if n not in self.fixed and n in values and values[n].dtype != "int"]

    def _add(self, operation: Operation) -> None:
        index = self._joined(operation)
        if index is None:
            self.drafts.append(_Draft([operation], operation.name))
            index = len(self.drafts) - 1
        else:
            self.drafts[index].operations.append(operation)
            self.drafts[index].tail = operation.name
        for result in operation.results:
            self.producer[result] = index

    def _joined(self, operation: Operation) -> int | None:
        """The draft this operation joins: that of its latest operand, if that is its tail and nothing else reads it."""
        if operation.target not in ELEMENTWISE:
            return None
        latest = max(self._activations(operation), key=lambda name: self.producer.get(name, -1))
        index, original = self.producer.get(latest, -1), self.alias.get(latest, latest)
        if index < 0 or self.drafts[index].tail != original:
            return None
        anchor = self.drafts[index].operations[0].target
        fusable = anchor in CONVOLUTIONS or anchor == LINEAR or anchor in ELEMENTWISE
        alone = all(self.readers.get(name, 0) == 1 for name in {latest, original})
        same_shape = self.program.values[latest].dimensions == self.program.values[operation.name].dimensions
        return index if fusable and alone and same_shape else None

    def _slot(self, draft: _Draft) -> KernelSlot:
        chain = tuple(draft.operations)
        inside = {name for operation in chain for name in operation.results}
        folded = folded_norm(chain)
        read = [self.alias.get(name, name) for op in chain if op is not folded for name in op.refs()]
        if folded is not None and isinstance(folded.argument(2, "bias"), Ref) and not chain[0].argument(2, "bias"):
            read.append(folded.argument(2, "bias").name)  # a folded norm leaves its shift
        tensors = [name for name in read if name in self.program.values and self.program.values[name].dtype != "int"]
        operator = operator_class(self.program, chain[0])
        known = Known(self.program, self.alias, self.fixed, frozenset(self.readers))
        signature, dimensions = slot_text(known, chain, operator)
        return KernelSlot(
            name=chain[0].name,
            operator=operator,
            operations=tuple(operation.name for operation in chain),
            inputs=tuple(dict.fromkeys(name for name in tensors if name not in inside and name not in self.fixed)),
            parameters=tuple(dict.fromkeys(name for name in tensors if name in self.fixed)),
            outputs=known.left(chain[-1]),
            signature=signature,
            dimensions=dimensions,
            _program=self.program,
            _chain=chain,
            _folded=frozenset() if folded is None else frozenset((folded.name,)),
        )


_CLASSES = {
    "linear": "linear", "addmm": "linear", "matmul": "matmul", "bmm": "matmul", "mm": "matmul", "baddbmm": "matmul",
    "einsum": "matmul", "scaled_dot_product_attention": "attention", "cat": "concat", "mean": "reduce",
    "sum": "reduce", "amax": "reduce", "softmax": "reduce", "log_softmax": "reduce", "layer_norm": "reduce",
    "group_norm": "reduce", "rms_norm": "reduce", "instance_norm": "reduce", "linalg_vector_norm": "reduce",
    "var": "reduce", "var_mean": "reduce", "cumsum": "reduce", "topk": "reduce",
}  # fmt: skip


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
    return _CLASSES.get(name, "pool" if "pool" in name else "other")

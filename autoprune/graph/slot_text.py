"""A fused operation written as the text of its kernel family (see `autoprune.graph.kernel` for the grammar).

Sizes are named by their role wherever it is known (input channels of a convolution are `c0`, its output channels `c1`),
so that one family serves layers whose widths are tied, frozen or free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.graph.dimension import Batch, Concatenation, Constant, Dimension, Product, has_batch
from autoprune.graph.kernel import literal_text, target_text
from autoprune.graph.program import Operation, Program, Ref, Size, Value

NORMS = frozenset(("aten.batch_norm.default", "aten._native_batch_norm_legit_no_training.default"))
_CHANNEL_PARAMETERS = NORMS | {"aten.group_norm.default", "aten.instance_norm.default"}  # theirs are of axis 1


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the program that a kernel is part of.

    Attributes:
        program: the program.
        alias: value -> the value that it is under another name.
        fixed: values that follow from no input.
        read: values that an operation or an output reads.
    """

    program: Program
    alias: Mapping[str, str]
    fixed: frozenset[str]
    read: frozenset[str]

    def left(self, operation: Operation) -> tuple[str, ...]:
        """The results that count: the first, and those that something reads."""
        return tuple(name for place, name in enumerate(operation.results) if place == 0 or name in self.read)


def slot_text(known: Known, operations: Sequence[Operation], operator: str) -> tuple[str, tuple[Dimension, ...]]:
    """The family's signature (batch still `n`) and the dimensions its widths stand for."""
    writer = _Writer(known)
    chain = list(operations)
    folded = folded_norm(chain)
    if operator in _CONV_LIKE:
        writer.convolution(chain[0], folded, operator)
    elif operator == "linear" and chain[0].target == "aten.linear.default":
        writer.linear(chain[0])
    elif operator == "concat":
        writer.concatenation(chain[0])
    else:
        writer.first(chain[0])
    for operation in chain[2 if folded else 1 :]:
        writer.follow(operation)
    return writer.text(), tuple(writer.dimensions)


_SIGNS = {"operator.add": "+", "operator.mul": "*", "operator.sub": "-", "operator.floordiv": "//"}
_CONV_LIKE = frozenset(("conv", "pointwise", "depthwise", "grouped"))


def folded_norm(operations: Sequence[Operation]) -> Operation | None:
    """The batch norm right behind a convolution, which runtimes fold into its weights."""
    convolution = operations[0].target.startswith("aten.conv") and "transpose" not in operations[0].target
    found = convolution and len(operations) > 1 and operations[1].target in NORMS
    return operations[1] if found else None


class _Writer:
    def __init__(self, around: Known) -> None:
        self._around = around
        self._program = around.program
        self._operations = {operation.name: operation for operation in self._program.operations}
        self._weights: dict[str, str] = {}  # constant operand -> w0, w1, ... once it is written
        self._written = 0  # parameters so far
        self._known: dict[Dimension, str] = {}
        self._names: dict[str, str] = {}  # value -> x0 | y0 | y0[1]
        self._shapes: dict[str, tuple[str, ...]] = {}  # value -> its sizes as text
        self._inputs: list[str] = []
        self._calls: list[str] = []
        self.dimensions: list[Dimension] = []

    def text(self) -> str:
        return ";".join([*self._inputs, *self._calls])

    # Sizes

    def _variable(self, dimension: Dimension) -> str:
        name = f"c{len(self.dimensions)}"
        self.dimensions.append(dimension)
        if not isinstance(dimension, Constant):
            self._known.setdefault(dimension, name)
        return name

    def _size(self, dimension: Dimension) -> str:
        """A size as text: literal, batch, known, made of known ones, or a new variable."""
        found = self._derived(dimension)
        return self._variable(dimension) if found is None else found

    def _derived(self, dimension: Dimension) -> str | None:
        if dimension in self._known:
            return self._known[dimension]
        match dimension:
            case Constant(value):
                return str(value)
            case Batch():
                return "n"
            case Product(factors):
                parts = [self._derived(factor) for factor in factors]
                return None if None in parts else "*".join(_bracketed(p) for p in parts if p is not None)
            case Concatenation(terms):
                parts = [self._derived(term) for term in terms]
                return None if None in parts else "+".join(p for p in parts if p is not None)
        return None

    def _leaves(self, dimension: Dimension) -> str:
        """As `_size`, with a product written over its factors: what is grouped shares some of them."""
        if isinstance(dimension, Product) and self._derived(dimension) is None:
            return "*".join(_bracketed(self._leaves(factor)) for factor in dimension.factors)
        return self._size(dimension)

    def _value(self, name: str) -> Value:
        return self._program.values[name]

    def _resolve(self, item: Any) -> str:
        name = str(item.name)
        return self._around.alias.get(name, name)

    # Values

    def _input(self, name: str, shape: Sequence[str] | None = None) -> str:
        """An activation that comes in, declared once, with the sizes given or its own."""
        if name not in self._names:
            value = self._value(name)
            sizes = tuple(shape) if shape is not None else tuple(self._size(d) for d in value.dimensions)
            self._names[name] = f"x{len(self._inputs)}"
            self._shapes[name] = sizes
            kind = "" if value.dtype == "float32" else value.dtype
            self._inputs.append(f"{self._names[name]}:{kind}{_shape(sizes)}")
        return self._names[name]

    def _weight(self, sizes: Sequence[str], dtype: str = "float32") -> str:
        """A parameter of these sizes; the reader numbers them in the order of the text."""
        self._written += 1
        kind = "" if dtype == "float32" else f"'{dtype}',"
        return f"w({kind}{','.join(sizes)}{',' if len(sizes) == 1 else ''})"

    def _constant(self, name: str, operation: Operation, result: Sequence[str]) -> str:
        """A parameter, or what was made of parameters before the model ran."""
        if name in self._weights:
            return self._weights[name]
        value, number = self._value(name), self._written
        if operation.target in _CHANNEL_PARAMETERS and len(result) > 1 and len(value.dimensions) == 1:
            sizes = [result[1]]
        else:
            sizes = self._aligned(value.dimensions, self._value(operation.name).dimensions, result)
        text = self._weight(sizes, value.dtype)
        self._weights[name] = f"w{number}"
        return text

    def _aligned(self, own: Sequence[Dimension], out: Sequence[Dimension], result: Sequence[str]) -> list[str]:
        """Sizes of an operand; those that equal the result's, counted from the last, as they are written there."""
        shift = len(out) - len(own)
        return [
            result[i + shift] if i + shift >= 0 and out[i + shift] == d else self._size(d) for i, d in enumerate(own)
        ]

    def _integer(self, name: str) -> str:
        """A run-time integer as the size that it is."""
        operation = self._operations.get(name)
        if operation is not None and operation.target == "aten.sym_size.int":
            dimensions = self._value(operation.args[0].name).dimensions
            return self._size(dimensions[operation.args[1]])
        sign = None if operation is None else _SIGNS.get(operation.target)
        if operation is None or sign is None:
            return "-1"
        parts = [self._integer(p.name) if isinstance(p, Ref) else self._literal(p) for p in operation.args]
        return f"({sign.join(parts)})"

    def _call(self, operation: Operation, arguments: Sequence[str], shapes: Sequence[Sequence[str]]) -> None:
        local = f"y{len(self._calls)}"
        several, left = len(operation.results) > 1, self._around.left(operation)
        for position, (result, sizes) in enumerate(zip(operation.results, shapes, strict=True)):
            self._names[result] = local if position == 0 else f"{local}[{position}]"
            self._shapes[result] = tuple(sizes)
        declared = (
            "[" + ",".join(self._result(r) if r in left else "None" for r in operation.results) + "]"
            if several
            else self._result(operation.name)
        )
        self._calls.append(f"{local}:{declared}={target_text(operation.target)}({','.join(arguments)})")

    def _result(self, name: str) -> str:
        dtype = self._value(name).dtype
        return ("" if dtype == "float32" else dtype) + _shape(self._shapes[name])

    # Operations

    def convolution(self, conv: Operation, norm: Operation | None, operator: str) -> None:
        """A convolution, written with all its arguments; a batch norm behind it is its bias (runtimes fold it)."""
        source, weight = self._resolve(conv.argument(0, "input")), self._resolve(conv.argument(1, "weight"))
        bias = conv.argument(2, "bias")
        x, w = self._value(source).dimensions, self._value(weight).dimensions
        spatial = len(w) - 2
        groups = conv.argument(6, "groups", 1)
        if operator == "depthwise" and x[1] == w[0]:
            channels = outer = self._variable(x[1])
            inner, group_text = "1", channels
        elif operator in ("depthwise", "grouped"):
            group_text = self._leaves(groups.dimension) if isinstance(groups, Size) else str(groups)
            outer, inner, channels = self._leaves(w[0]), self._leaves(w[1]), self._leaves(x[1])
        else:
            channels, outer = self._variable(x[1]), self._variable(w[0])
            inner, group_text = channels, "1"
        shape = [self._size(x[0]), channels, *(self._size(d) for d in x[2:])]
        result = norm or conv
        out = self._value(result.name).dimensions
        weight_text = self._weight([outer, inner, *(self._size(d) for d in w[2:])])
        bias_text = self._weight([outer]) if bias is not None or norm is not None else "None"
        geometry = (conv.argument(3, "stride", 1), conv.argument(4, "padding", 0), conv.argument(5, "dilation", 1))
        arguments = [self._input(source, shape), weight_text, bias_text]
        arguments += [self._literal(_repeated(item, spatial)) for item in geometry]
        shapes = [[self._size(out[0]), outer, *(self._size(d) for d in out[2:])]]
        call = Operation(result.name, conv.target, (), (), None, (result.name,))
        self._call(call, [*arguments, group_text], shapes)

    def linear(self, linear: Operation) -> None:
        source, weight = self._resolve(linear.argument(0, "input")), self._resolve(linear.argument(1, "weight"))
        x, w = self._value(source).dimensions, self._value(weight).dimensions
        inner, outer = self._variable(x[-1]), self._variable(w[0])
        lead = [self._size(d) for d in x[:-1]]
        weight_text = self._weight([outer, inner])
        bias = "None" if linear.argument(2, "bias") is None else self._weight([outer])
        self._call(linear, [self._input(source, [*lead, inner]), weight_text, bias], [[*lead, outer]])

    def concatenation(self, operation: Operation) -> None:
        """Each part has a width of its own."""
        parts = [self._resolve(item) for item in operation.argument(0, "tensors")]
        axis = operation.argument(1, "dim", 0) % len(self._value(operation.name).dimensions)
        for name in dict.fromkeys(parts):
            shape = [
                self._variable(d) if i == axis else self._size(d) for i, d in enumerate(self._value(name).dimensions)
            ]
            self._input(name, shape)
        total = "+".join(self._shapes[name][axis] for name in parts)
        shape = [total if i == axis else self._size(d) for i, d in enumerate(self._value(operation.name).dimensions)]
        names = "(" + "".join(self._names[name] + "," for name in parts) + ")"
        self._call(operation, [names, str(axis)], [shape])

    def first(self, operation: Operation) -> None:
        """Any other operation that begins a kernel: channels of what comes in are widths."""
        for name in operation.refs():
            name = self._around.alias.get(name, name)
            if name not in self._around.fixed and not self._is_integer(name):
                dimensions = self._value(name).dimensions
                if dimensions:
                    channel = 1 if len(dimensions) in (2, 4, 5) else len(dimensions) - 1
                    channel = min(channel, len(dimensions) - 1)
                    self._known_channel(name, channel)
        self.follow(operation)

    def _known_channel(self, name: str, axis: int) -> None:
        if name in self._names:
            return
        dimensions = self._value(name).dimensions
        shape = [self._size(d) for d in dimensions]
        wide = isinstance(dimensions[axis], Constant) and dimensions[axis] != Constant(1) and len(dimensions) > 1
        if wide:  # a frozen width is a width of the family all the same; equal ones are one
            shape[axis] = self._known.get(dimensions[axis]) or self._constant_width(dimensions[axis])
        self._input(name, shape)

    def _constant_width(self, dimension: Dimension) -> str:
        for name, known in zip((f"c{i}" for i in range(len(self.dimensions))), self.dimensions, strict=False):
            if known == dimension:
                return name
        return self._variable(dimension)

    def follow(self, operation: Operation) -> None:
        """An operation with its arguments as they are; element-wise operands take the sizes of the result."""
        reads = [self._around.alias.get(name, name) for name in operation.refs()]
        here = next((name for name in reads if name in self._names), None)
        shapes = [self._shape_like(self._value(result), here) for result in operation.results]
        arguments = [self._argument(item, operation, shapes[0]) for item in operation.args]
        arguments += [f"{key}={self._argument(item, operation, shapes[0])}" for key, item in operation.kwargs]
        self._call(operation, arguments, shapes)

    def _shape_like(self, value: Value, other: str | None) -> list[str]:
        """The sizes of a value; where they equal those of `other`, axis by axis, as they are written there."""
        shape: list[str] = []
        like = self._value(other).dimensions if other is not None else ()
        for axis, dimension in enumerate(value.dimensions):
            same = other is not None and len(like) == len(value.dimensions) and like[axis] == dimension
            shape.append(self._shapes[other][axis] if same and other is not None else self._size(dimension))
        return shape

    def _argument(self, item: Any, operation: Operation, result: Sequence[str]) -> str:
        match item:
            case Ref(name) if self._is_integer(name):
                return self._integer(name)
            case Ref(name):
                return self._operand(self._around.alias.get(name, name), operation, result)
            case Size(dimension):
                return "-1" if has_batch(dimension) else self._size(dimension)
            case tuple() | list():
                return "(" + "".join(self._argument(part, operation, result) + "," for part in item) + ")"
            case _:
                return literal_text(item)

    def _operand(self, name: str, operation: Operation, result: Sequence[str]) -> str:
        if name in self._names:
            return self._names[name]
        if name in self._around.fixed:
            return self._constant(name, operation, result)
        own, out = self._value(name).dimensions, self._value(operation.name).dimensions
        return self._input(name, self._aligned(own, out, result))

    def _is_integer(self, name: str) -> bool:
        return name not in self._program.values or self._value(name).dtype == "int"

    def _literal(self, item: Any) -> str:
        if isinstance(item, Size):
            return self._size(item.dimension)
        if isinstance(item, (tuple, list)):
            return "(" + "".join(self._literal(part) + "," for part in item) + ")"
        return literal_text(item)


def _repeated(item: Any, count: int) -> Any:
    """One number for every spatial axis, or as it is."""
    if isinstance(item, int):
        return (item,) * count
    return item * count if isinstance(item, (tuple, list)) and len(item) == 1 else item


def _bracketed(text: str) -> str:
    return f"({text})" if "+" in text else text


def _shape(sizes: Sequence[str]) -> str:
    return f"({sizes[0]},)" if len(sizes) == 1 else "(" + ",".join(sizes) + ")"

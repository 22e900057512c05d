"""What the ONNX emitters share: names, shapes, constants and the nodes so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from autoprune.core.errors import AutopruneError
from autoprune.graph.dimension import Batch, Constant, Dimension, Widths, has_batch, size
from autoprune.graph.folding import Constants
from autoprune.graph.program import Operation, Program, Ref, Size

ONNX_TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int16": TensorProto.INT16,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
_INTEGER_NODES = {"add": "Add", "sub": "Sub", "mul": "Mul", "floordiv": "Div", "mod": "Mod"}


class UnsupportedOperator(AutopruneError):  # noqa: N818 (it names the thing, not the event)
    """An operator, or a use of one, that the ONNX emitter does not write; `torch.onnx.export` may.

    Attributes:
        target: the ATen overload.
        reason: the operator, the operation and what of it cannot be written.
    """

    def __init__(self, target: str, operation: str, detail: str = "") -> None:
        self.target = target
        self.reason = f"no emitter for '{target}' (operation '{operation}')" + (f": {detail}" if detail else "")
        super().__init__(
            f"ONNX: {self.reason}. Export with torch.onnx.export instead, or leave ONNX out of the formats."
        )


class Context:
    """The model being written.

    Args:
        program: the program.
        widths: kept units by group.
        buffer: the tensor of a buffer, by name; what follows from buffers alone is written as constants.

    Attributes:
        nodes, constants: of the ONNX graph, in order.
        folded: values that are written as constants, not computed by nodes.
    """

    def __init__(self, program: Program, widths: Widths, buffer: Callable[[str], torch.Tensor]) -> None:
        self.program = program
        self.widths = widths
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.folded = Constants(program, widths, buffer)
        self._constant_names: dict[bytes, str] = {}
        self._alias: dict[str, str] = {}
        self._extents: dict[Dimension | str, str] = {}
        self._operations = {operation.name: operation for operation in program.operations}

    # Names and nodes

    def name(self, value: str) -> str:
        """The ONNX name of a program value."""
        if value in self.folded:
            tensor = self.folded.tensor(value)
            return self.constant(tensor.numpy(), str(tensor.dtype).removeprefix("torch."))
        return self._alias.get(value, value)

    def alias(self, value: str, other: str) -> None:
        """Say that a program value is another one."""
        self._alias[value] = self.name(other)

    def node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> str:
        """Append a node; the name of its first output is returned."""
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), name=f"{outputs[0]}/{kind}", **kept))
        return outputs[0]

    def constant(self, array: npt.ArrayLike, dtype: str = "int64") -> str:
        """The name of a constant tensor; equal ones are written once."""
        value = np.asarray(array, dtype=dtype)
        key = value.dtype.str.encode() + str(value.shape).encode() + value.tobytes()
        if key not in self._constant_names:
            self._constant_names[key] = f"constant.{len(self._constant_names)}"
            self.constants.append(numpy_helper.from_array(value, self._constant_names[key]))
        return self._constant_names[key]

    # Operands

    def input(self, operation: Operation, position: int, name: str) -> str:
        """The ONNX name of a tensor argument."""
        item = operation.argument(position, name)
        if not isinstance(item, Ref):
            raise UnsupportedOperator(operation.target, operation.name, f"expected a tensor for '{name}', got {item!r}")
        return self.name(item.name)

    def optional(self, operation: Operation, position: int, name: str) -> str:
        """As `input`, "" where it is None."""
        return "" if operation.argument(position, name) is None else self.input(operation, position, name)

    def operand(self, item: Any, dtype: str, name: str) -> str:
        """A tensor, cast where it is of another type, or a number as a constant of that type.

        Args:
            item: a `Ref`, a `Size` or a number.
            dtype: as torch names it.
            name: for the cast, where there is one.
        """
        if isinstance(item, Ref):
            return self.cast(self.tensor_name(item.name), self.dtype(item.name), dtype, name)
        if isinstance(item, Size):
            return self.cast(self.squeezed(self.extent(item.dimension), name), "int64", dtype, name)
        return self.constant(item, dtype)

    def cast(self, source: str, before: str, after: str, name: str) -> str:
        """`source` as another type, under `name`; as it is where the type is the same."""
        if before == after:
            return source
        if after not in ONNX_TYPES:
            raise UnsupportedOperator("cast", name, f"numbers of type {after}")
        return self.node("Cast", [source], [f"{name}.{after}"], to=ONNX_TYPES[after])

    def dtype(self, value: str) -> str:
        """The type of a program value; run-time integers are int64."""
        found = self.program.values[value].dtype if value in self.program.values else "int"
        return "int64" if found == "int" else found

    def tensor_name(self, value: str) -> str:
        """As `name`; run-time integers become tensors."""
        known = self.program.values.get(value)
        return self.name(value) if known is not None and known.dtype != "int" else self._integer_tensor(value)

    # Sizes

    def integer(self, item: Any) -> int:
        """A literal or `Size` as a number; -1 where the batch is in it."""
        if isinstance(item, Size):
            return -1 if has_batch(item.dimension) else int(size(item.dimension, self.widths))
        if isinstance(item, Ref):
            raise UnsupportedOperator("size", item.name, "a size that is computed while the model runs")
        return int(item)

    def integers(self, item: Any, count: int | None = None) -> list[int]:
        """A list of numbers; one number is repeated `count` times."""
        items = list(item) if isinstance(item, (tuple, list)) else [item]
        numbers = [self.integer(part) for part in items]
        return numbers * count if count is not None and len(numbers) == 1 else numbers

    def rank(self, operation: Operation, position: int = 0, name: str = "self") -> int:
        """How many dimensions a tensor argument has."""
        return len(self.program.values[operation.argument(position, name).name].dimensions)

    def axis(self, operation: Operation, position: int, name: str = "dim", default: int = 0) -> int:
        """An axis of the first operand, counted from the front."""
        return self.integer(operation.argument(position, name, default)) % max(self.rank(operation), 1)

    def shape(self, operation: Operation, position: int = 0, name: str = "self") -> list[int]:
        """The sizes of a tensor argument; -1 where the batch is in one."""
        return self.value_shape(operation.argument(position, name).name)

    def value_shape(self, value: str) -> list[int]:
        """The sizes of a program value; -1 where the batch is in one."""
        return [-1 if has_batch(d) else int(size(d, self.widths)) for d in self.program.values[value].dimensions]

    def dimensions(self, value: str) -> list[Dimension]:
        """The sizes of a program value under the widths: a `Constant` each, but for those that have the batch."""
        return [self.fixed(dimension) for dimension in self.program.values[value].dimensions]

    def fixed(self, dimension: Dimension) -> Dimension:
        """A size under the widths: a `Constant` unless the batch is in it."""
        return dimension if has_batch(dimension) else Constant(int(size(dimension, self.widths)))

    def extent(self, dimension: Dimension) -> str:
        """The name of a size as a tensor of one int64.  # (1,)"""
        fixed = self.fixed(dimension)
        if isinstance(fixed, Constant):
            return self.constant([fixed.value])
        if fixed not in self._extents:
            slope, offset = self.affine(fixed)
            name = f"batch.{len(self._extents)}"
            found = self._batch()
            if slope != 1:
                found = self.node("Mul", [found, self.constant([slope])], [f"{name}.times"])
            if offset:
                found = self.node("Add", [found, self.constant([offset])], [f"{name}.plus"])
            self._extents[fixed] = found
        return self._extents[fixed]

    def affine(self, dimension: Dimension) -> tuple[int, int]:
        """`slope * batch + offset`."""
        one, two, three = (int(size(dimension, {**self.widths, Batch.KEY: count})) for count in (1, 2, 3))
        if three - two != two - one:
            raise UnsupportedOperator("size", "batch", "a size that is the batch times itself")
        return two - one, one - (two - one)

    def _batch(self) -> str:
        """The batch, read from an input.  # (1,)"""
        if "batch" not in self._extents:
            for name in self.program.inputs:
                for axis, dimension in enumerate(self.program.values[name].dimensions):
                    if dimension == Batch():
                        self._extents["batch"] = self._size_of(name, axis, "batch")
                        return self._extents["batch"]
            raise UnsupportedOperator("size", "batch", "the batch is in no input")
        return self._extents["batch"]

    def _size_of(self, source: str, axis: int, name: str) -> str:
        return self.node("Shape", [self.name(source)], [name], start=axis, end=axis + 1)

    def sizes(self, dimensions: Sequence[Dimension], name: str, infer: bool = False) -> str:
        """Sizes as an int64 tensor, the batch read while the model runs.  # (n,)

        Args:
            dimensions: the sizes.
            name: for the tensor, where it is not a constant.
            infer: write -1 for the batch where it stands once, which `Reshape` understands.
        """
        fixed = [self.fixed(dimension) for dimension in dimensions]
        numbers = [d.value if isinstance(d, Constant) else -1 for d in fixed]
        if -1 not in numbers or (infer and numbers.count(-1) == 1 and 0 not in numbers):
            return self.constant(numbers)
        return self.node("Concat", [self.extent(d) for d in fixed], [f"{name}.sizes"], axis=0)

    def reshape(self, source: str, dimensions: Sequence[Dimension], name: str) -> str:
        """`source` with other dimensions, under `name`."""
        shape = self.sizes(dimensions, name, infer=True)
        empty = any(dimension == Constant(0) for dimension in dimensions)
        return self.node("Reshape", [source, shape], [name], allowzero=1 if empty else None)

    # Integers of the running model

    def integer_vector(self, item: Any, name: str) -> str:
        """A number, a `Size` or a run-time integer as a tensor of one int64.  # (1,)"""
        if isinstance(item, Size):
            return self.extent(item.dimension)
        if isinstance(item, Ref):
            return self._integer_vector(item.name)
        return self.constant([int(item)])

    def squeezed(self, source: str, name: str) -> str:
        """A tensor of one number as a scalar."""
        return self.node("Squeeze", [source], [f"{name}.scalar"])

    def _integer_tensor(self, value: str) -> str:
        key = f"scalar {value}"
        if key not in self._extents:
            self._extents[key] = self.squeezed(self._integer_vector(value), value)
        return self._extents[key]

    def _integer_vector(self, value: str) -> str:
        """A run-time integer, written where it is first read."""
        if value not in self._extents:
            operation = self._operations.get(value)
            kind = "" if operation is None else operation.target.rpartition(".")[2]
            if operation is not None and operation.target == "aten.sym_size.int":
                source, axis = operation.args[0].name, self.integer(operation.args[1])
                rank = len(self.program.values[source].dimensions)
                self._extents[value] = self._size_of(source, axis % rank, value)
            elif operation is not None and kind in _INTEGER_NODES:
                operands = [self.integer_vector(item, value) for item in operation.args]
                self._extents[value] = self.node(_INTEGER_NODES[kind], operands, [value])
            else:
                raise UnsupportedOperator(operation.target if operation else "size", value, "as a run-time integer")
        return self._extents[value]

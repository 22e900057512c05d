"""What the ONNX emitters share: names, shapes, constants and the nodes so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from autoprune.core.errors import AutopruneError
from autoprune.graph.dimension import Widths, has_batch, size
from autoprune.graph.program import Operation, Program, Ref, Size


class UnsupportedOperator(AutopruneError):  # noqa: N818 (it names the thing, not the event)
    """An operator, or a use of one, that the ONNX emitter does not write; `torch.onnx.export` may.

    Attributes:
        target: the ATen overload.
    """

    def __init__(self, target: str, operation: str, detail: str = "") -> None:
        self.target = target
        reason = f": {detail}" if detail else ""
        super().__init__(
            f"ONNX: no emitter for '{target}' (operation '{operation}'){reason}. "
            "Export with torch.onnx.export instead, or leave ONNX out of the formats."
        )


class Context:
    """The model being written.

    Attributes:
        nodes, constants: of the ONNX graph, in order.
    """

    def __init__(self, program: Program, widths: Widths) -> None:
        self.program = program
        self.widths = widths
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._constant_names: dict[bytes, str] = {}
        self._alias: dict[str, str] = {}

    def name(self, value: str) -> str:
        """The ONNX name of a program value."""
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

    def input(self, operation: Operation, position: int, name: str) -> str:
        """The ONNX name of a tensor argument."""
        item = operation.argument(position, name)
        if not isinstance(item, Ref):
            raise UnsupportedOperator(operation.target, operation.name, f"expected a tensor for '{name}', got {item!r}")
        return self.name(item.name)

    def optional(self, operation: Operation, position: int, name: str) -> str:
        """As `input`, "" where it is None."""
        return "" if operation.argument(position, name) is None else self.input(operation, position, name)

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

    def rank(self, operation: Operation, position: int = 0, name: str = "input") -> int:
        """How many dimensions a tensor argument has."""
        return len(self.shape(operation, position, name))

    def shape(self, operation: Operation, position: int = 0, name: str = "input") -> list[int]:
        """The sizes of a tensor argument; -1 where the batch is in one."""
        item = operation.argument(position, name)
        return self.value_shape(item.name)

    def value_shape(self, value: str) -> list[int]:
        """The sizes of a program value; -1 where the batch is in one."""
        return [-1 if has_batch(d) else int(size(d, self.widths)) for d in self.program.values[value].dimensions]

    def scalar(self, item: Any, dtype: str) -> str:
        """A number as a constant of a tensor's type, or the tensor's name."""
        if isinstance(item, Ref):
            return self.name(item.name)
        return self.constant(item if not isinstance(item, Size) else self.integer(item), dtype)

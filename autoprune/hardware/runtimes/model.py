"""What a runtime compiles: a program at given widths, as ONNX or as a torch module; or an ONNX file as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import onnx
import torch
from onnx import GraphProto, ValueInfoProto
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.core.errors import AutopruneError, Failure, InputError, shortened
from autoprune.graph.dimension import Batch, Widths, size
from autoprune.graph.kernel import Kernel
from autoprune.graph.module import TracedModule
from autoprune.graph.onnx import onnx_model, placeholder
from autoprune.graph.onnx.context import ONNX_TYPES
from autoprune.graph.program import Program
from autoprune.hardware.runtimes.parts import Parts

Shape = tuple[int | None, ...]  # None is the batch
POSITIONAL = '{"kwargs": []}'  # a program whose inputs are passed one after the other
_DTYPES = {int(number): getattr(torch, name) for name, number in ONNX_TYPES.items()}
MAX_ELEMENTS = 2**26  # of an ONNX file's inputs together
MAX_RANK = 64  # torch has no more


@dataclass(frozen=True, eq=False)
class Model:
    """A model for a runtime; its tensors are shared with what it was made of, never copied or changed.

    Make one with `of_kernel`, `of_module`, `of_program` or `of_onnx`.
    """

    _program: Program | None = None
    _widths: Widths = field(default_factory=dict)
    _tensors: Mapping[str, torch.Tensor] | None = None
    _bytes: bytes = b""

    @classmethod
    def of_kernel(cls, kernel: Kernel) -> Model:
        """A kernel, with numbers in the place of weights that keep activations finite.

        Raises:
            InputError: the kernel's family does not parse.
        """
        return cls.of_program(kernel.program(), {})

    @classmethod
    def of_program(cls, program: Program, widths: Widths, tensors: Mapping[str, torch.Tensor] | None = None) -> Model:
        """A program under `widths` (groups not named are dense).

        Args:
            program: the traced program.
            widths: kept units by group.
            tensors: parameters and buffers at those widths; None for numbers that keep activations finite.

        Raises:
            InputError: width 0 where what is left would not depend on the inputs.
        """
        left = program.at(widths)
        nesting = pytree.treespec_dumps(pytree.tree_structure(tuple(range(len(left.outputs)))))
        return cls(replace(left, input_tree=POSITIONAL, output_tree=nesting), dict(widths), tensors)

    @classmethod
    def of_module(cls, module: TracedModule) -> Model:
        """A traced module with its weights, in eval mode."""
        return cls.of_program(module.program, module.widths, module.state_dict())

    @classmethod
    def of_onnx(cls, data: bytes) -> Model:
        """An ONNX file's bytes; nothing is read or checked before it is compiled."""
        return cls(_bytes=data)

    def onnx(self) -> bytes:
        """As the bytes of an ONNX file; the batch is free where the program leaves it so.

        Raises:
            UnsupportedOperator: an operator that no emitter writes.
        """
        if self._program is None:
            return self._bytes
        return onnx_model(self._program, self._widths, self._tensors).SerializeToString(deterministic=True)

    def module(self) -> TracedModule:
        """As a new module in eval mode, without gradients: takes `inputs` one by one, returns a tuple.

        Casting or moving it leaves the original's tensors alone.

        Raises:
            AutopruneError: made of an ONNX file.
        """
        if self._program is None:
            raise AutopruneError(
                "model: expected a traced model or a kernel where a runtime runs torch modules, got an ONNX file. "
                "Choose a runtime that reads ONNX (onnxruntime, openvino)."
            )
        state = {name: self._tensor(name) for name in (*self._program.parameters, *self._program.buffers)}
        for name in self._program.parameters:
            state[name] = nn.Parameter(state[name], requires_grad=False)
        return TracedModule(self._program, self._widths, state)

    def _tensor(self, name: str) -> torch.Tensor:
        assert self._program is not None
        if self._tensors is None:
            return torch.from_numpy(placeholder(self._program.values[name], self._widths))
        return self._tensors[name].detach()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of `inputs`.

        Raises:
            InputError: bytes that are no ONNX model.
        """
        if self._program is None:
            return tuple(item.name for item in _without_weights(self._graph()))
        return self._program.inputs

    @cached_property
    def parts(self) -> Parts:
        """Its kernels; of an ONNX file, its nodes.

        Raises:
            InputError: bytes that are no ONNX model.
        """
        return Parts.of_onnx(self._graph()) if self._program is None else Parts.of_program(self._program)

    def inputs(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Inputs of that batch, the same numbers every time: normal ones, zeros for integers, True for masks.

        Raises:
            InputError: bytes that are no ONNX model, or an input of unknown type or rank.
        """
        generator = torch.Generator().manual_seed(0)
        return tuple(
            _sample(tuple(batch if part is None else part for part in shape), dtype, generator)
            for shape, dtype in (self._onnx_inputs(batch) if self._program is None else self._program_inputs(batch))
        )

    def _program_inputs(self, batch: int) -> list[tuple[Shape, torch.dtype]]:
        assert self._program is not None
        widths = {**self._widths, Batch.KEY: batch}
        values = [self._program.values[name] for name in self._program.inputs]
        return [
            (tuple(int(size(dimension, widths)) for dimension in value.dimensions), getattr(torch, value.dtype))
            for value in values
        ]

    def _onnx_inputs(self, batch: int) -> list[tuple[Shape, torch.dtype]]:
        total = 0
        found: list[tuple[Shape, torch.dtype]] = []
        for item in _without_weights(self._graph()):
            kind = item.type.tensor_type
            told = f"model: expected the input '{shortened(item.name)}'"
            if kind.elem_type not in _DTYPES or not kind.HasField("shape"):
                raise InputError(f"{told} to be a tensor of known type and rank.")
            shape = tuple(part.dim_value if part.HasField("dim_value") else None for part in kind.shape.dim)
            filled = [batch if part is None else part for part in shape]
            total += math.prod(filled)
            if min(filled, default=1) < 0 or len(filled) > MAX_RANK or total > MAX_ELEMENTS:
                got = shortened(str(filled[:MAX_RANK]))
                raise InputError(f"{told} and those before of at most {MAX_ELEMENTS} numbers, got sizes {got}.")
            found.append((shape, _DTYPES[kind.elem_type]))
        return found

    def _graph(self) -> GraphProto:
        try:
            return onnx.load_model_from_string(self._bytes).graph
        except Exception as error:  # protobuf raises classes of its own compiled module
            raise InputError(f"model: expected the bytes of an ONNX file, got {self._bytes[:20]!r}.") from error


def onnx_of(model: Model) -> bytes | Failure:
    """The model as ONNX; a `Failure` where it cannot be written."""
    try:
        return model.onnx()
    except AutopruneError as error:
        return Failure("unsupported", str(error))


def module_of(model: Model) -> TracedModule | Failure:
    """The model as a torch module; a `Failure` where there is none."""
    try:
        return model.module()
    except AutopruneError as error:
        return Failure("unsupported", str(error))


def _without_weights(graph: GraphProto) -> list[ValueInfoProto]:
    """The inputs of a graph that has none of its own numbers for them."""
    weights = {tensor.name for tensor in graph.initializer}
    return [item for item in graph.input if item.name not in weights]


def _sample(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.full(shape, dtype == torch.bool, dtype=dtype)

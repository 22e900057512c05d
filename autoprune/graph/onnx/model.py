"""A program as an ONNX model: one small emitter an ATen operator, initializers named as the parameters.

The batch stays free wherever the program's sizes say `Batch` (dimension parameter "batch"); a kernel's program has
none, so its model is of fixed sizes. Nothing here is random or dated: equal programs and tensors give equal bytes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper

from autoprune.core.errors import AutopruneError
from autoprune.graph.dimension import Batch, Dimension, Widths, has_batch, size, text
from autoprune.graph.onnx.context import ONNX_TYPES, Context, UnsupportedOperator
from autoprune.graph.onnx.emitters import EMITTERS
from autoprune.graph.program import Program, Value

OPSET = 20
IR_VERSION = 9
BATCH = "batch"


def to_onnx(program: Program, widths: Widths, tensors: Mapping[str, torch.Tensor] | None, path: Path | str) -> None:
    """Write the program under `widths` as an ONNX file (see `onnx_model`).

    Raises:
        UnsupportedOperator: an operator without an emitter.
        AutopruneError: the file cannot be written.
    """
    data = onnx_model(program, widths, tensors).SerializeToString(deterministic=True)
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise AutopruneError(f"cannot write {path}: {error.strerror or error}.") from error


def onnx_model(program: Program, widths: Widths, tensors: Mapping[str, torch.Tensor] | None = None) -> onnx.ModelProto:
    """The program under `widths` as an ONNX model, in inference mode.

    Args:
        program: the traced program.
        widths: kept units by group; groups not named are dense.
        tensors: parameters and buffers at those widths, by state-dict name. None fills in numbers that keep
            activations finite: enough to time the model, not to use it.

    Raises:
        UnsupportedOperator: an operator, or a use of one, without an emitter.
    """
    context = Context(program, widths, lambda name: torch.from_numpy(_array(program, widths, tensors, name)))
    for operation in program.operations:
        if operation.name in context.folded or program.values[operation.name].dtype == "int":
            continue  # run-time integers are written where they are read
        emitter = EMITTERS.get(operation.target)
        if emitter is None:
            raise UnsupportedOperator(operation.target, operation.name)
        emitter(context, operation)
    outputs = _outputs(program, context)
    graph = helper.make_graph(
        context.nodes,
        "autoprune",
        [_info(program.values[name], widths, name) for name in program.inputs],
        [_info(program.values[name], widths, label) for name, label in outputs],
        [*_initializers(program, widths, tensors, context), *context.constants],
    )
    return helper.make_model(
        graph, producer_name="autoprune", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )


def _outputs(program: Program, context: Context) -> list[tuple[str, str]]:
    """(value, label in the model) of each output: what is given out twice, or is no node's result, is copied."""
    labels: list[tuple[str, str]] = []
    for name in program.outputs:
        if name is None:
            continue
        label = context.name(name)
        taken = {used for _, used in labels} | set(program.inputs) | set(program.parameters) | set(program.buffers)
        if label in taken or name in context.folded:
            label = f"{name}.output{len(labels)}"
            context.node("Identity", [context.name(name)], [label])
        labels.append((name, label))
    return labels


def _dimension(dimension: Dimension, widths: Widths) -> int | str:
    if dimension == Batch():
        return BATCH
    return text(dimension) if has_batch(dimension) else int(size(dimension, widths))


def _info(value: Value, widths: Widths, name: str) -> onnx.ValueInfoProto:
    if value.dtype not in ONNX_TYPES:
        raise UnsupportedOperator(value.dtype, name, f"numbers of type {value.dtype}")
    kind = ONNX_TYPES[value.dtype]
    shape = [_dimension(dimension, widths) for dimension in value.dimensions]
    return helper.make_tensor_value_info(name, kind, shape)


def _initializers(
    program: Program, widths: Widths, tensors: Mapping[str, torch.Tensor] | None, context: Context
) -> list[onnx.TensorProto]:
    read = {name for node in context.nodes for name in node.input}
    found = []
    for name in (*program.parameters, *program.buffers):
        if name in read:
            found.append(numpy_helper.from_array(_array(program, widths, tensors, name), name))
    return found


def _array(
    program: Program, widths: Widths, tensors: Mapping[str, torch.Tensor] | None, name: str
) -> npt.NDArray[np.generic]:
    """A parameter's or buffer's numbers."""
    value = program.values[name]
    if value.dtype not in ONNX_TYPES:
        raise UnsupportedOperator(value.dtype, name, f"numbers of type {value.dtype}")
    if tensors is None:
        return placeholder(value, widths)
    return np.ascontiguousarray(tensors[name].detach().cpu().numpy())


def placeholder(value: Value, widths: Widths) -> npt.NDArray[np.generic]:
    """Numbers of a parameter's shape that keep activations finite through deep networks.

    Parameters of one shape get different numbers: runtimes keep equal ones once, and such a model runs from the cache.
    """
    shape = tuple(int(size(dimension, widths)) for dimension in value.dimensions)
    if value.dtype != "float32":
        return np.full(shape, value.dtype == "bool", dtype=value.dtype)  # a mask that hides all makes no finite number
    if len(shape) < 2:
        return np.ones(shape, dtype=np.float32)
    start = zlib.crc32(value.name.encode())
    ramp = ((np.arange(math.prod(shape), dtype=np.int64) * 7919 + start) % 1021 - 510).astype(np.float32)
    return (ramp / (510.0 * math.sqrt(max(1, math.prod(shape[1:]))))).reshape(shape).astype(np.float32)


__all__ = ["BATCH", "OPSET", "UnsupportedOperator", "onnx_model", "placeholder", "to_onnx"]

"""Multiply-accumulates as formulas over widths, one an operator class; a test compares them with fvcore's."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import nn

from autoprune.graph.dimension import Constant, Dimension, Widths, size
from autoprune.graph.program import Operation, Program, Ref


def _numel(dimensions: tuple[Dimension, ...], widths: Widths) -> Any:
    return math.prod((size(dimension, widths) for dimension in dimensions), start=1)


def operation_macs(program: Program, operation: Operation, widths: Widths) -> Any:
    """MACs of one operation: an int, or an array where widths are arrays; 0 for what multiplies no matrices."""
    kind = operation.kind
    result = program.values[operation.name].dimensions

    def operand(position: int) -> tuple[Dimension, ...]:
        argument = operation.args[position]
        return program.values[argument.name].dimensions if isinstance(argument, Ref) else ()

    if kind in ("conv1d", "conv2d", "conv3d", "linear"):
        return _numel(result, widths) * _numel(operand(1)[1:], widths)
    if kind.startswith("conv_transpose"):
        return _numel(operand(0), widths) * _numel(operand(1)[1:], widths)
    if kind in ("matmul", "bmm", "mm"):
        return _numel(result, widths) * size(operand(0)[-1], widths)
    if kind in ("addmm", "baddbmm"):
        return _numel(result, widths) * size(operand(1)[-1], widths)
    if kind == "einsum":
        return _einsum_macs(program, operation, widths)
    if kind == "scaled_dot_product_attention":
        query, key, value = operand(0), operand(1), operand(2)
        scores = _numel(query[:-1], widths) * size(key[-2], widths)
        return scores * size(query[-1], widths) + scores * size(value[-1], widths)
    return 0


def _einsum_macs(program: Program, operation: Operation, widths: Widths) -> Any:
    """One multiplication for every place of the result and every combination of the letters that are summed over."""
    left, _, right = str(operation.args[0]).replace(" ", "").partition("->")
    summed: dict[str, Dimension] = {}
    for term, operand in zip(left.split(","), operation.args[1], strict=True):
        before, _, after = term.partition("...")
        dimensions = program.values[operand.name].dimensions
        named = [*zip(before, dimensions, strict=False), *zip(after[::-1], dimensions[::-1], strict=False)]
        summed |= {letter: d for letter, d in named if letter not in right and d != Constant(1)}
    return _numel(program.values[operation.name].dimensions, widths) * _numel(tuple(summed.values()), widths)


def macs(program: Program, widths: Widths) -> Any:
    """MACs of the whole program under `widths` (He et al. count: convolutions, linear layers, matrix products)."""
    total: Any = 0
    for operation in program.operations:
        total = total + operation_macs(program, operation, widths)
    return total


_NOT_MULTIPLIED = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "adaptive_avg_pool2d", "grid_sampler",
                   "upsample_nearest2d", "upsample_bilinear2d")  # fmt: skip


def fvcore_macs(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """MACs as fvcore counts them, the figure papers are compared by: convolutions, linear layers and matrix products.

    Norms and pooling, which fvcore also prices, are left out, as in the literature.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore scripts and traces with torch.jit, which warns
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(module, inputs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counts = analysis.by_operator()
    return int(sum(count for name, count in counts.items() if name not in _NOT_MULTIPLIED))

"""Batch norms folded into the convolutions before them, as deployed models have them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from autoprune.graph.fusion import CONVOLUTIONS
from autoprune.graph.module import TracedModule
from autoprune.graph.program import Operation, Program, Ref, Value

_NORM = "aten.batch_norm.default"


def fold_batch_norms(module: TracedModule) -> TracedModule:
    """The module without the batch norms that directly follow a convolution; others stay.

    What it computes differs by rounding alone: w' = w * s and b' = (b - mean) * s + beta, s = gamma / sqrt(var + eps).
    The given module and its tensors are left alone. Operations keep their names; a convolution gives what its norm did.
    """
    program, state = module.program, dict(module.state_dict())
    pairs = _pairs(program)
    if not pairs:
        return module
    norms = {norm.name for norm in pairs.values()}
    operations, values = [], dict(program.values)
    for operation in program.operations:
        norm = pairs.get(operation.name)
        if operation.name in norms:
            continue
        if norm is not None:
            weight, bias = _folded(operation, norm, state)
            name = f"{operation.name}_folded_bias"
            state[operation.args[1].name], state[name] = weight, bias
            values[name] = Value(name, values[operation.args[1].name].dimensions[:1], "float32")
            args = (*operation.args[:2], Ref(name), *operation.args[3:])
            operation = replace(operation, args=args, module=None, results=norm.results)
        operations.append(operation)
    read = {name for operation in operations for name in operation.refs()}
    parameters = [name for name in (*program.parameters, *state) if name in read and name not in program.buffers]
    made = replace(
        program,
        operations=tuple(operations),
        values=values,
        parameters=tuple(dict.fromkeys(parameters)),
        buffers=tuple(name for name in program.buffers if name in read),
    )
    kept = {name: state[name] for name in (*made.parameters, *made.buffers)}
    return TracedModule(made, module.widths, {**kept, **{p: _frozen(kept[p]) for p in made.parameters}})


def _frozen(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _pairs(program: Program) -> dict[str, Operation]:
    """Name of a convolution -> the batch norm that alone reads it; each weight read by that convolution alone."""
    made = {name: operation for operation in program.operations for name in operation.results}
    found = {}
    for norm in program.operations:
        if norm.target != _NORM or norm.argument(5, "training", False) or norm.argument(3, "running_mean") is None:
            continue
        before = made.get(norm.args[0].name)
        if before is None or before.target not in CONVOLUTIONS or before.name in program.outputs:
            continue
        weights = [before.args[1].name, *(item.name for item in before.args[2:3] if item is not None)]
        alone = all(len(program.readers[name]) == 1 for name in (before.name, *weights))
        if alone and all(name in program.parameters for name in weights):
            found[before.name] = norm
    return found


def _folded(
    convolution: Operation, norm: Operation, state: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The convolution's weight and bias with the norm in them."""

    def of(operation: Operation, position: int, name: str, default: torch.Tensor) -> torch.Tensor:
        argument = operation.argument(position, name)
        return default if argument is None else state[argument.name].detach()

    weight = state[convolution.args[1].name].detach()
    ones = torch.ones(weight.shape[0], dtype=weight.dtype)
    variance = of(norm, 4, "running_var", ones)
    scale = of(norm, 1, "weight", ones) / torch.sqrt(variance + norm.argument(7, "eps", 1e-5))
    bias = of(convolution, 2, "bias", 0 * ones) - of(norm, 3, "running_mean", 0 * ones)
    return weight * scale.view(-1, *[1] * (weight.dim() - 1)), bias * scale + of(norm, 2, "bias", 0 * ones)

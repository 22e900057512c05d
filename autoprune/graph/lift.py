"""Operators with state, lifted back to the `nn` modules they came from: one line of the table an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autoprune.graph.dimension import Widths, size
from autoprune.graph.program import Operation, Program, Ref, Size

Tensors = Mapping[str, torch.Tensor | None]


_HELD = nn.Module().eval().__dict__  # by every module
_FRESH = tuple((name, type(own)) for name, own in _HELD.items() if isinstance(own, (dict, set)))  # by each its own


def bare_module(kind: type[nn.Module]) -> nn.Module:
    """An `nn` module in eval mode without its initialisation: slicing makes hundreds of them in milliseconds."""
    module = kind.__new__(kind)
    held = module.__dict__
    held.update(_HELD)
    for name, container in _FRESH:
        held[name] = container()
    return module


def _bare(kind: type[nn.Module], tensors: Tensors, **attributes: Any) -> nn.Module:
    module = bare_module(kind)
    module.__dict__.update(attributes)
    for name, tensor in tensors.items():
        if name in ("running_mean", "running_var", "num_batches_tracked"):
            module._buffers[name] = tensor
        elif tensor is None or isinstance(tensor, nn.Parameter):
            module._parameters[name] = tensor
        else:
            module._parameters[name] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
    return module


def _tuple(value: Any, rank: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * rank if len(values) == 1 else values


def _conv(operation: Operation, rank: int, widths: Widths, tensors: Tensors) -> nn.Module:
    weight = tensors["weight"]
    assert weight is not None
    groups = operation.argument(6, "groups", 1)
    groups = int(size(groups.dimension, widths)) if isinstance(groups, Size) else groups
    padding = operation.argument(4, "padding", 0)
    dilation = _tuple(operation.argument(5, "dilation", 1), rank)
    kernel = tuple(weight.shape[2:])
    named = isinstance(padding, str)
    amounts = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)] if named else []
    reversed_padding = [part for total in reversed(amounts) for part in (total // 2, total - total // 2)]
    return _bare(
        {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank],
        tensors,
        in_channels=weight.shape[1] * groups,
        out_channels=weight.shape[0],
        kernel_size=kernel,
        stride=_tuple(operation.argument(3, "stride", 1), rank),
        padding=padding if named else _tuple(padding, rank),
        dilation=dilation,
        transposed=False,
        output_padding=(0,) * rank,
        groups=groups,
        padding_mode="zeros",
        _reversed_padding_repeated_twice=reversed_padding,
    )


def _conv1d(operation: Operation, rank: int, widths: Widths, tensors: Tensors) -> nn.Module:
    return _conv(operation, 1, widths, tensors)


def _conv2d(operation: Operation, rank: int, widths: Widths, tensors: Tensors) -> nn.Module:
    return _conv(operation, 2, widths, tensors)


def _conv3d(operation: Operation, rank: int, widths: Widths, tensors: Tensors) -> nn.Module:
    return _conv(operation, 3, widths, tensors)


def _linear(operation: Operation, rank: int, widths: Widths, tensors: Tensors) -> nn.Module:
    weight = tensors["weight"]
    assert weight is not None
    return _bare(nn.Linear, tensors, in_features=weight.shape[1], out_features=weight.shape[0])


def _batch_norm(operation: Operation, rank: int, widths: Widths, tensors: Tensors) -> nn.Module:
    mean = tensors["running_mean"]
    assert mean is not None
    tracked = tensors.get("num_batches_tracked")
    kind = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(rank, nn.BatchNorm1d)
    return _bare(
        kind,
        {**tensors, "num_batches_tracked": torch.zeros((), dtype=torch.int64) if tracked is None else tracked},
        num_features=mean.shape[0],
        eps=operation.argument(7, "eps", 1e-5),
        momentum=operation.argument(6, "momentum", 0.1),
        affine=tensors["weight"] is not None,
        track_running_stats=True,
    )


def _layer_norm(operation: Operation, rank: int, widths: Widths, tensors: Tensors) -> nn.Module:
    shape = tuple(int(size(s.dimension, widths)) if isinstance(s, Size) else s for s in operation.args[1])
    affine = tensors["weight"] is not None
    eps = operation.argument(4, "eps", 1e-5)
    return _bare(nn.LayerNorm, tensors, normalized_shape=shape, eps=eps, elementwise_affine=affine)


def _embedding(operation: Operation, rank: int, widths: Widths, tensors: Tensors) -> nn.Module:
    weight = tensors["weight"]
    assert weight is not None
    padding = operation.argument(2, "padding_idx", -1)
    return _bare(
        nn.Embedding,
        tensors,
        num_embeddings=weight.shape[0],
        embedding_dim=weight.shape[1],
        padding_idx=None if padding < 0 else padding,
        max_norm=None,
        norm_type=2.0,
        scale_grad_by_freq=False,
        sparse=False,
    )


def _dropout(operation: Operation, rank: int, widths: Widths, tensors: Tensors) -> nn.Module:
    return _bare(nn.Dropout, {}, p=operation.argument(1, "p", 0.5), inplace=False)


_Maker = Callable[[Operation, int, Widths, Tensors], nn.Module]
# target -> (maker, {parameter role: argument position})
LIFTED: dict[str, tuple[_Maker, dict[str, int]]] = {
    "aten.conv1d.default": (_conv1d, {"weight": 1, "bias": 2}),
    "aten.conv2d.default": (_conv2d, {"weight": 1, "bias": 2}),
    "aten.conv3d.default": (_conv3d, {"weight": 1, "bias": 2}),
    "aten.conv1d.padding": (_conv1d, {"weight": 1, "bias": 2}),
    "aten.conv2d.padding": (_conv2d, {"weight": 1, "bias": 2}),
    "aten.conv3d.padding": (_conv3d, {"weight": 1, "bias": 2}),
    "aten.linear.default": (_linear, {"weight": 1, "bias": 2}),
    "aten.batch_norm.default": (_batch_norm, {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4}),
    "aten.layer_norm.default": (_layer_norm, {"weight": 2, "bias": 3}),
    "aten.embedding.default": (_embedding, {"weight": 0}),
    "aten.dropout.default": (_dropout, {}),
}


def module_input(operation: Operation) -> Ref:
    """The activation that a lifted operation's module is called with."""
    found: Ref = operation.args[1 if operation.target == "aten.embedding.default" else 0]
    return found


def owned_parameters(operation: Operation) -> dict[str, str]:
    """Role in the lifted module -> state-dict name, for the parameters and buffers that are there."""
    owned = {}
    if operation.target == "aten.batch_norm.default":
        owned["num_batches_tracked"] = f"{operation.module}.num_batches_tracked"
    for role, position in LIFTED[operation.target][1].items():
        argument = operation.argument(position, role)
        if isinstance(argument, Ref):
            owned[role] = argument.name
    return owned


def make_module(operation: Operation, program: Program, widths: Widths, tensors: Tensors) -> nn.Module:
    """The `nn` module of a lifted operation, holding `tensors` (role -> tensor; roles not given are None)."""
    maker, roles = LIFTED[operation.target]
    rank = len(program.values[operation.name].dimensions)
    return maker(operation, rank, widths, {**dict.fromkeys(roles), **tensors})


def owner_of(parameter: str) -> str:
    """`attn.c_attn.weight` -> `attn.c_attn`; names of other parameters (`pos_embed`) as they are."""
    return parameter.removesuffix(".weight").removesuffix(".bias")


def module_path(target: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The path of the module whose `weight`, `bias`, ... these arguments are; None where it cannot be lifted."""
    if target not in LIFTED:
        return None
    roles = LIFTED[target][1]
    paths = set()
    for role, position in roles.items():
        argument = args[position] if position < len(args) else kwargs.get(role)
        if argument is None:
            if role in ("running_mean", "running_var") or (role == "weight" and target != "aten.layer_norm.default"):
                return None
            continue
        if not isinstance(argument, Ref) or argument.name.rpartition(".")[2] != role:
            return None
        paths.add(argument.name.rpartition(".")[0])
    return paths.pop() if len(paths) == 1 and "" not in paths else None

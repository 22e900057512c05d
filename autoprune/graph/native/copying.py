"""The one copy of the user's model, and the traced module's tensors in it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autoprune.graph.module import TracedModule

_SIZES = ("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "normalized_shape",
          "num_embeddings", "embedding_dim", "num_channels", "num_groups")  # fmt: skip


def copied(dense_model: nn.Module) -> nn.Module:
    """A deep copy that still shares the dense parameters: `place_tensors` replaces them, so they are never copied."""
    memo: dict[int, Any] = {id(parameter): parameter for parameter in dense_model.parameters()}
    return copy.deepcopy(dense_model, memo)


def dense_tensors(dense_model: nn.Module, module: TracedModule) -> dict[str, torch.Tensor]:
    """The dense program's tensors: the model's, and the traced constants that no state dict names."""
    tensors: dict[str, torch.Tensor] = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    tensors.update(dense_model.named_parameters(remove_duplicate=False))
    tensors.update(dense_model.named_buffers(remove_duplicate=False))
    return tensors


def place_tensors(native: nn.Module, dense_model: nn.Module, module: TracedModule) -> str:
    """Put the traced module's tensors where the dense ones are; why that cannot be, or an empty text.

    Tied parameters stay tied, `requires_grad` is the dense one's, and what the program does not read is copied.
    """
    tensors: dict[str, torch.Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    parameters = dict(dense_model.named_parameters(remove_duplicate=False))
    buffers = dict(native.named_buffers(remove_duplicate=False))
    for name in module.state_dict():
        if name not in parameters and name not in buffers and name in module.program.parameters:
            return f"'{name}' is not a parameter of the model's class"
    new = _new_parameters(parameters, tensors)
    for submodule in native.modules():
        for leaf, parameter in submodule._parameters.items():
            if parameter is not None:
                submodule._parameters[leaf] = new[id(parameter)]
        for name, value in vars(submodule).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                submodule.__dict__[name] = _replaced(value, new)
    for name, buffer in buffers.items():
        if name in tensors and tensors[name].dtype == buffer.dtype:
            owner, _, leaf = name.rpartition(".")
            native.get_submodule(owner)._buffers[leaf] = tensors[name].detach().clone()
    return ""


def _new_parameters(
    parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> dict[int, nn.Parameter]:
    """Identity of each dense parameter -> its successor; parameters that share memory share their successor's."""
    key = {name: (p.data_ptr(), tuple(p.shape), p.stride(), p.dtype) for name, p in parameters.items()}
    successors = {key[name]: tensors[name].detach().clone() for name in parameters if name in tensors}
    new: dict[int, nn.Parameter] = {}
    for name, parameter in parameters.items():
        if id(parameter) not in new:
            data = successors.get(key[name]) if parameter.numel() else tensors.get(name)
            data = parameter.detach().clone() if data is None else data
            new[id(parameter)] = nn.Parameter(data, requires_grad=parameter.requires_grad)
    return new


def _replaced(value: Any, new: Mapping[int, nn.Parameter]) -> Any:
    """Parameters that a module also keeps in plain attributes, lists, tuples and dicts."""
    if isinstance(value, nn.Parameter):
        return new.get(id(value), value)
    if type(value) in (list, tuple) and any(isinstance(item, nn.Parameter) for item in value):
        return type(value)(_replaced(item, new) for item in value)
    if type(value) is dict and any(isinstance(item, nn.Parameter) for item in value.values()):
        return {name: _replaced(item, new) for name, item in value.items()}
    return value


def place_sizes(native: nn.Module, module: TracedModule) -> set[tuple[str, str]]:
    """Set the sizes of lifted modules and of torch's own layers; returns (module, attribute) of each."""
    placed = set()
    for path, traced in module.named_modules():
        if type(traced) in (nn.Module, nn.Dropout) or path == "":
            continue
        owner = native.get_submodule(path)
        for attribute in _SIZES:
            if hasattr(traced, attribute) and attribute in vars(owner):
                vars(owner)[attribute] = getattr(traced, attribute)
                placed.add((path, attribute))
    for path, owner in native.named_modules():
        for attribute, units in _kept_sizes(owner).items():
            vars(owner)[attribute] = units
            placed.add((path, attribute))
    return placed


def _kept_sizes(owner: nn.Module) -> dict[str, int]:
    """Sizes of torch's own layers that are not lifted, as their parameters say."""
    if isinstance(owner, nn.RNNBase):
        rows, columns = owner.get_parameter("weight_ih_l0").shape  # (gates x hidden, inputs)
        gates = {"LSTM": 4, "GRU": 3}.get(owner.mode, 1)
        return {"input_size": columns, "hidden_size": rows // gates}
    if isinstance(owner, nn.MultiheadAttention) and owner.in_proj_weight is not None:
        return dict.fromkeys(("embed_dim", "kdim", "vdim"), owner.in_proj_weight.shape[1])
    return {}

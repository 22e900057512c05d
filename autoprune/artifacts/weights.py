"""A model's tensors as files hold them: which there are, their types and shapes, and what identifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from autoprune.graph.dimension import Widths, size
from autoprune.graph.program import Program
from autoprune.graph.tensor_file import read_any_tensors, read_tensors, write_tensors

__all__ = ["expected_shapes", "read_any_tensors", "read_tensors", "state_hash", "tensors_of", "write_tensors"]


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, detached; buffers that state dicts leave out are among them."""
    named = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    return {name: tensor.detach() for name, tensor in named.items()}


def state_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """16 hex digits of the SHA-256 over names, types, shapes and values; the order of names does not count."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return found.hexdigest()[:16]


def expected_shapes(program: Program, widths: Widths) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Parameters and buffers of a program, without removed branches: name -> (dtype, shape under `widths`).

    Raises:
        InputError: width 0 where it removes no branch.
    """
    program = program.at(widths)
    return {
        name: (program.values[name].dtype, tuple(int(size(d, widths)) for d in program.values[name].dimensions))
        for name in (*program.parameters, *program.buffers)
    }

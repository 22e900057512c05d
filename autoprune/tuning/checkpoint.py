"""Checkpoints of fine-tuning: a safetensors file, written whole or not at all; nothing in it is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from autoprune.core.errors import InputError
from autoprune.graph.tensor_file import read_notes, read_tensors, write_tensors

SCHEMA = "autoprune.finetune/2"

Tensors = dict[str, torch.Tensor]


class BrokenCheckpointError(Exception):
    """A checkpoint that cannot be resumed from, and why."""


def save(path: Path, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a checkpoint so that a reader sees the old one or the new one, never a part.

    Args:
        path: the file.
        key: what the checkpoint belongs to (settings and model); `load` asks for the same.
        tensors: all that training goes on from.

    Raises:
        InputError: the folder cannot be written.
    """
    write_tensors(path, tensors, {"schema": SCHEMA, "key": key})


def load(path: Path, key: str, expected: Mapping[str, torch.Tensor]) -> Tensors:
    """Read a checkpoint; it takes no more memory than the tensors that are expected.

    Args:
        path: an existing file.
        key: see `save`.
        expected: tensors of the names, types and shapes that the saved ones must have.

    Returns:
        The saved tensors, on the CPU.

    Raises:
        BrokenCheckpointError: not a checkpoint, of another version or key, or of another model.
    """
    try:
        notes = read_notes(path)
    except InputError as error:
        raise BrokenCheckpointError(f"it cannot be read ({error})") from error
    if notes.get("schema") != SCHEMA:
        raise BrokenCheckpointError(f"it is not a checkpoint of version {SCHEMA}")
    if notes.get("key") != key:
        raise BrokenCheckpointError("it was written with other settings or for another model")
    try:
        return read_tensors(path, {name: (_type(tensor), tensor.shape) for name, tensor in expected.items()})
    except InputError as error:
        raise BrokenCheckpointError(f"its tensors are not the model's ({error})") from error


def joined(parts: Mapping[str, Mapping[str, torch.Tensor]]) -> Tensors:
    """Tensors of several parts, each by `part.name`."""
    return {f"{part}.{name}": tensor for part, own in parts.items() for name, tensor in own.items()}


def part(found: Mapping[str, torch.Tensor], name: str) -> Tensors:
    """The tensors of a part, by their own names: an inverse of `joined`."""
    begin = f"{name}."
    return {key.removeprefix(begin): tensor for key, tensor in found.items() if key.startswith(begin)}


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

"""Checkpoints of fine-tuning: plain tensors and numbers, written whole or not at all, never unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autoprune.core.files import replacing

SCHEMA = "autoprune.finetune/1"

Tensors = dict[str, torch.Tensor]


class BrokenCheckpointError(Exception):
    """A checkpoint that cannot be resumed from, and why."""


def save(path: Path, key: str, payload: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a reader sees the old one or the new one, never a part.

    Args:
        path: the file.
        key: what the checkpoint belongs to (settings and model); `load` asks for the same.
        payload: tensors, numbers, strings, lists and dicts.

    Raises:
        InputError: the folder cannot be written.
    """
    with replacing(path) as file:
        torch.save({"schema": SCHEMA, "key": key, **payload}, file)


def load(path: Path, key: str, device: torch.device, expected: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Read a checkpoint.

    Args:
        path: an existing file.
        key: see `save`.
        device: where tensors go.
        expected: the model's state; the saved ones must have its names and shapes.

    Raises:
        BrokenCheckpointError: not a checkpoint, of another version or key, or of another model.
    """
    try:
        data = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        raise BrokenCheckpointError(f"it cannot be read ({type(error).__name__})") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise BrokenCheckpointError(f"it is not a checkpoint of version {SCHEMA}")
    if data.get("key") != key:
        raise BrokenCheckpointError("it was written with other settings or for another model")
    for name in ("model", "best"):
        if not _fits(data.get(name), expected):
            raise BrokenCheckpointError(f"its tensors ('{name}') are not the model's")
    return data


def _fits(found: Any, expected: Mapping[str, torch.Tensor]) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == expected.keys()
        and all(
            isinstance(found[name], torch.Tensor)
            and found[name].shape == expected[name].shape
            and found[name].dtype == expected[name].dtype
            for name in expected
        )
    )

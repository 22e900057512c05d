"""Batches as loaders give them: moved to a device, taken apart into inputs and labels, hashed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import nn

from autoprune.core.errors import InputError

Inputs: TypeAlias = tuple[torch.Tensor, ...] | dict[str, torch.Tensor]  # positional or keyword arguments of the model

LABEL_KEYS = ("labels", "label", "targets", "target", "y")


class Batches:
    """The batches of a loader on one device; as re-iterable as the loader.

    Args:
        loader: re-iterable of batches.
        device: where tensors go.
        limit: at most this many batches, all by default.
    """

    def __init__(self, loader: Iterable[Any], device: torch.device, limit: int | None = None) -> None:
        self._loader = loader
        self._device = device
        self._limit = limit

    def __iter__(self) -> Iterator[Any]:
        for batch in islice(self._loader, self._limit):
            yield to_device(batch, self._device)

    def __len__(self) -> int:
        count = len(cast(Any, self._loader))
        return count if self._limit is None else min(count, self._limit)


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter or buffer; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on `device`: tensors, sequences, mappings, and objects with a `to` method."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(part, device) for part in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(to_device(part, device) for part in batch)
    return batch


def default_inputs(batch: Any) -> Any:
    """The inputs of a batch: a tensor itself, the first of a sequence, all of a mapping but its labels."""
    if isinstance(batch, torch.Tensor):
        return batch
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key not in LABEL_KEYS}
    if isinstance(batch, (tuple, list)) and batch:
        return batch[0]
    raise InputError(
        f"task: expected batches that are tensors, sequences or mappings, got {type(batch).__name__}. "
        "Pass inputs=, a function from a batch to the model's inputs."
    )


def labels(batch: Any) -> torch.Tensor:
    """The labels of a batch: the second of a sequence, or the entry `labels`, `label`, `targets`, `target` or `y`.

    Raises:
        InputError: there are none.
    """
    found: Any = None
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in LABEL_KEYS if key in batch), None)
    elif isinstance(batch, (tuple, list)) and len(batch) > 1:
        found = batch[1]
    if not isinstance(found, torch.Tensor):
        raise InputError(
            f"task: expected batches (inputs, labels) or a mapping with one of {', '.join(LABEL_KEYS)}, "
            f"got {describe(batch)}. Pass loss= and metrics= that read your batches."
        )
    return found


def as_inputs(found: Any) -> Inputs:
    """What an `inputs` function returned, as arguments: a tensor, a sequence of tensors, or a mapping of them.

    Raises:
        InputError: anything else.
    """
    if isinstance(found, torch.Tensor):
        return (found,)
    if isinstance(found, Mapping) and found and all(isinstance(value, torch.Tensor) for value in found.values()):
        return dict(found)
    if isinstance(found, (tuple, list)) and found and all(isinstance(part, torch.Tensor) for part in found):
        return tuple(found)
    raise InputError(
        f"task: expected model inputs as a tensor, a tuple of tensors or a mapping of them, got {describe(found)}. "
        "Pass inputs=, a function from a batch to the model's inputs."
    )


def call(model: nn.Module, inputs: Inputs) -> Any:
    """The model's outputs for inputs."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def batch_size(inputs: Inputs) -> int:
    """Examples in a batch: the first size of its first input."""
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs[0]
    return int(first.shape[0]) if first.ndim else 1


def tensors_of(outputs: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """All floating tensors of a model's outputs by their place: a tensor, and sequences and mappings of outputs."""
    if isinstance(outputs, torch.Tensor):
        return {prefix: outputs} if outputs.is_floating_point() else {}
    found: dict[str, torch.Tensor] = {}
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(outputs, Mapping):
        parts = outputs.items()
    elif isinstance(outputs, (tuple, list)):
        parts = enumerate(outputs)
    for key, part in parts:
        found.update(tensors_of(part, f"{prefix}.{key}" if prefix else str(key)))
    return found


def main_output(outputs: Any) -> torch.Tensor:
    """The tensor that scores classes: `logits` where outputs have names, else the first floating tensor.

    Raises:
        InputError: there is no floating tensor in the outputs.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    found = tensors_of(outputs)
    if not found:
        raise InputError(f"task: expected a floating-point tensor among the model's outputs, got {describe(outputs)}.")
    return found["logits"] if "logits" in found else next(iter(found.values()))


def as_float(outputs: Any) -> Any:
    """Outputs with half-precision tensors as float32; losses are computed in full."""
    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
    if isinstance(outputs, dict):
        changed = copy.copy(outputs)  # of the same kind: transformers' outputs are dictionaries with attributes
        for key, value in outputs.items():
            changed[key] = as_float(value)
        return changed
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return type(outputs)(*(as_float(part) for part in outputs))
    if isinstance(outputs, (tuple, list)):
        return type(outputs)(as_float(part) for part in outputs)
    return outputs


def describe(item: Any) -> str:
    """What something is, for messages: `tuple(tensor (8, 3), int)`."""
    if isinstance(item, torch.Tensor):
        return f"tensor {tuple(item.shape)}"
    if isinstance(item, Mapping):
        return f"{type(item).__name__} with {', '.join(map(str, list(item)[:6])) or 'nothing'}"
    if isinstance(item, (tuple, list)):
        more = ", ..." if len(item) > 4 else ""
        return f"{type(item).__name__}({', '.join(describe(part) for part in item[:4])}{more})"
    return type(item).__name__


def batch_digest(batch: Any, contents: bool = True) -> str:
    """A hash of a batch: types, shapes and, with `contents`, values."""
    state = hashlib.sha256()
    for piece in _pieces(batch, contents):
        state.update(len(piece).to_bytes(8, "little"))
        state.update(piece)
    return state.hexdigest()


def _pieces(item: Any, contents: bool) -> Iterator[bytes]:
    if isinstance(item, torch.Tensor):
        yield f"tensor {item.dtype} {tuple(item.shape)}".encode()
        if contents:
            flat = item.detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    elif isinstance(item, np.ndarray):
        yield f"array {item.dtype} {item.shape}".encode()
        if contents and item.dtype != np.object_:
            yield np.ascontiguousarray(item).tobytes()
    elif isinstance(item, Mapping):
        yield f"mapping {len(item)}".encode()
        for key, value in item.items():
            yield str(key).encode(errors="replace")
            yield from _pieces(value, contents)
    elif isinstance(item, (tuple, list)):
        yield f"sequence {len(item)}".encode()
        for part in item:
            yield from _pieces(part, contents)
    elif isinstance(item, (str, bytes, int, float, bool)) and contents:
        yield repr(item).encode(errors="replace")
    else:
        yield type(item).__qualname__.encode()

"""Precision and memory layout while training: tried on one batch before they are relied on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from autoprune.tuning.batches import Inputs, call


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Compute in `dtype` where that is safe; None changes nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@contextmanager
def training_layout(model: nn.Module, inputs: Inputs, dtype: torch.dtype | None) -> Iterator[None]:
    """Keep the model in channels-last while inside, where that pays and works; contiguous again afterwards.

    It pays for 2-D convolutions in bfloat16. It does not work for a model that views its activations in a way that
    needs the usual layout: one pass over `inputs` tells.
    """
    chosen = dtype is not None and any(isinstance(module, nn.Conv2d) for module in model.modules())
    chosen = chosen and any(tensor.ndim == 4 for tensor in _tensors(inputs))
    try:
        if chosen:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if not runs(model, inputs, dtype):
                model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        yield
    finally:
        if chosen:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def runs(model: nn.Module, inputs: Inputs, dtype: torch.dtype | None) -> bool:
    """Whether the model takes inputs when it computes in `dtype` (None: float32), in its present layout."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), autocast(_tensors(inputs)[0].device, dtype):
            call(model, inputs)
        return True
    except RuntimeError:
        return False
    finally:
        for module, training in modes:
            module.training = training


def _tensors(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    return tuple(inputs.values()) if isinstance(inputs, dict) else inputs

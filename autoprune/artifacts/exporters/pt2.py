"""`torch.export` archives.

`torch.export.load` may unpickle: `torch/export/pt2_archive/_package.py` calls `torch.load(..., weights_only=False)` for
tensors stored so, and `pickle.loads` for custom objects (torch 2.13). Autoprune therefore never reads a `.pt2` back,
save the one it has written a moment before.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.artifacts.exporters.base import Tensors
from autoprune.artifacts.exporters.parity import batch_axes, flat_outputs
from autoprune.graph.module import TracedModule


class Pt2Exporter:
    """A `torch.export` archive, called as the user's model is."""

    suffix = "pt2"
    tolerance = 1e-5

    def export(self, module: TracedModule, inputs: Tensors, path: Path) -> str:
        """See `Exporter.export`."""
        call = dynamic_call(module, inputs)
        exported = torch.export.export(call.module, call.args, call.kwargs, dynamic_shapes=call.shapes, strict=False)
        torch.export.save(exported, path)
        return ""

    def run(self, module: TracedModule, path: Path, batches: Sequence[Tensors]) -> list[Tensors]:
        """See `Exporter.run`."""
        loaded = torch.export.load(path).module()
        results = []
        for batch in batches:
            args, kwargs = _call(module, batch)
            with torch.no_grad():
                results.append(flat_outputs(loaded(*args, **kwargs)))
        return results


@dataclass(frozen=True, eq=False)
class DynamicCall:
    """What `torch.export.export` is told: module, arguments and the dimensions that stay free."""

    module: nn.Module
    args: Tensors
    kwargs: dict[str, torch.Tensor]
    shapes: dict[str, Any]


def dynamic_call(module: TracedModule, inputs: Tensors) -> DynamicCall:
    """The module called as the user's model is, under the user's names, its batch free."""
    axes = batch_axes(module.program)
    batch = torch.export.Dim("batch", min=1)
    args, kwargs = _call(module, inputs)
    inner = module.program.inputs
    names = list(kwargs) or [name if name.isidentifier() else f"input_{index}" for index, name in enumerate(inner)]
    free = [{axes[name]: batch} if name in axes else None for name in inner]
    return DynamicCall(_signed(module, names), args, kwargs, dict(zip(names, free, strict=True)))


def _signed(module: TracedModule, names: Sequence[str]) -> nn.Module:
    """The same module with a `forward` of named parameters: torch.export (2.13) loses dynamic shapes in `**kwargs`."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return module.forward(*args, **kwargs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    forward.__signature__ = signature  # type: ignore[attr-defined]
    signed = copy.copy(module)
    signed.forward = forward  # type: ignore[method-assign]
    return signed


def _call(module: TracedModule, inputs: Tensors) -> tuple[Tensors, dict[str, torch.Tensor]]:
    """By keyword where the model was traced with one tensor a keyword, else by position."""
    names: list[str] = json.loads(module.program.input_tree)["kwargs"]
    if names and len(names) == len(inputs):
        return (), dict(zip(names, inputs, strict=True))
    return inputs, {}

"""`torch.export` archives.

`torch.export.load` may unpickle: `torch/export/pt2_archive/_package.py` calls `torch.load(..., weights_only=False)` for
tensors stored so, and `pickle.loads` for custom objects (torch 2.13). Autoprune therefore never reads a `.pt2` back,
save the one it has written a moment before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from autoprune.artifacts.exporters.base import Tensors
from autoprune.artifacts.exporters.parity import batch_axes, flat_outputs
from autoprune.graph.module import TracedModule


class Pt2Exporter:
    """A `torch.export` archive, called as the user's model is."""

    suffix = "pt2"
    tolerance = 1e-5

    def export(self, module: TracedModule, inputs: Tensors, path: Path) -> str:
        """See `Exporter.export`."""
        args, kwargs, shapes = dynamic_call(module, inputs)
        exported = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
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


def dynamic_call(module: TracedModule, inputs: Tensors) -> tuple[Tensors, dict[str, torch.Tensor], dict[str, Any]]:
    """Arguments for `torch.export.export`: positional, by keyword, and the shapes that leave the batch free."""
    axes = batch_axes(module.program)
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({axes[name]: batch} if name in axes else None for name in module.program.inputs)
    args, kwargs = _call(module, inputs)
    if kwargs:
        return args, kwargs, {"kwargs": dict(zip(kwargs, shapes, strict=True))}
    return args, kwargs, {"args": shapes}


def _call(module: TracedModule, inputs: Tensors) -> tuple[Tensors, dict[str, torch.Tensor]]:
    """By keyword where the model was traced with one tensor a keyword, else by position."""
    names: list[str] = json.loads(module.program.input_tree)["kwargs"]
    if names and len(names) == len(inputs):
        return (), dict(zip(names, inputs, strict=True))
    return inputs, {}

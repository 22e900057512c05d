"""What a format has to do, and the registry of those known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import torch

from autoprune.core.registry import Registry
from autoprune.graph.module import TracedModule

MAX_CHARACTERS = 600
Tensors: TypeAlias = tuple[torch.Tensor, ...]


class Exporter(Protocol):
    """A format.

    Attributes:
        suffix: of its files, without the dot.
        tolerance: the largest difference allowed between its outputs and the module's, relative to the larger of 1
            and the largest output.
    """

    suffix: str
    tolerance: float

    def export(self, module: TracedModule, inputs: Tensors, path: Path) -> str:
        """Write `module` (in eval mode) to `path`, its batch free.

        Args:
            module: is not changed.
            inputs: example inputs of at least two rows, in the order of `module.program.inputs`.
            path: does not exist yet; a single file.

        Returns:
            A note for people on how it was written; may be empty.

        Raises:
            Any exception: becomes a `Failure` and nothing is published.
        """
        ...

    def run(self, module: TracedModule, path: Path, batches: Sequence[Tensors]) -> list[Tensors]:
        """Load a file that `export` has just written in this process and run it; its outputs for each batch.

        Args:
            module: what was exported.
            path: the file.
            batches: inputs in the order of `module.program.inputs`.
        """
        ...


EXPORTERS: Registry[type[Exporter]] = Registry(
    "format",
    "autoprune.exporters",
    {
        "onnx": "autoprune.artifacts.exporters.onnx:OnnxExporter",
        "pt2": "autoprune.artifacts.exporters.pt2:Pt2Exporter",
        "safetensors": "autoprune.artifacts.exporters.safetensors:SafetensorsExporter",
    },
)


def first_line(error: Exception) -> str:
    """The first line of what an exporter's library said, cut where it runs on."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 3] + "..."

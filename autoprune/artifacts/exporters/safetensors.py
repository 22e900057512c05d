"""Tensors alone, for `TracedModule.from_sliced` and for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoprune.artifacts.exporters.base import Tensors
from autoprune.artifacts.exporters.parity import module_outputs
from autoprune.artifacts.weights import expected_shapes, read_tensors, tensors_of, write_tensors
from autoprune.graph.module import TracedModule


class SafetensorsExporter:
    """The pruned tensors under the user's names, in one safetensors file."""

    suffix = "safetensors"
    tolerance = 1e-6  # the same tensors, at other addresses

    def export(self, module: TracedModule, inputs: Tensors, path: Path) -> str:
        """See `Exporter.export`."""
        program = module.program
        wanted = {*program.parameters, *program.buffers}
        write_tensors(path, {name: tensor for name, tensor in tensors_of(module).items() if name in wanted})
        return ""

    def run(self, module: TracedModule, path: Path, batches: Sequence[Tensors]) -> list[Tensors]:
        """See `Exporter.run`."""
        tensors = read_tensors(path, expected_shapes(module.program, module.widths))
        return module_outputs(TracedModule.from_sliced(module.program, module.widths, tensors), batches)

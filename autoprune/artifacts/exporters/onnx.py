"""ONNX: from the traced program where every operator has an emitter, else by `torch.onnx.export`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from autoprune.artifacts.exporters.base import Tensors, first_line
from autoprune.artifacts.exporters.pt2 import dynamic_call
from autoprune.artifacts.weights import tensors_of
from autoprune.core.errors import AutopruneError
from autoprune.graph.module import TracedModule
from autoprune.graph.onnx import UnsupportedOperator, to_onnx


class OnnxExporter:
    """One ONNX file with weights inside, run by ONNX Runtime on the CPU to check it."""

    suffix = "onnx"
    tolerance = 1e-4

    def export(self, module: TracedModule, inputs: Tensors, path: Path) -> str:
        """See `Exporter.export`."""
        try:
            to_onnx(module.program, module.widths, tensors_of(module), path)
            return ""
        except UnsupportedOperator as reason:
            try:
                _export_by_torch(module, inputs, path)
            except Exception as error:  # whatever torch's exporter raises, hundreds of lines of it at times
                raise AutopruneError(
                    f"{reason.reason}, and torch.onnx.export cannot write it either "
                    f"({type(error).__name__}: {first_line(error)}). Export pt2 instead, or replace the operator."
                ) from error
            return f"by torch.onnx.export (no emitter for {reason.target})"

    def run(self, module: TracedModule, path: Path, batches: Sequence[Tensors]) -> list[Tensors]:
        """See `Exporter.run`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [item.name for item in session.get_inputs()]
        if len(names) != len(module.program.inputs):
            raise ValueError(f"expected {len(module.program.inputs)} inputs, got {names}")
        results = []
        for batch in batches:
            feed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, batch, strict=True)}
            results.append(tuple(torch.from_numpy(np.array(array)) for array in session.run(None, feed)))
        return results


def _export_by_torch(module: TracedModule, inputs: Tensors, path: Path) -> None:
    call = dynamic_call(module, inputs)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it lists every optional package that is not installed
    try:
        program = torch.onnx.export(
            call.module, call.args, kwargs=call.kwargs, dynamo=True, dynamic_shapes=call.shapes, external_data=False,
            verbose=False, optimize=True,
        )  # fmt: skip
    finally:
        logger.setLevel(level)
    if program is None:
        raise ValueError("torch.onnx.export gave nothing")
    program.save(path, external_data=False)

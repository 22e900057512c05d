"""Publishing: write under a temporary name, run what was written, rename only if it gives the module's outputs."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import torch

from autoprune.artifacts.exporters.base import EXPORTERS, Tensors, first_line
from autoprune.artifacts.exporters.parity import difference, module_outputs, parity_batches, resized
from autoprune.artifacts.records import ExportRecord
from autoprune.core.errors import AutopruneError, Failure
from autoprune.graph.module import TracedModule

EXAMPLE_ROWS = 2  # torch.export takes a batch of one for a constant


def publish(kind: str, module: TracedModule, inputs: Tensors, target: Path) -> ExportRecord | Failure:
    """Export `module` to `target` in the format `kind`, checked against the module at two batch sizes.

    Args:
        kind: a name in `EXPORTERS`.
        module: its mode is restored; its outputs in eval mode are what counts.
        inputs: example inputs in the order of `module.program.inputs`.
        target: the file to write; one of the same name is replaced only by a file that passed.

    Returns:
        The record of the file, or why there is none (`export`, `load` or `parity`); nothing is left behind then.

    Raises:
        InputError: unknown format.
    """
    exporter = EXPORTERS.get(kind)()
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp.{exporter.suffix}")
    training = {part: part.training for part in module.modules()}
    try:
        module.eval()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # exporters warn about their own future, which is nothing to a user
            return _publish(kind, module, inputs, target, temporary)
    except OSError as error:
        return Failure("export", f"{kind}: cannot write {target}: {error.strerror or error}", "choose another folder")
    finally:
        for part, mode in training.items():
            part.training = mode
        temporary.unlink(missing_ok=True)


def _publish(kind: str, module: TracedModule, inputs: Tensors, target: Path, temporary: Path) -> ExportRecord | Failure:
    exporter = EXPORTERS.get(kind)()
    sizes, batches = parity_batches(module.program, inputs)
    expected = module_outputs(module, batches)
    try:
        note = exporter.export(module, resized(module.program, inputs, EXAMPLE_ROWS), temporary)
    except Exception as error:  # exporters raise whatever their libraries raise
        return Failure("export", f"{kind}: {_said(error)}", "the model itself is not affected")
    try:
        found = exporter.run(module, temporary, batches)
    except Exception as error:
        return Failure("load", f"{kind}: {_said(error)}", "the file was written but does not run")
    worst = difference(expected, found)
    if not worst <= exporter.tolerance:
        return Failure(
            "parity", f"{kind}: outputs differ by {worst:.3g}, expected at most {exporter.tolerance:g}",
            "the file is not published; use another format",
        )  # fmt: skip
    data = temporary.read_bytes()
    os.replace(temporary, target)
    return ExportRecord(
        file=target.name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), difference=worst,
        tolerance=exporter.tolerance, batches=sizes, note=note,
    )  # fmt: skip


def _said(error: Exception) -> str:
    """Our own errors are whole sentences; others need their type to be understood."""
    line = first_line(error)
    return line if isinstance(error, AutopruneError) else f"{type(error).__name__}: {line}"

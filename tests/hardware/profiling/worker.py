"""A profile measured in a process of its own, in small blocks, so that there is much to be cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnxruntime  # noqa: F401  # loaded before processes are forked off

from autoprune.hardware.profiling import kernels, models, profile_graph, run
from tests.hardware.profiling.quick import quick
from tests.hardware.samples import dense_of, graph_of

MODEL = "Residual"
GRAPH = graph_of(MODEL)  # traced where this is imported: the processes that are forked off have it
SETTINGS = quick(whole_models=7, name="resumed")


def widths() -> dict[str, tuple[int, ...]]:
    """Of the groups of the model."""
    return {group: (size // 4, size // 2, size) for group, size in dense_of(MODEL).items()}


def main(folder: Path) -> None:
    """Measure, and save."""
    kernels.LIMITS = replace(kernels.LIMITS, count=2)
    models.LIMITS = replace(models.LIMITS, count=1)
    setattr(run, "probe_quantum", lambda runtime, settings, deadline: 1)  # noqa: B010  # it takes a second
    profile_graph(GRAPH, SETTINGS, widths=widths(), journal=folder / "journal.jsonl").save(folder / "profile")

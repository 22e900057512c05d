"""Kits that tests share: small ones, run for real or answered by a formula."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from autoprune.hardware.kit.manifest import KitModel, KitProtocol, Manifest
from autoprune.hardware.kit.planning import KitSettings
from autoprune.hardware.kit.writing import write_kit
from tests.hardware.samples import graph_of

MODEL = "Sequential"
TINY = KitProtocol(sessions=1, minimum_runs=3, maximum_runs=3, target_us=0, warmup_runs=1, warmup_us=0)
VERSION = "onnxruntime 1.0"
ENVIRONMENT = """system: Linux board 6.1 aarch64
machine: aarch64
cpuinfo model name: Cortex-Z9
cpuinfo Features: fp asimd asimddp
cores: 4
memory_kb: 1048576
load: 0.01 0.02 0.03
date: 2026-01-31
"""
TimeOf = Callable[[KitModel, int], float]  # model, session -> microseconds


def quick(**fields: object) -> KitSettings:
    """A small kit whose times mean nothing; everything else is real."""
    given: dict[str, object] = {"kernels": 10, "whole_models": 4, "protocol": TINY, "python": sys.executable, **fields}
    return KitSettings(**given)  # type: ignore[arg-type]


def written(folder: Path, **fields: object) -> Manifest:
    """A kit for a small network."""
    return write_kit(graph_of(MODEL), folder, quick(**fields))


def log_text(
    kit: str, log: str, times_us: list[float], tool: str = VERSION, unit: str = "us", end: str = "#end 0\n"
) -> str:
    """A log as the far end writes it."""
    return f"#kit {kit}\n#log {log}\n#tool {tool}\n#unit {unit}\n" + "".join(f"{time}\n" for time in times_us) + end


def answer(folder: Path, manifest: Manifest, time_of: TimeOf) -> None:
    """Logs of every model from a formula, and an environment: as if the kit had been run."""
    (folder / "logs").mkdir(exist_ok=True)
    models = {model.id: model for model in manifest.models}
    for log, model in manifest.order:
        time_us = time_of(models[model], int(log[1]))
        (folder / "logs" / f"{log}.log").write_text(log_text(manifest.id, log, [time_us] * 3))
    (folder / "environment.txt").write_text(f"{ENVIRONMENT}tool: {VERSION}\n")


def run(folder: Path, shell: str = "sh", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a kit as by hand, in an environment of its own."""
    environment = {"PATH": os.environ["PATH"], **variables}
    command = [*shell.split(), str(folder / "run.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")

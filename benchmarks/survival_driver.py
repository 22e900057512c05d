"""A whole run on a small network, in a process of its own, to be killed: `survival_driver RUN WORKERS CHANGES`.

CHANGES to `SEARCH` are JSON. Exit status as of `autoprune search`. Nothing in it is random but by the seed, and nothing
is measured, so that two fronts can be compared byte by byte.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import autoprune as ap
from autoprune.core.errors import AutopruneError
from tests.graph.models import SHAPE, trained

PROFILE = "cpu-x86-onnxruntime-1t"
SEARCH: dict[str, Any] = {"trials": 40, "finetune": {"members": 4, "epochs": 3}, "seed": 3, "measure": False}


def loader(count: int, seed: int) -> DataLoader[Any]:
    """Noise with a hint of its label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 5
    images = torch.randn(count, *SHAPE, generator=generator) + 0.5 * labels.float().view(-1, 1, 1, 1)
    return DataLoader(TensorDataset(images, labels), batch_size=32)


def run(folder: Path, executor: dict[str, Any], **changes: Any) -> ap.Front:
    """Search in a folder, or go on there."""
    task = ap.Task.classification(loader(160, 0), loader(160, 1), loader(64, 2))
    wanted = {**SEARCH, **changes}
    return ap.search(trained("Residual"), task, profiles=[PROFILE], executor=executor, run=folder, **wanted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        run(Path(sys.argv[1]), {"kind": "local", "workers": int(sys.argv[2])}, **json.loads(sys.argv[3]))
    except AutopruneError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)

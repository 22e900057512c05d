"""The contract of exporters, for those built in and for those that other packages add.

from autoprune.artifacts.exporters.contract import check_exporter

def test_mine(tmp_path):
    check_exporter(MyExporter, tmp_path)
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from autoprune.artifacts.exporters.base import Exporter, Tensors
from autoprune.artifacts.exporters.parity import difference, module_outputs, resized
from autoprune.graph import trace
from autoprune.graph.module import TracedModule

_BATCHES = (1, 2, 5)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def check_exporter(kind: type[Exporter], folder: Path) -> None:
    """Raise AssertionError, saying what, where an exporter breaks its contract.

    It exports a pruned network to one file, leaves the module as it was, and what it wrote gives the module's outputs
    within its tolerance at several batch sizes.

    Args:
        kind: the exporter.
        folder: an empty folder to write into.
    """
    module, inputs = _sample()
    exporter = kind()
    if not exporter.suffix or exporter.suffix.startswith(".") or not 0.0 <= exporter.tolerance < 1.0:
        raise AssertionError(f"{kind.__name__}: expected a suffix without dot and a tolerance below 1.")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    path = folder / f"model.{exporter.suffix}"
    with torch.no_grad():
        exporter.export(module, inputs, path)
    if [item.name for item in folder.iterdir()] != [path.name]:
        raise AssertionError(f"{kind.__name__}: expected one file {path.name}, got {sorted(folder.iterdir())}.")
    if module.training or any(not torch.equal(before[name], tensor) for name, tensor in module.state_dict().items()):
        raise AssertionError(f"{kind.__name__}: expected to only read the module, but it changed.")
    batches = [resized(module.program, inputs, batch) for batch in _BATCHES]
    worst = difference(module_outputs(module, batches), exporter.run(module, path, batches))
    if not worst <= exporter.tolerance:
        raise AssertionError(f"{kind.__name__}: expected outputs within {exporter.tolerance:g}, got {worst:g}.")


def _sample() -> tuple[TracedModule, Tensors]:
    generator = torch.Generator().manual_seed(0)
    model = _Net().eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    graph = trace(model, torch.rand(2, 3, 6, 6, generator=generator))
    return graph.module(graph.uniform(0.5)).clone_tensors().eval(), graph.example_inputs

"""A small traced network and a run folder with one real member, made once for this room's tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.artifacts.bundle import make_recipe, write_front, write_member, write_run
from autoprune.artifacts.records import RunRecord
from autoprune.graph import DependencyGraph, trace


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Two cores serve everyone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Net(nn.Module):
    """Residual, depthwise, batch norms, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 12, 3, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.outer = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits.  # (batch, 5)"""
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.depthwise(torch.relu(self.inner(x)))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="package")
def graph() -> DependencyGraph:
    """The traced network, with batch-norm statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = Net()
    model.norm.running_mean.normal_()  # type: ignore[union-attr]
    model.norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return trace(model.eval(), torch.randn(2, 3, 8, 8))


@pytest.fixture(scope="package")
def _finished(graph: DependencyGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "small"
    write_run(run, graph, RunRecord(profiles=("cpu",)))
    policy = graph.uniform(0.5)
    module = graph.module(policy).clone_tensors()
    row = {"member": "half", "accuracy": 0.9, "latency_p50_us": 50.0}
    write_member(run, make_recipe("half", graph, policy, criterion="l1"), module, row, formats=("safetensors",))
    write_front(run, [{"member": "dense", "accuracy": 0.95, "latency_p50_us": 100.0}, row])
    return run


@pytest.fixture
def run(_finished: Path, tmp_path: Path) -> Path:
    """A run folder with the member `half`; a copy, to be damaged at will."""
    return Path(shutil.copytree(_finished, tmp_path / "small"))

"""One thread for every test: results must not depend on what else the machine does."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place of an activation counts the same: solutions are those of plain least squares, means plain means."""
    monkeypatch.setattr("autoprune.pruning.repairs.relevance", lambda graph, calibration, seed: {})

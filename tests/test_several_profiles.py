"""One search for two devices that ship: one evaluation serves both, and each gets a front beside the joint one."""

from __future__ import annotations

import csv
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune as ap
from autoprune.cli.app import run as command
from autoprune.core.errors import InputError
from tests.project import make_project

PIXEL, T4 = "mobile-pixel4-cpu-tflite-1t", "gpu-t4-pytorch"
SHAPE, CLASSES = (1, 16, 16), 4
SEARCH: dict[str, Any] = {
    "profiles": [PIXEL, T4],
    "objectives": ["error", "latency_p50"],
    "constraints": [f"latency_p50@{PIXEL} <= 1s"],
    "trials": 16,
    "finetune": {"members": 4, "candidates": 6, "short_epochs": 1, "epochs": 2},
    "seed": 1,
    "measure": False,
}


def loader(n: int, seed: int) -> DataLoader[Any]:
    """Noise with a faint pattern for each class."""
    patterns = torch.randn(CLASSES, *SHAPE, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    images = torch.randn(n, *SHAPE, generator=generator) + 0.35 * patterns[labels]
    return DataLoader(TensorDataset(images, labels), batch_size=32)


class Net(nn.Module):
    """Two convolutions with batch norms, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.hidden, self.head = nn.Linear(32 * 16, 24), nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        x = torch.max_pool2d(x, 2).flatten(1)
        out: torch.Tensor = self.head(torch.relu(self.hidden(x)))
        return out


@cache
def dense() -> Net:
    """Trained for a second."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(5):
        for images, labels in loader(320, 0):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model.eval()


def task() -> ap.Task:
    return ap.Task.classification(loader(320, 0), loader(192, 1), loader(64, 2))


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> ap.Front:
    return ap.search(dense(), task(), run=tmp_path_factory.mktemp("several") / "run", **SEARCH)


def test_each_policy_is_evaluated_once_for_both(front: ap.Front) -> None:
    with (front.run / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["policy_id"] for row in rows}) == len(rows)
    for row in rows:
        assert float(row[f"latency_p50_us@{PIXEL}"]) > 0
        assert float(row[f"latency_p50_us@{T4}"]) > 0
    assert front.record.objectives == ("error", f"latency_p50@{PIXEL}", f"latency_p50@{T4}")


def test_a_front_for_each_device_and_a_joint_one(front: ap.Front) -> None:
    names = set()
    for profile in (PIXEL, T4):
        own = front.for_profile(profile)
        assert 1 <= len(own) <= len(front)
        assert own.dense is not None
        assert {"latency_p50_us", "speedup", "accuracy"} <= own.rows[0].keys()
        assert not [name for name in own.rows[0] if "@" in name]
        names |= {member.name for member in own}
        fastest = front.select(prefer="fastest", profile=profile)
        least = min(float(row[f"latency_p50_us@{profile}"] or 0) for row in front.rows)
        assert fastest.metrics[f"latency_p50_us@{profile}"] == least
        assert fastest.predict(torch.zeros(2, *SHAPE)).shape[0] == 2
    assert names <= {member.name for member in front}


def test_how_well_stages_rank_is_stored(front: ap.Front) -> None:
    stored = json.loads((front.run / "ranking.json").read_text())
    pairs = {(c["first"], c["second"]): c["models"] for c in stored["comparisons"] if c["kind"] == "fidelity"}
    assert pairs[("no fine-tuning", "short fine-tuning")] == 6
    assert pairs[("short fine-tuning", "full fine-tuning")] == 4
    text = (front.run / "report.html").read_text()
    assert "short fine-tuning and full fine-tuning" in text
    assert "Device by device" in text


def test_on_the_command_line(front: ap.Front, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["front", str(front.run), "--profile", T4, "--plot"]) == 0
    text = capsys.readouterr().out
    assert "latency_p50" in text
    assert "ranks alike" in text
    assert command(["select", str(front.run), "--profile", T4, "--within", "50pt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["member"] in {member.name for member in front.for_profile(T4)}


@pytest.mark.slow
def test_interrupted_it_ends_with_the_same_front(front: ap.Front, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "fine-tune members" and 2 * done >= total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ap.search(dense(), task(), run=tmp_path / "run", progress=stop, **SEARCH)
    again = ap.search(dense(), task(), run=tmp_path / "run", **SEARCH)
    assert (again.run / "front.csv").read_bytes() == (front.run / "front.csv").read_bytes()
    assert (again.run / "ranking.json").read_bytes() == (front.run / "ranking.json").read_bytes()


TRAINER = """
import torch

CALLS = []


def descend(model, task, settings, teacher):
    CALLS.append((settings.epochs, teacher is not None))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for batch in task.train:
        optimizer.zero_grad()
        task.loss(model(batch[0]), batch).backward()
        optimizer.step()


def descend_wrongly(model):
    return model
"""


def test_a_users_own_training_from_the_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = make_project(tmp_path, "user_project_training")
    (tmp_path / "user_trainer.py").write_text(TRAINER)
    before = list(sys.path)
    try:
        config = project.config(profiles=[T4], finetune="user_trainer:descend", search={"trials": 4})
        assert command(["search", str(config)]) == 0
        assert set(sys.modules["user_trainer"].CALLS) == {(2, True)}
        recipe = json.loads((tmp_path / "run" / "members" / "m1" / "policy.json").read_text())
        assert recipe["finetune"]["function"] == "user_trainer:descend"
        capsys.readouterr()
        for wrong, told in (
            ("user_trainer:descent", "expected 'descent' in"),
            ("user_trainer", "finetune 'user_trainer'"),
            ("user_trainer:descend_wrongly", "to take (model, task, settings, teacher)"),
            ({"members": 4, "candidates": 3}, "candidates of at least as many as members, 4, got 3"),
            ({"candidate": 9}, "unknown key 'finetune.candidate'. Did you mean 'candidates'?"),
        ):
            assert command(["search", str(project.config(profiles=[T4], finetune=wrong, run="other"))]) == 2
            message = capsys.readouterr().err.splitlines()[-1]
            assert message.startswith("error: ")
            assert told in message
        assert not (tmp_path / "other").exists()
    finally:
        sys.path[:] = before
        for name in ("user_trainer", "user_project_training"):
            sys.modules.pop(name, None)


def test_a_users_own_training_from_python(tmp_path: Path) -> None:
    calls: list[int] = []

    def count(model: nn.Module, task: ap.Task, settings: Any, teacher: nn.Module | None) -> None:
        calls.append(settings.epochs)

    wanted = {**SEARCH, "profiles": [T4], "constraints": [], "trials": 5}
    found = ap.search(dense(), task(), run=tmp_path, **{**wanted, "finetune": count})
    assert calls
    assert set(calls) == {2}
    assert {member.metrics["accuracy"] for member in found} == {member.metrics["before_accuracy"] for member in found}
    with pytest.raises(InputError, match="cannot be sent to worker processes"):
        ap.search(dense(), task(), run=tmp_path, executor={"workers": 2}, **{**wanted, "finetune": count})

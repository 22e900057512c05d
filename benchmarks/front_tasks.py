"""The networks that fronts are compared on: a ResNet-20 trained here, and a toy that tests run in a second.

Pretrained ones are in `front_pretrained.py`. All data of a subject depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.errors import unknown_name
from autoprune.tuning.metrics import cross_entropy
from autoprune.tuning.task import Task
from benchmarks.data import FOLDER, Split, augmented, cached_resnet20, load_fashion_mnist
from benchmarks.front_bench import Classified, Meter, Metered, Subject

BATCH = 250


@dataclass(frozen=True)
class Sizes:
    """What a subject is made of; None where the task decides.

    Attributes:
        validation: samples that searches judge by.
        calibration: samples that scores, Gram matrices and batch-norm statistics come from.
        test: samples of the test split.
        train: samples of an epoch of fine-tuning.
        data: folder of Fashion-MNIST.
        cache: folder of trained weights.
    """

    validation: int | None = None
    calibration: int | None = None
    test: int | None = None
    train: int | None = None
    data: Path = FOLDER
    cache: Path = Path("runs/cache")


class Augmented:
    """Training batches: in a new order and augmented anew each time, by torch's generator.

    Args:
        split: images and labels.
        batch: images in one.
    """

    def __init__(self, split: Split, batch: int = 128) -> None:
        self._split, self._batch = split, batch

    def __len__(self) -> int:
        return len(self._split.labels) // self._batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        order = torch.randperm(len(self._split.labels), generator=generator)[: len(self) * self._batch]
        for index in torch.split(order, self._batch):
            yield augmented(self._split.images[index], generator), self._split.labels[index]


def classification(train: Iterable[Any], validation: Split, test: Split, calibration: Split, meter: Meter) -> Task:
    """A task judged by accuracy, its samples counted."""
    return Task(
        train=train,
        validation=validation.batches(BATCH),
        test=test.batches(BATCH),
        calibration=calibration.batches(BATCH),
        loss=Metered(meter, cross_entropy),
        metrics={"accuracy": Classified(meter)},
    )


def guessing(labels: Tensor) -> float:
    """The error of always naming the most frequent class."""
    return 1.0 - float(labels.bincount().max()) / len(labels)


def resnet20(seed: int, sizes: Sizes) -> Subject:
    """ResNet-20 on Fashion-MNIST: 2,000 of the 5,000 held-out images to judge by, 512 others for calibration."""
    train, held_out, test = load_fashion_mnist(sizes.data)
    model = cached_resnet20(train, 6, seed, sizes.cache)
    calibration = sizes.calibration or 512
    validation = min(sizes.validation or 2000, len(held_out.labels) - calibration)
    kept = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(seed))[: sizes.train]
    last = len(held_out.labels) - calibration
    judged = Split(held_out.images[:validation], held_out.labels[:validation])
    meter = Meter()
    task = classification(
        Augmented(Split(train.images[kept], train.labels[kept])),
        judged,
        Split(test.images[: sizes.test], test.labels[: sizes.test]),
        Split(held_out.images[last:], held_out.labels[last:]),
        meter,
    )
    options = {"validation": validation, "calibration": calibration}
    return Subject(
        "resnet20", model, task, meter, guessing(judged.labels), last_layers=("fc",), options=options
    )  # fmt: skip


class ToyNet(nn.Module):
    """Three convolutions, the second of them inside a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.outer = nn.Sequential(nn.Conv2d(32, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 12, 12) -> (n, 4)."""
        x = self.stem(x)
        x = torch.relu(x + self.outer(self.inner(x)))
        out: Tensor = self.fc(x.mean(dim=(2, 3)))
        return out


def _patterns(count: int, seed: int) -> Split:
    """Noisy stripes of four directions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    rows, columns = np.mgrid[:12, :12]
    phases = [rows, columns, rows + columns, rows - columns]
    stripes = np.stack([np.sin(1.2 * phase) for phase in phases])[labels]
    images = stripes + rng.normal(0.0, 1.5, stripes.shape)
    return Split(torch.from_numpy(images[:, None]).float(), torch.from_numpy(labels))


def toy(seed: int, sizes: Sizes) -> Subject:
    """A network of three convolutions on four kinds of stripes, trained in a second."""
    train = _patterns(sizes.train or 512, 10 * seed)
    validation, test = _patterns(sizes.validation or 100, 10 * seed + 1), _patterns(sizes.test or 100, 10 * seed + 2)
    calibration = _patterns(sizes.calibration or 64, 10 * seed + 3)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = ToyNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(4):
        for images, labels in train.batches(64):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(images), labels))
            optimizer.step()
    meter = Meter()
    options = {"validation": len(validation.labels), "calibration": len(calibration.labels)}
    task = classification(train.batches(64), validation, test, calibration, meter)
    return Subject(
        "toy", model.eval(), task, meter, guessing(validation.labels), last_layers=("fc",), options=options
    )  # fmt: skip


def _mobilenet(seed: int, sizes: Sizes) -> Subject:
    from benchmarks.front_pretrained import mobilenet

    return mobilenet(seed, sizes)


def _minilm(seed: int, sizes: Sizes) -> Subject:
    from benchmarks.front_text import minilm

    return minilm(seed, sizes)


SUBJECTS: dict[str, Callable[[int, Sizes], Subject]] = {
    "resnet20": resnet20,
    "mobilenet": _mobilenet,
    "minilm": _minilm,
    "toy": toy,
}
TRIALS = {"resnet20": 200, "mobilenet": 100, "minilm": 100, "toy": 20}  # so that a task takes about an hour on 2 cores


def subject(name: str, seed: int, sizes: Sizes) -> Subject:
    """A subject by name.

    Raises:
        InputError: an unknown name.
        SystemExit: its data or weights are not there; says how to get them.
    """
    if name not in SUBJECTS:
        raise unknown_name("task", name, SUBJECTS)
    return SUBJECTS[name](seed, sizes)

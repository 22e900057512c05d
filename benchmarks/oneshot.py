"""How much a ResNet-20 on Fashion-MNIST keeps when inner channels go and nothing is trained.

    python benchmarks/oneshot.py --seeds 3 --out oneshot.json

Every model is trained from scratch (6 epochs; `--epochs 1` for a quick look) and cached. Inner channels of all blocks
are cut by the same share. Accuracy on the 10,000 test images, mean and half the range over seeds. Calibration: 1,000 of
the 5,000 held-out images. Exit status 1 where the acceptance at 50 % is missed: `obs` with compensation loses at most
2 points, `l1` alone more than 20.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere, installed or not

from autoprune.core.files import write_json
from autoprune.graph import trace
from autoprune.pruning import Pruner
from benchmarks.data import FOLDER, accuracy, cached_resnet20, inner_groups, load_fashion_mnist

CUTS = (0.25, 0.5, 0.625, 0.75)
METHODS: dict[str, tuple[str, bool, bool]] = {  # criterion, compensate, recalibrate
    "random + BN": ("random", False, True),
    "l1": ("l1", False, False),
    "l1 + BN": ("l1", False, True),
    "l2 + BN": ("l2", False, True),
    "l1 + least squares + BN": ("l1", True, True),
    "obs order + BN": ("obs", False, True),
    "obs + least squares": ("obs", True, False),
    "obs + least squares + BN": ("obs", True, True),
}


def one_seed(seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Test accuracy by "method @ cut" for one trained model."""
    train, held_out, test = load_fashion_mnist(options.data)
    model = cached_resnet20(train, options.epochs, seed, options.cache)
    graph = trace(model, held_out.images[:2])
    calibration = [(images,) for images in held_out.images[:1000].split(250)]
    inner = inner_groups(list(graph.groups))
    found = {"dense": accuracy(model, test)}
    for method, (criterion, compensate, recalibrate) in METHODS.items():
        if options.methods and method not in options.methods:
            continue
        pruner = Pruner(graph, criterion, calibration, compensate=compensate, recalibrate=recalibrate, seed=seed)
        for cut in CUTS:
            policy = {name: max(1, round(graph.groups[name].size * (1 - cut))) for name in inner}
            found[f"{method} @ {cut}"] = accuracy(pruner.build(policy), test)
        print(f"seed {seed} {method}: " + ", ".join(f"{found[f'{method} @ {c}']:.4f}" for c in CUTS), file=sys.stderr)
    return found


def table(results: list[dict[str, float]]) -> str:
    """Accuracy in per cent, a row a method, a column a cut."""

    def cell(key: str) -> str:
        values = 100 * np.array([result[key] for result in results])
        return f"{values.mean():5.1f} ±{np.ptp(values) / 2:4.1f}"

    methods = [m for m in METHODS if f"{m} @ {CUTS[0]}" in results[0]]
    lines = [
        f"dense {cell('dense')} %, {len(results)} seeds",
        f"{'inner cut':28}" + "".join(f"{c:>14.1%}" for c in CUTS),
    ]
    return "\n".join(lines + [f"{m:28}" + "".join(f"{cell(f'{m} @ {c}'):>14}" for c in CUTS) for m in methods])


def main() -> int:
    """Run it; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), help="all, unless named")
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder of the four gzipped IDX files")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="trained weights")
    parser.add_argument("--out", type=Path, default=Path("runs/oneshot.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = [one_seed(seed, options) for seed in range(options.seeds)]
    write_json(options.out, {"epochs": options.epochs, "accuracy": results})
    print(table(results))
    if options.methods:
        return 0
    lost = {m: np.mean([r["dense"] - r[f"{m} @ 0.5"] for r in results]) for m in ("obs + least squares + BN", "l1")}
    met = lost["obs + least squares + BN"] <= 0.02 and lost["l1"] > 0.20
    points = ", ".join(f"{method} {100 * value:.1f}" for method, value in lost.items())
    print(f"points lost at 50 %: {points}; {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

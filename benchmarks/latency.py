"""How well latency models predict: pruned models on this machine, and what others measured on phones and GPUs.

    python benchmarks/latency.py local [--models resnet18 vit] [--runtimes onnxruntime] [--threads 1]
                                       [--profiles hardware_profiles] [--refit]
    python benchmarks/latency.py published --data ../shared/data/latency --seeds 10

`local` needs the extras `coverage` and `runtimes`, an hour, and a machine that does nothing else; what was measured is
kept in the output folder and not measured again; `--refit` fits the profiles anew to the journals that are kept there.
For `published`, each figure is the mean over random splits, with the lowest and highest; what is tested was in no fit,
and every choice is made by cross-validation on the training part.
Exit status 1 where what is asked is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere, installed or not

from autoprune.core.files import write_json
from benchmarks import latency_gpus, latency_local, latency_phones
from benchmarks.latency_data import GPUS, PHONES

Figures = Mapping[str, Sequence[Mapping[str, float]]]
AT_LEAST = ("within 10 %",)


def shown(title: str, figures: Figures) -> str:
    """A block of lines, a figure a line: mean, lowest and highest over the seeds."""
    lines = [title]
    for part, runs in figures.items():
        for name in runs[0]:
            values = np.array([run[name] for run in runs])
            cell = f"{values.mean():.4f}  ({values.min():.4f} .. {values.max():.4f})"
            lines.append(f"  {f'{part}: {name}':44} {cell}")
    return "\n".join(lines)


def met(runs: Sequence[Mapping[str, float]], accepted: Mapping[str, float]) -> dict[str, bool]:
    """Whether the mean over seeds is as good as asked."""
    means = {name: float(np.mean([run[name] for run in runs])) for name in accepted}
    return {name: means[name] >= ask if name in AT_LEAST else means[name] <= ask for name, ask in accepted.items()}


def local(options: argparse.Namespace) -> bool:
    """Profiles measured here against models they have not seen."""
    settings = latency_local.Options(
        options.threads, options.budget, options.whole_models, options.out, options.profiles
    )
    if options.refit:
        for runtime in options.runtimes:
            latency_local.refitted(runtime, settings)
    _, good = latency_local.run(options.models, options.runtimes, settings)
    return good


def published(options: argparse.Namespace) -> bool:
    """Models of what others measured."""
    seeds = range(options.seeds)
    results: dict[str, Figures] = {}
    verdicts: dict[str, dict[str, bool]] = {}
    for phone in PHONES if options.only != "gpus" else ():
        results[phone] = latency_phones.all_splits(options.data, phone, seeds)
        verdicts[phone] = met(results[phone]["split"], latency_phones.ACCEPTED)
        print(shown(phone, results[phone]), flush=True)
    for device in GPUS if options.only != "phones" else ():
        for operation in ("linear", "bmm"):
            name = f"{device}, {operation}"
            results[name] = latency_gpus.all_splits(options.data, device, operation, seeds)
            verdicts[name] = met(results[name]["quarter"], latency_gpus.ACCEPTED)
            print(shown(name, results[name]), flush=True)
    asked = {"phones": latency_phones.ACCEPTED, "gpus": latency_gpus.ACCEPTED}
    write_json(options.out, {"asked": asked, "figures": results, "met": verdicts, "seeds": options.seeds})
    for name, verdict in verdicts.items():
        print(f"{name}: " + ", ".join(f"{figure} {'met' if good else 'MISSED'}" for figure, good in verdict.items()))
    return all(good for verdict in verdicts.values() for good in verdict.values())


def main() -> int:
    """Run it; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    here = parts.add_parser("local")
    here.add_argument("--models", nargs="+", choices=latency_local.CHECKED, default=list(latency_local.CHECKED))
    here.add_argument("--runtimes", nargs="+", default=list(latency_local.CHECKED_RUNTIMES))
    here.add_argument("--threads", type=int, default=1)
    here.add_argument("--budget", type=float, default=600.0, help="seconds a profile")
    here.add_argument("--whole-models", type=int, default=300, help="timed for a profile")
    here.add_argument("--out", type=Path, default=Path("runs/latency-local"), help="folder of results")
    here.add_argument("--profiles", type=Path, default=Path("runs/latency-local"), help="folder of profiles")
    here.add_argument("--refit", action="store_true", help="fit profiles anew to their journals; times nothing")
    here.set_defaults(run=local)
    elsewhere = parts.add_parser("published")
    elsewhere.add_argument("--data", type=Path, required=True, help="folder of the published measurements")
    elsewhere.add_argument("--seeds", type=int, default=5)
    elsewhere.add_argument("--only", choices=("phones", "gpus"))
    elsewhere.add_argument("--out", type=Path, default=Path("runs/latency-published.json"))
    elsewhere.set_defaults(run=published)
    options = parser.parse_args()
    return 0 if options.run(options) else 1


if __name__ == "__main__":
    sys.exit(main())

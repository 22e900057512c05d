"""Which sampler moves the front furthest, on synthetic networks whose damage does not add up.

    python benchmarks/samplers.py --instances 5 --trials 200 --out runs/samplers.json
    python benchmarks/samplers.py --instances 10 --trials 40 --variables 25 --steepness 100   # easily ruined

Every sampler gets the same seeds, allocated by the same damage curves, which know nothing of interactions; `-unseeded`
ones get no seeds, and NSGA-II unseeded is what a user would otherwise run; `-overlap` ones propose a batch while the
one before is evaluated (`StudySettings.overlap`). Members of a front are chosen by what was
measured, noise included, and scored by what is true: as shares of the hypervolume of all runs on an instance together.
Nothing is trained or timed: a real comparison is `benchmarks/front.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere, installed or not

from autoprune.core.files import write_json
from autoprune.pareto.dominance import non_dominated
from autoprune.pareto.hypervolume import hypervolume
from autoprune.pipeline.seeds import make_seeds
from autoprune.search.executors import open_executor
from autoprune.search.prior import make_prior
from autoprune.search.samplers import SAMPLERS
from autoprune.search.study import StudySettings, Trial, run_search
from tests.search.landscape import BEST, WORST, Landscape, LandscapeProblem, landscape_problem

Floats = npt.NDArray[np.float64]

UNSEEDED, OVERLAP = "-unseeded", "-overlap"
ALONE = "seeds-alone"  # as many seeds as trials


def searched(problem: LandscapeProblem, method: str, trials: int, seed: int, folder: Path) -> tuple[Trial, ...]:
    """All trials of one search."""
    curves = problem.curves()
    share = 4 * trials if method == ALONE else trials  # a third of them, or all, are seeds
    wanted: Any = SimpleNamespace(trials=share, seed=seed)
    posed: Any = problem
    seeds = () if UNSEEDED in method else make_seeds(posed, curves, wanted)
    sampler = "random" if method == ALONE else method.removesuffix(OVERLAP).removesuffix(UNSEEDED)
    with open_executor(problem.landscape) as executor:
        return run_search(
            posed,
            executor,
            StudySettings(trials=trials, sampler=sampler, seed=seed, overlap=method.endswith(OVERLAP)),
            seeds=seeds,
            folder=folder,
            evaluate=Landscape.evaluate,
            prior=None if UNSEEDED in method else make_prior(posed, curves),
        )


def volume(problem: LandscapeProblem, trials: list[Trial]) -> float:
    """True hypervolume of the measured front, as a share of the box up to guessing and the dense model's costs."""
    if not trials:
        return 0.0
    values = np.array([list(trial.objectives.values()) for trial in trials])
    front = [trial for trial, best in zip(trials, non_dominated(values), strict=True) if best]
    true = np.array([list(trial.objectives.values()) for trial in front])
    true[:, 0] = [problem.landscape.error(trial.policy) for trial in front]
    told = [objective for objective in problem.objectives if not objective.evaluated]
    dense = problem.costs.values(told, [problem.space.dense])[0]
    low = np.array([BEST, *np.zeros(len(dense))])
    return hypervolume((true - low) / (np.array([WORST, *dense]) - low), np.ones(1 + len(dense)))


def curve(problem: LandscapeProblem, trials: tuple[Trial, ...]) -> Floats:
    """Hypervolume after each evaluation.  # (n,)"""
    judged = sorted((trial for trial in trials if trial.evaluated), key=lambda trial: trial.number)
    sound = [[t for t in judged[:count] if t.feasible] for count in range(1, len(judged) + 1)]
    return np.array([volume(problem, part) for part in sound])


def reached(found: Floats, wanted: float) -> float:
    """Evaluations until a hypervolume is reached; infinite where it never is."""
    there = np.flatnonzero(found >= wanted)
    return float(there[0] + 1) if len(there) else float("inf")


def main() -> None:
    """Run it; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=5)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--variables", type=int, default=20)
    parser.add_argument("--coupling", type=float, default=0.6)
    parser.add_argument("--steepness", type=float, default=8.0, help="rise of the loss where everything is cut")
    parser.add_argument("--objectives", nargs="+", default=["error", "latency_p50"])
    parser.add_argument(
        "--methods", nargs="+", default=[*SAMPLERS.names(), ALONE, "nsga2-unseeded", "surrogate-unseeded"]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/samplers.json"))
    options = parser.parse_args()
    places = sorted({max(1, round(options.trials * share)) for share in (0.1, 0.3, 0.5, 1.0)})
    shares: dict[str, list[list[float]]] = {method: [] for method in options.methods}
    needed: dict[str, list[float]] = {method: [] for method in options.methods}
    for instance in range(options.instances):
        problem = landscape_problem(
            options.variables,
            seed=instance,
            coupling=options.coupling,
            steepness=options.steepness,
            objectives=options.objectives,
        )
        curves: dict[str, Floats] = {}
        every: list[Trial] = []
        for method in options.methods:
            with tempfile.TemporaryDirectory() as folder:
                trials = searched(problem, method, options.trials, instance, Path(folder))
            curves[method] = curve(problem, trials)
            every += [trial for trial in trials if trial.feasible]
        best = volume(problem, every)
        peer = curves.get("nsga2-unseeded", np.zeros(1))[-1]
        for method, found in curves.items():
            shares[method].append([float(found[min(place, len(found)) - 1] / best) for place in places])
            needed[method].append(reached(found, float(peer)))
    for method in sorted(shares, key=lambda name: -np.mean([row[-1] for row in shares[name]])):
        at = "  ".join(
            f"{place}: {mean:.4f}" for place, mean in zip(places, np.mean(shares[method], axis=0), strict=True)
        )
        print(
            f"{method:20} {at}  (least {min(row[-1] for row in shares[method]):.4f}); peer's last after "
            f"{np.median(needed[method]):.0f}"
        )
    write_json(
        options.out,
        {
            "places": places,
            "shares": shares,
            "evaluations to unseeded NSGA-II's last": {
                name: [value if np.isfinite(value) else None for value in row] for name, row in needed.items()
            },
            "variables": options.variables,
            "coupling": options.coupling,
            "steepness": options.steepness,
            "objectives": options.objectives,
        },
    )


if __name__ == "__main__":
    main()

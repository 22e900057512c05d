"""The methods of the front benchmark: ours with parts of it switched off, and what a user would run instead."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import optuna

from autoprune.artifacts.layout import PREDICTION
from autoprune.core.errors import unknown_name
from autoprune.core.files import read_json
from autoprune.graph import TracedModule
from autoprune.pipeline.curves import curves_budget
from autoprune.pipeline.evaluator import make_evaluator
from autoprune.pipeline.explore import explore
from autoprune.pipeline.problem import Problem, SearchSettings
from autoprune.search.executors import Executor, ExecutorSettings, open_executor
from autoprune.search.samplers import SAMPLERS
from autoprune.search.study import StudySettings, Trial, run_search
from benchmarks.front_bench import Bench, Evaluated, Ledger, Outcome, Recipe, Subject
from benchmarks.front_halp import Halp
from benchmarks.front_peers import TorchPruning, sweep

PLAIN, NORMS = Recipe("l2"), Recipe("l2", recalibrate=True)
OURS = Recipe("obs", compensate=True, recalibrate=True)


class Method(Protocol):
    """Finds policies for a bench within a budget of evaluations."""

    def applies(self, subject: Subject) -> bool:
        """Whether there is anything that sets it apart on this subject."""
        ...

    def run(self, bench: Bench, seed: int, budget: int, folder: Path) -> Outcome:
        """Search; `folder` is empty and its own."""
        ...

    def module(self, bench: Bench, seed: int, evaluated: Evaluated) -> TracedModule:
        """The model of something it evaluated, made again."""
        ...


@dataclass(frozen=True)
class OptunaSearch:
    """Optuna as its documentation shows it: one integer a group, two directions, the sampler's own settings.

    Attributes:
        sampler: from a seed.
        recipe: how policies become models.
    """

    sampler: Callable[[int], optuna.samplers.BaseSampler]
    recipe: Recipe

    def applies(self, subject: Subject) -> bool:
        """See `Method`."""
        return _applies(self.recipe, PLAIN, subject)

    def run(self, bench: Bench, seed: int, budget: int, folder: Path) -> Outcome:
        """See `Method`."""
        start = time.perf_counter()
        pruner, ledger, space = bench.pruner(self.recipe, seed), Ledger(bench), bench.space
        setup_s = time.perf_counter() - start

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            levels = [trial.suggest_int(v.name, 0, len(v.widths) - 1) for v in space.variables]
            policy = space.policy(space.canonical(levels))
            found = ledger.judge(policy, lambda: pruner.build(policy))
            if found.error is None:
                raise optuna.TrialPruned(found.failure)
            return found.error, found.latency_us

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(directions=["minimize", "minimize"], sampler=self.sampler(seed))
            study.optimize(objective, n_trials=budget)
        return Outcome(tuple(ledger.evaluated), setup_s)

    def module(self, bench: Bench, seed: int, evaluated: Evaluated) -> TracedModule:
        """See `Method`."""
        return bench.pruner(self.recipe, seed).build(evaluated.policy)


@dataclass(frozen=True)
class Ladder:
    """Every group that may shrink cut by the same share, at several roundings of widths.

    Attributes:
        recipe: how policies become models.
    """

    recipe: Recipe

    def applies(self, subject: Subject) -> bool:
        """See `Method`."""
        return _applies(self.recipe, Recipe("l1"), subject)

    def run(self, bench: Bench, seed: int, budget: int, folder: Path) -> Outcome:
        """See `Method`."""
        start = time.perf_counter()
        pruner, ledger = bench.pruner(self.recipe, seed), Ledger(bench)
        setup_s = time.perf_counter() - start
        sizes = {group: max(widths) for group, widths in bench.space.widths.items() if len(widths) > 1}
        for ratio, rounding in sweep(bench, budget):
            policy = {g: min(n, max(rounding, rounding * round(n * (1 - ratio) / rounding))) for g, n in sizes.items()}
            if not ledger.knows(policy):
                ledger.judge(policy, partial(pruner.build, policy))
        return Outcome(tuple(ledger.evaluated), setup_s)

    def module(self, bench: Bench, seed: int, evaluated: Evaluated) -> TracedModule:
        """See `Method`."""
        return bench.pruner(self.recipe, seed).build(evaluated.policy)


@dataclass(frozen=True)
class Ours:
    """The package as a user runs it, or with a part of it switched off.

    Attributes:
        recipe: how policies become models.
        seeds: start from what damage curves predict.
        settings: of `SearchSettings`, where they are not its defaults.
    """

    recipe: Recipe = OURS
    seeds: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)

    def applies(self, subject: Subject) -> bool:
        """See `Method`."""
        return self.recipe.recalibrate or subject.has_norms

    def run(self, bench: Bench, seed: int, budget: int, folder: Path) -> Outcome:
        """See `Method`. Damage curves count by the samples that they look at, and leave that much less for trials."""
        settings = SearchSettings(
            trials=budget, seed=seed, executor=ExecutorSettings(threads=bench.threads), measure=False, **self.settings
        )
        problem, start = replace(bench.problem, run=folder), time.perf_counter()
        clock = _Clock(bench, bench.samples(self.recipe))
        evaluator, _ = make_evaluator(problem, settings)
        evaluator.pruner = bench.pruner(self.recipe, seed)  # counts, and leaves out what this variation does
        setup_s = time.perf_counter() - start
        figures: dict[str, float] = {}
        pruner = evaluator.pruner
        with open_executor(evaluator, settings.executor) as executor:
            if self.seeds:
                curves = curves_budget(problem, settings, pruner)
                ahead = 0.0 if curves is None else curves.evaluations
                trials = _within(
                    budget, ahead, clock, settings, lambda wanted: explore(problem, wanted, executor, pruner, clock)
                )
                figures |= clock.figures | _predicted(problem)
            else:
                trials = _within(
                    budget, 0.0, clock, settings, lambda wanted: _unseeded(problem, wanted, executor, clock)
                )
        figures["search, s"] = time.perf_counter() - start - setup_s
        figures["evaluating trials, s"] = sum(trial.seconds for trial in trials)
        return Outcome(_in_order(trials, clock.at, budget, bench), setup_s, figures)

    def module(self, bench: Bench, seed: int, evaluated: Evaluated) -> TracedModule:
        """See `Method`."""
        return bench.pruner(self.recipe, seed).build(evaluated.policy)


class _Clock:
    """Evaluations spent since it was made, in samples looked at; listens to a search's progress.

    Attributes:
        at: what was spent when each trial was finished.
        figures: what damage curves took.
    """

    def __init__(self, bench: Bench, samples: int) -> None:
        self._meter, self._samples, self._begun = bench.meter, samples, bench.meter.samples
        self._curves: tuple[float, float] | None = None  # when they began: what was spent, the time
        self.at: list[float] = []
        self.figures: dict[str, float] = {}

    @property
    def spent(self) -> float:
        return (self._meter.samples - self._begun) / self._samples

    def __call__(self, what: str, done: int, total: int) -> None:
        while what == "search policies" and len(self.at) < done:
            self.at.append(self.spent)
        if what == "damage curves":
            now = self.spent, time.perf_counter()
            self._curves = begun = self._curves or now
            self.figures["damage curves, evaluations"] = now[0] - begun[0]
            self.figures["damage curves, s"] = now[1] - begun[1]


def _within(
    budget: int,
    ahead: float,
    clock: _Clock,
    settings: SearchSettings,
    search: Callable[[SearchSettings], tuple[Trial, ...]],
) -> tuple[Trial, ...]:
    """Search, and go on with more trials where some took less than an evaluation, until the budget is spent.

    Args:
        ahead: evaluations that damage curves will take of the budget.
    """
    trials = search(replace(settings, trials=max(1, math.floor(budget - ahead))))
    while True:
        done = len(clock.at)
        curves = clock.figures.get("damage curves, evaluations", 0.0)
        more = math.floor((budget - clock.spent) / ((clock.spent - curves) / done)) if done else 0
        if more < 1:
            return trials
        trials = search(replace(settings, trials=done + more))
        if len(clock.at) == done:  # there is nothing else to try
            return trials


def _predicted(problem: Problem) -> dict[str, float]:
    """How well damage ranks what trials measured, as the run says it."""
    path = problem.run / PREDICTION
    found = read_json(path, "prediction") if path.is_file() else {}
    return {name: value for name, value in found.items() if isinstance(value, float)}


def _unseeded(problem: Problem, settings: SearchSettings, executor: Executor, clock: _Clock) -> tuple[Trial, ...]:
    wanted = StudySettings(trials=settings.trials, sampler=settings.sampler, seed=settings.seed, racing=settings.racing)
    return run_search(
        problem,
        executor,
        wanted,
        folder=problem.run,
        progress=lambda found: clock("search policies", found.done, found.trials),
    )


def _in_order(trials: tuple[Trial, ...], spent: list[float], budget: int, bench: Bench) -> tuple[Evaluated, ...]:
    quality = bench.task.quality
    evaluated = sorted((trial for trial in trials if trial.evaluated), key=lambda trial: trial.number)
    return tuple(
        Evaluated(
            None if trial.raced_out else trial.objectives.get(quality),
            trial.objectives["latency_p50"],
            used,
            trial.seconds,
            dict(trial.policy),
            {"origin": trial.origin},
            f"stopped after {trial.raced_out} samples" if trial.raced_out else str(trial.failure or ""),
        )
        for trial, used in zip(evaluated, spent, strict=True)
        if used <= budget + 1e-9
    )


def _applies(recipe: Recipe, plain: Recipe, subject: Subject) -> bool:
    """Without batch norms, re-estimating them changes nothing."""
    return subject.has_norms or recipe != replace(plain, recalibrate=True)


def _nsga2(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed)


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def _random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


_SAMPLERS = {"nsga2": _nsga2, "tpe": _tpe, "random": _random}
_IMPORTANCES = ("group-norm", "taylor", "bn-scale")
OURS_METHODS: dict[str, Method] = {"ours": Ours()}
PEERS: dict[str, Method] = {
    **{f"optuna-{name}": OptunaSearch(make, PLAIN) for name, make in _SAMPLERS.items()},
    **{f"optuna-{name}-bn": OptunaSearch(make, NORMS) for name, make in _SAMPLERS.items()},
    "ladder": Ladder(Recipe("l1")),
    "ladder-bn": Ladder(Recipe("l1", recalibrate=True)),
    "halp": Halp(recalibrate=False),
    "halp-bn": Halp(recalibrate=True),
    **{
        f"tp-{importance}-{'global' if everywhere else 'local'}{'-bn' if norms else ''}": TorchPruning(
            importance, everywhere, norms
        )
        for importance in _IMPORTANCES
        for everywhere in (False, True)
        for norms in (False, True)
    },
}
"""What a user would otherwise run; `-bn`: with our re-estimation of batch norms."""
HYBRIDS: dict[str, Method] = {"optuna-nsga2-obs": OptunaSearch(_nsga2, OURS), "ladder-obs": Ladder(OURS)}
"""Their search on our evaluator: shows what wins, and is no peer."""
ABLATIONS: dict[str, Method] = {
    "ours-seeds-off": Ours(seeds=False),
    "ours-compensation-off": Ours(replace(OURS, compensate=False)),
    "ours-recalibration-off": Ours(replace(OURS, recalibrate=False)),
    "ours-racing-off": Ours(settings={"racing": False}),
    "ours-damage-measured": Ours(settings={"damage_points": 3}),
    **{
        f"ours-{name}": Ours(settings={"sampler": name})
        for name in SAMPLERS.names()
        if name != SearchSettings().sampler
    },
}
METHODS: dict[str, Method] = {**OURS_METHODS, **PEERS, **HYBRIDS, **ABLATIONS}
SETS = {"ours": OURS_METHODS, "peers": PEERS, "hybrids": HYBRIDS, "ablations": ABLATIONS, "all": METHODS}


def chosen(names: list[str]) -> dict[str, Method]:
    """The methods of some names, or of names of sets: ours, peers, hybrids, ablations, all.

    Raises:
        InputError: an unknown name; lists the known ones.
    """
    found: dict[str, Method] = {}
    for name in names:
        if name not in METHODS and name not in SETS:
            raise unknown_name("method", name, [*METHODS, *SETS])
        found |= SETS.get(name) or {name: METHODS[name]}
    return found

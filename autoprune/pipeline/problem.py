"""Everything a search needs, checked and bound before work starts."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from autoprune.artifacts.records import RunRecord
from autoprune.core.errors import InputError, unknown_name
from autoprune.graph.graph import DependencyGraph
from autoprune.graph.trace import trace
from autoprune.hardware.latency import LatencyTable
from autoprune.hardware.profile import HardwareProfile, load_profile
from autoprune.pruning.criteria import criteria
from autoprune.search.executors import EXECUTORS, ExecutorSettings
from autoprune.search.objectives import (
    Bound,
    Costs,
    Objective,
    check_reachable,
    parse_bounds,
    parse_objectives,
)
from autoprune.search.samplers import SAMPLERS
from autoprune.search.space import SearchSpace
from autoprune.tuning.custom import Trainer, trainer_name
from autoprune.tuning.settings import FinetuneSettings

if TYPE_CHECKING:
    from torch import nn

    from autoprune.tuning.task import Task

PRECISIONS = ("auto", "float32", "bfloat16")

Progress: TypeAlias = Callable[[str, int, int], None]

_PACKAGES = ("autoprune", "torch", "optuna", "ray", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True)
class SearchSettings:
    """How a search proceeds, apart from what it searches.

    Attributes:
        trials: policies evaluated, seeds included; those that the tables exclude come besides.
        sampler: a registered sampler.
        criterion: a registered criterion.
        seed: of everything that draws.
        time_budget_s: no new policies after this long.
        members: how many candidates are fine-tuned in full and published.
        candidates: so many are fine-tuned a little first; None: only the members are fine-tuned.
        short_epochs: that little.
        finetune: how they are trained.
        trainer: a user's own training in the place of the built-in one.
        executor: where jobs run.
        damage_points: widths a variable that damage curves measure; 0: they are predicted from calibration alone.
        plateau: stop after so many evaluations that did not raise the hypervolume; never where None.
        overlap: propose each batch while the one before it is evaluated: no worker waits, proposals know a batch less.
        batch: policies proposed at a time; the sampler decides where None.
        measure: time the members where a profile's device is this machine.
        racing: stop judging a policy once it is surely dominated, where the task's quality metric allows it.
        precision: what policies are judged in: `float32`, `bfloat16`, or `auto`: bfloat16 where the device computes in
            it and the dense model's quality stays within its noise.
        storage: URL of a database for the trials, instead of a journal in the run folder.
    """

    trials: int = 200
    sampler: str = "surrogate"
    criterion: str = "obs"
    seed: int = 0
    time_budget_s: float | None = None
    members: int = 8
    candidates: int | None = None
    short_epochs: int = 1
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    trainer: Trainer | None = None
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)
    damage_points: int = 0
    plateau: int | None = None
    overlap: bool = False
    batch: int | None = None
    measure: bool = True
    racing: bool = True
    precision: str = "float32"
    storage: str | None = field(default=None, repr=False)  # it may hold a password

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("members", 1), ("damage_points", 0), ("plateau", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"search: expected {name} >= {least}, got {value}.")
        if self.candidates is not None and self.candidates < self.members:
            raise InputError(
                f"finetune: expected candidates of at least as many as members, {self.members}, got {self.candidates}. "
                "Candidates are fine-tuned a little, and members are chosen among them."
            )
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        criteria.get(self.criterion)  # unknown names are told here, before anything is written
        SAMPLERS.get(self.sampler)
        EXECUTORS.get(self.executor.kind)

    @property
    def halves(self) -> bool:
        """Whether more candidates are fine-tuned a little than are fine-tuned in full."""
        return self.candidates is not None and self.candidates > self.members and self.finetune.epochs > 0

    @property
    def training(self) -> dict[str, Any]:
        """How members are trained, as the run and their recipes say it."""
        found: dict[str, Any] = self.finetune.model_dump(mode="json")
        if self.halves:
            found |= {"candidates": self.candidates, "short_epochs": self.short_epochs}
        if self.trainer is not None:
            found["function"] = trainer_name(self.trainer)
        return found


@dataclass(frozen=True, eq=False)
class Problem:
    """A search, bound: every part fits the others.

    Attributes:
        model: the user's dense model.
        task: data, loss and metrics.
        graph: the traced model.
        profiles: by name, in the order given.
        tables: each profile bound to the graph.
        space: what may be chosen.
        objectives: minimised, quality among them or not.
        bounds: constraints.
        costs: what the tables say about choices.
        dense_metrics: the dense model's on the validation split.
        notes: what is worth knowing though nothing is wrong.
        run: the run folder.
        noise: by how much each metric of the dense model differs when it is asked twice.
    """

    model: nn.Module
    task: Task
    graph: DependencyGraph
    profiles: Mapping[str, HardwareProfile]
    tables: Mapping[str, LatencyTable]
    space: SearchSpace
    objectives: tuple[Objective, ...]
    bounds: tuple[Bound, ...]
    costs: Costs
    dense_metrics: Mapping[str, float]
    notes: tuple[str, ...]
    run: Path
    noise: Mapping[str, float] = field(default_factory=dict)


def pose(
    model: nn.Module,
    task: Task,
    *,
    profiles: Sequence[str | Path | HardwareProfile],
    space: str | Path | Mapping[str, Any],
    objectives: Sequence[str],
    constraints: Sequence[str],
    run: str | Path,
) -> Problem:
    """Check and bind everything.

    Raises:
        InputError: whatever does not fit; one message that says what, expected, got and what to do.
    """
    folder = Path(run)
    check_writable(folder)
    bound = load_profiles(profiles)
    task, pinned = task.pinned()
    checked = task.check(model)
    graph = trace(model, example_inputs(task))
    quantum = max((profile.alignment_quantum for profile in bound.values()), default=1)
    searched = SearchSpace.load(space, graph, quantum=quantum)
    qualities = tuple(dict.fromkeys((task.quality, *task.metrics)))
    wanted = parse_objectives(objectives, qualities, list(bound))
    bounds = parse_bounds(constraints, qualities, list(bound))
    evaluated = [b for b in bounds if b.objective.evaluated]
    if evaluated:
        raise InputError(
            f"constraint '{evaluated[0]}': expected a cost that the tables know (latency, size, macs, ...), got a "
            "metric. Search without it, and select with where=... afterwards."
        )
    tables = {name: LatencyTable(profile, graph) for name, profile in bound.items()}
    costs = Costs(graph, searched, tables)
    check_reachable(costs, bounds)
    return Problem(
        model,
        task,
        graph,
        bound,
        tables,
        searched,
        wanted,
        bounds,
        costs,
        checked.metrics,
        (*pinned, *checked.notes),
        folder,
        checked.noise,
    )


def load_profiles(profiles: Sequence[str | Path | HardwareProfile]) -> dict[str, HardwareProfile]:
    """Profiles by name.

    Raises:
        InputError: none, one that cannot be loaded, or two of one name.
    """
    if isinstance(profiles, (str, Path, HardwareProfile)):
        profiles = [profiles]
    found: dict[str, HardwareProfile] = {}
    for item in profiles:
        profile = item if isinstance(item, HardwareProfile) else load_profile(item)
        if profile.name in found:
            raise InputError(f"profiles: expected different names, got '{profile.name}' twice.")
        found[profile.name] = profile
    if not found:
        raise InputError(
            "profiles: expected at least one hardware profile, got none. `autoprune profile list` lists those that "
            "ship; `autoprune profile run` measures this machine."
        )
    return found


def example_inputs(task: Task) -> Any:
    """The model's inputs in the first training batch, as `trace` takes them."""
    return task.inputs_of(next(iter(task.train)))


def check_writable(folder: Path) -> None:
    """Make the run folder.

    Raises:
        InputError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"run folder {folder}: cannot be written ({error.strerror or error}). Choose a folder you may write to."
        ) from error


def run_record(problem: Problem, settings: SearchSettings) -> RunRecord:
    """How the run is made, as `run.json` says it."""
    task = problem.task
    hashes = {"data": task.fingerprint(), "space": problem.space.hash}
    hashes |= {f"profile {name}": profile.id for name, profile in problem.profiles.items()}
    hashes["criterion and sampler"] = f"{settings.criterion}, {settings.sampler}"
    return RunRecord(
        metrics=tuple(task.metrics),
        minimize=task.minimize,
        objectives=tuple(objective.name for objective in problem.objectives),
        constraints=tuple(map(str, problem.bounds)),
        profiles=tuple(problem.profiles),
        seed=settings.seed,
        versions=versions(),
        hashes=hashes,
        config={
            "trials": settings.trials,
            "sampler": settings.sampler,
            "criterion": settings.criterion,
            "space": problem.space.name,
            "racing": settings.racing,
            "overlap": settings.overlap,
            "precision": settings.precision,
            "members": settings.members,
            "finetune": settings.training,
            "executor": settings.executor.kind,
            "workers": settings.executor.workers,
            "threads": settings.executor.threads,
        },
        notes=(*problem.notes, *profile_notes(problem.profiles)),
    )


def profile_notes(profiles: Mapping[str, HardwareProfile]) -> tuple[str, ...]:
    """Which profiles were not measured."""
    return tuple(
        f"profile '{name}' is {profile.header.provenance}: its latencies were not measured on the device"
        for name, profile in profiles.items()
        if profile.header.provenance != "measured"
    )


def versions() -> dict[str, str]:
    """Versions of what made a run."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

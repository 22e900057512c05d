"""The public door: every job of Autoprune as one Python call. Inputs are checked here, the rooms do the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.artifacts.front import Front, Member, load_front
from autoprune.core.errors import InputError
from autoprune.core.settings import validated
from autoprune.core.units import format_count, format_us
from autoprune.graph import DependencyGraph, SparsityPolicy, trace
from autoprune.hardware import predict_cost
from autoprune.hardware.latency import LatencyTable
from autoprune.hardware.profile import HardwareProfile, load_profile
from autoprune.hardware.profiling import profile_graph
from autoprune.pruning import prune
from autoprune.search.allocation import allocate
from autoprune.search.executors import ExecutorSettings
from autoprune.search.objectives import Costs, parse_objective
from autoprune.search.space import SearchSpace
from autoprune.tuning.settings import FinetuneSettings
from autoprune.tuning.task import Task

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[str, int, int], None]

WHOLE_MODELS = 24
"""Whole pruned models that `profile_device` times to fit the composition."""


def profile_device(
    *,
    model: nn.Module,
    example_inputs: Any,
    runtime: str = "onnxruntime",
    space: str | Path | Mapping[str, Any] = "cnn",
    threads: int = 1,
    batch: int = 1,
    budget_s: float | None = None,
    whole_models: int = WHOLE_MODELS,
    name: str | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> HardwareProfile:
    """Measure this machine for a model: its kernels at the widths of a search space, and a few whole models.

    Args:
        model: any model of the kind to be searched; its weights do not matter.
        example_inputs: as for `trace`.
        runtime: what runs the models.
        space: the search space whose widths are measured.
        threads: of the runtime.
        batch: samples a run.
        budget_s: seconds to spend on it; without, everything is timed.
        whole_models: pruned models timed end to end, which the composition is fitted on.
        name: of the profile.
        progress: called with (stage, done, total).
        seed: of the order and of the whole models.

    Raises:
        InputError: a model that cannot be traced, or in which nothing can be pruned; an unknown runtime or space.
    """
    graph = trace(model, example_inputs)
    widths = SearchSpace.load(space, graph).widths
    return profile_graph(
        graph,
        runtime=runtime,
        widths=widths,
        threads=threads,
        batch=batch,
        budget_s=budget_s,
        whole_models=whole_models,
        name=name,
        progress=progress,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class Inspection:
    """What of a model can be pruned, and what that can gain.

    Attributes:
        graph: groups, and what is frozen and why.
        narrowest: the narrowest policy of the search space.
        macs: dense and narrowest.
        params: dense and narrowest.
        latency_us: profile -> predicted p50 of the dense and of the fastest policy.
        warnings: what is worth knowing before a search.
    """

    graph: DependencyGraph
    narrowest: SparsityPolicy
    macs: tuple[int, int]
    params: tuple[int, int]
    latency_us: Mapping[str, tuple[float, float]]
    warnings: tuple[str, ...]

    def summary(self) -> str:
        """All of it as text."""
        lines = [self.graph.summary(), ""]
        for what, (dense, least) in (("MACs", self.macs), ("parameters", self.params)):
            factor = f"{dense / least:.1f}x fewer" if least else "none left"
            lines.append(f"{what}: {format_count(dense)} dense, {format_count(least)} at the narrowest ({factor})")
        for name, (dense_us, least_us) in self.latency_us.items():
            lines.append(
                f"latency p50 on {name}: {format_us(dense_us)} dense, {format_us(least_us)} at the fastest "
                f"({dense_us / least_us:.1f}x faster)"
            )
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def to_data(self) -> dict[str, Any]:
        """All of it as JSON data."""
        groups = self.graph.groups.values()
        return {
            "groups": [
                {"id": g.id, "size": g.size, "unit": g.unit, "parameters": sorted({m.parameter for m in g.members})}
                for g in groups
            ],
            "frozen": [
                {"parameter": f.parameter, "axis": f.axis, "size": f.size, "reason": f.reason}
                for f in self.graph.frozen
            ],
            "prunable_share": self.graph.prunable_share(),
            "macs": {"dense": self.macs[0], "narrowest": self.macs[1]},
            "params": {"dense": self.params[0], "narrowest": self.params[1]},
            "latency_p50_us": {
                name: {"dense": dense, "fastest": least} for name, (dense, least) in self.latency_us.items()
            },
            "warnings": list(self.warnings),
        }


def inspect(
    model: nn.Module,
    example_inputs: Any,
    *,
    profiles: Sequence[str | Path | HardwareProfile] = (),
    space: str | Path | Mapping[str, Any] = "cnn",
) -> Inspection:
    """What of a model can be pruned, what cannot and why, and the gain in reach.

    Args:
        model: a trained model.
        example_inputs: as for `trace`.
        profiles: hardware to predict the highest reachable speed-up for.
        space: the search space.

    Raises:
        InputError: a model that cannot be traced or in which nothing can be pruned; an unknown profile or space.
    """
    from autoprune.pipeline.problem import load_profiles, profile_notes

    graph = trace(model, example_inputs)
    bound = load_profiles(profiles) if profiles else {}
    quantum = max((profile.alignment_quantum for profile in bound.values()), default=1)
    searched = SearchSpace.load(space, graph, quantum=quantum)
    tables = {name: LatencyTable(profile, graph) for name, profile in bound.items()}
    costs = Costs(graph, searched, tables)
    narrowest = searched.policy(searched.narrowest)
    widths = graph.widths(narrowest)
    latency = {name: _reach(costs, name) for name in tables}
    warnings = [*profile_notes(bound)]
    if graph.prunable_share() < 0.5:
        warnings.append(
            f"only {graph.prunable_share():.0%} of the parameters are in prunable dimensions; see what is frozen"
        )
    for name, (dense, least) in latency.items():
        if dense / least < 1.1:
            warnings.append(f"no policy of this space is predicted to be faster than {dense / least:.2f}x on {name}")
    return Inspection(
        graph,
        narrowest,
        (int(graph.macs({})), int(graph.macs(widths))),
        (int(graph.parameter_count({})), int(graph.parameter_count(widths))),
        latency,
        tuple(warnings),
    )


def _reach(costs: Costs, profile: str) -> tuple[float, float]:
    """Predicted p50 of the dense policy and of the fastest that allocation finds."""
    objective = parse_objective("latency_p50", (), [profile])

    def latency(choices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return costs.values(objective, choices)[:, 0]

    space = costs.space
    damage = [np.linspace(1.0, 0.0, count) for count in space.levels]
    fastest = allocate(damage, latency, points=8)
    found = latency(np.concatenate([np.array([space.dense]), fastest]))
    return float(found[0]), float(found.min())


def search(
    model: nn.Module,
    task: Task,
    *,
    profiles: Sequence[str | Path | HardwareProfile],
    space: str | Path | Mapping[str, Any] = "cnn",
    objectives: Sequence[str] = ("error", "latency_p50"),
    constraints: Sequence[str] = (),
    trials: int = 200,
    finetune: FinetuneSettings | Mapping[str, Any] | None = None,
    members: int | None = None,
    executor: str | ExecutorSettings | Mapping[str, Any] = "local",
    seed: int = 0,
    run: str | Path = "runs/search",
    sampler: str = "nsga2",
    criterion: str = "obs",
    time_budget_s: float | None = None,
    measure: bool = True,
    progress: Progress | None = None,
) -> Front:
    """Search for pruned models of `model` on given hardware, fine-tune and measure the best, and publish them.

    Called again on the same run folder it goes on where it was stopped; nothing is evaluated twice.

    Args:
        model: a trained model; it is not changed.
        task: data to train on and to judge by. The test split is read once, at the end.
        profiles: hardware profiles: names, folders or objects.
        space: a shipped search space, a YAML file, or the same as a mapping.
        objectives: what to minimise: the task's quality (`error` for accuracy, else the metric's name),
            `latency_p50` ... `latency_p99` (with several profiles `latency_p50@profile`), `size`, `peak_memory`,
            `macs`.
        constraints: comparisons such as `latency_p99 <= 8ms`, checked before a policy is evaluated.
        trials: how many policies.
        finetune: settings of the members' training; a mapping may also hold `members`.
        members: how many candidates are fine-tuned and published; 8 unless given.
        executor: `local`, `ray`, or settings (`{"kind": "local", "workers": 2}`). The result does not depend on it.
        seed: of everything that draws.
        run: folder of the run.
        sampler, criterion: registered ones.
        time_budget_s: no new policies after this many seconds.
        measure: time the members where a profile's device is this machine.
        progress: called with (stage, done, total).

    Raises:
        InputError: wrong input, checked before work starts; one message that says what to do.
        AutopruneError: nothing could be evaluated or fine-tuned.
        KeyboardInterrupt: interrupted; call again to resume.
    """
    from autoprune.pipeline.explore import run_pipeline
    from autoprune.pipeline.problem import SearchSettings, pose

    training, wanted = _finetune_settings(finetune, members)
    settings = SearchSettings(
        trials=trials,
        sampler=sampler,
        criterion=criterion,
        seed=seed,
        time_budget_s=time_budget_s,
        members=wanted,
        finetune=training,
        executor=_executor_settings(executor),
        measure=measure,
    )
    problem = pose(model, task, profiles=profiles, space=space, objectives=objectives, constraints=constraints, run=run)
    run_pipeline(problem, settings, progress or (lambda stage, done, total: None))
    return load_front(run, model=model)


def _finetune_settings(
    given: FinetuneSettings | Mapping[str, Any] | None, members: int | None
) -> tuple[FinetuneSettings, int]:
    if isinstance(given, FinetuneSettings) or given is None:
        return given or FinetuneSettings(), 8 if members is None else members
    fields = dict(given)
    inner = fields.pop("members", 8)
    settings = validated(FinetuneSettings, {k: v for k, v in fields.items() if v is not None}, "finetune")
    return settings, int(inner if members is None else members)


def _executor_settings(given: str | ExecutorSettings | Mapping[str, Any]) -> ExecutorSettings:
    if isinstance(given, ExecutorSettings):
        return given
    fields = {"kind": given} if isinstance(given, str) else dict(given)
    known = set(ExecutorSettings.__dataclass_fields__)
    unknown = sorted(set(fields) - known)
    if unknown:
        raise InputError(f"executor: unknown key '{unknown[0]}'. Known: {', '.join(sorted(known))}.")
    return ExecutorSettings(**fields)


__all__ = [
    "DependencyGraph", "Front", "Inspection", "Member", "SparsityPolicy", "Task", "inspect", "load_front",
    "load_profile", "predict_cost", "profile_device", "prune", "search", "trace",
]  # fmt: skip

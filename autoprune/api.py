"""The public door: every job of Autoprune as one Python call. Inputs are checked here, the rooms do the work."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.artifacts.front import Front, Member, load_front
from autoprune.core.errors import InputError
from autoprune.core.settings import validated
from autoprune.graph import DependencyGraph, SparsityPolicy, trace
from autoprune.hardware import predict_cost
from autoprune.hardware.profile import HardwareProfile, load_profile
from autoprune.hardware.profiling import BUDGET_S, WHOLE_MODELS, ProfileSettings, profile_graph
from autoprune.pipeline.inspection import Inspection, inspect_graph
from autoprune.pruning import prune
from autoprune.search.executors import ExecutorSettings
from autoprune.search.space import AUTO, SearchSpace
from autoprune.tuning.settings import FinetuneSettings, MemberSettings
from autoprune.tuning.task import Task

if TYPE_CHECKING:
    from torch import nn

    from autoprune.tuning.custom import Trainer

Progress = Callable[[str, int, int], None]


def profile_device(
    *,
    model: nn.Module,
    example_inputs: Any,
    runtime: str = "onnxruntime",
    space: str | Path | Mapping[str, Any] = AUTO,
    threads: int = 1,
    batch: int = 1,
    precision: str = "float32",
    layout: str = "contiguous",
    processor: str = "cpu",
    device: str = "local",
    budget_s: float | None = BUDGET_S,
    whole_models: int = WHOLE_MODELS,
    name: str | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    journal: str | Path | None = None,
    python: str = "python3",
) -> HardwareProfile:
    """Measure a machine for a model: its kernels at the widths of a search space, and a few whole models.

    Args:
        model: any model of the kind to be searched; its weights do not matter.
        example_inputs: as for `trace`.
        runtime: what runs the models.
        space: the search space whose widths are measured; `auto` as for `inspect`.
        threads: of the runtime.
        batch: samples a run.
        precision: `float32`, `bfloat16`, `float16` or `int8`, where the runtime has it.
        layout: `contiguous` or `channels_last`, where the runtime has it.
        processor: what of the device runs the models: `cpu`, `cuda`, or what the runtime names.
        device: where they run: `local`, or a machine that a kit is sent to: `ssh:user@host:port`, `android:serial`.
        budget_s: seconds to spend on it, coarse grids of widths first; None times every kernel, which takes long.
        whole_models: pruned models timed end to end, which the composition is fitted on.
        name: of the profile.
        progress: called with (stage, done, total).
        seed: of the order and of the whole models.
        journal: a file, for other devices a folder, that keeps what is done: the same call goes on with it when it was
            cut off. Remove it once the profile is saved.
        python: interpreter of another machine, for runtimes that are Python there.

    Raises:
        InputError: a model that cannot be traced, or in which nothing can be pruned; an unknown runtime, device or
            space; settings that the runtime has not; a journal of another measurement.
    """
    graph = trace(model, example_inputs)
    widths = SearchSpace.load(space, graph).widths
    settings = ProfileSettings(
        runtime=runtime,
        threads=threads,
        batch=batch,
        precision=precision,
        layout=layout,
        processor=processor,
        budget_s=budget_s,
        whole_models=whole_models,
        name=name,
        seed=seed,
    )
    kept = None if journal is None else Path(journal)
    if device != "local":
        return _profile_elsewhere(device, graph, widths, settings, python, kept, progress)
    return profile_graph(graph, settings, widths=widths, progress=progress, journal=kept)


def _profile_elsewhere(
    device: str,
    graph: DependencyGraph,
    widths: Mapping[str, Sequence[int]],
    settings: ProfileSettings,
    python: str,
    folder: Path | None,
    progress: Progress | None,
) -> HardwareProfile:
    """A profile of a machine that a kit is sent to."""
    from autoprune.hardware.kit.importing import Asked
    from autoprune.hardware.kit.manifest import KitProtocol
    from autoprune.hardware.kit.planning import KitSettings
    from autoprune.hardware.kit.remote import profile_remote

    usual = ProfileSettings()
    for name in ("budget_s", "layout", "processor"):
        if getattr(settings, name) != getattr(usual, name):
            raise InputError(
                f"profile of '{device}': expected no {name}, got {getattr(settings, name)!r}. Only this machine is "
                "profiled by it; leave it out."
            )
    kit = KitSettings(
        runtime=settings.runtime,
        threads=settings.threads,
        batch=settings.batch,
        precision=settings.precision,
        whole_models=settings.whole_models,
        protocol=KitProtocol(seed=settings.seed),
        python=python,
    )
    asked = Asked(name=settings.name)
    if folder is not None:
        return profile_remote(device, graph, folder, kit, widths=widths, asked=asked, progress=progress)
    with tempfile.TemporaryDirectory(prefix="autoprune-kit-") as made:
        return profile_remote(device, graph, Path(made) / "kit", kit, widths=widths, asked=asked, progress=progress)


def inspect(
    model: nn.Module,
    example_inputs: Any,
    *,
    profiles: Sequence[str | Path | HardwareProfile] = (),
    space: str | Path | Mapping[str, Any] = AUTO,
) -> Inspection:
    """What of a model can be pruned, what cannot and why, and the gain in reach.

    Args:
        model: a trained model.
        example_inputs: as for `trace`.
        profiles: hardware to predict the highest reachable speed-up for.
        space: the search space; `auto` is `transformer` where the model has attention heads, else `cnn`.

    Returns:
        Groups with their parameters and MACs, reasons of what is frozen, and the dense, narrowest and least possible
        size; `.summary()` is all of it as text, `.to_data()` as JSON data. Of a model in which nothing can be pruned,
        it is the reasons, and a warning.

    Raises:
        InputError: a model that cannot be traced, an unknown profile or space, or a space that leaves nothing to prune
            of a model that could be.
    """
    return inspect_graph(trace(model, example_inputs), profiles, space)


def search(
    model: nn.Module,
    task: Task,
    *,
    profiles: Sequence[str | Path | HardwareProfile],
    space: str | Path | Mapping[str, Any] = AUTO,
    objectives: Sequence[str] = ("error", "latency_p50"),
    constraints: Sequence[str] = (),
    trials: int = 200,
    finetune: FinetuneSettings | Mapping[str, Any] | Trainer | str | None = None,
    members: int | None = None,
    executor: str | ExecutorSettings | Mapping[str, Any] = "local",
    seed: int = 0,
    run: str | Path = "runs/search",
    sampler: str = "surrogate",
    criterion: str = "obs",
    time_budget_s: float | None = None,
    plateau: int | None = None,
    overlap: bool = False,
    batch: int | None = None,
    damage_points: int = 0,
    measure: bool = True,
    racing: bool = True,
    precision: str = "float32",
    storage: str | None = None,
    progress: Progress | None = None,
) -> Front:
    """Search for pruned models of `model` on given hardware, fine-tune and measure the best, and publish them.

    Called again on the same run folder it goes on where it was stopped; nothing is evaluated twice.

    Args:
        model: a trained model; it is not changed.
        task: data to train on and to judge by. The test split is read once, at the end.
        profiles: hardware profiles: names, folders or objects.
        space: a shipped search space, a YAML file, or the same as a mapping; `auto` as for `inspect`.
        objectives: what to minimise: the task's quality (`error` for accuracy, else the metric's name),
            `latency_p50` ... `latency_p99` (with several profiles `latency_p50@profile`), `size`, `peak_memory`,
            `macs`.
        constraints: comparisons such as `latency_p99 <= 8ms`, checked before a policy is evaluated.
        trials: how many policies.
        finetune: how members are trained: settings; a mapping, which may also say how many (`members`, `candidates`,
            `short_epochs`); or a function of (model, task, settings, teacher), or `module:function`, that trains a
            model in place or returns it, in the place of the built-in training (a mapping's `function`).
        members: how many candidates are fine-tuned and published; 8 unless given.
        executor: `local`, `ray`, or settings (`{"kind": "local", "workers": 2}`). The result does not depend on it.
        seed: of everything that draws.
        run: folder of the run.
        sampler, criterion: registered ones.
        time_budget_s: no policy is begun that would probably end after this many seconds.
        plateau: stop after so many policies that did not raise the front's hypervolume by a thousandth.
        overlap: propose the next policies while the last ones are still evaluated: for many workers, of which none then
            waits; what is proposed knows a little less. Part of what a search is, as the seed.
        batch: policies proposed at a time, from two; the sampler decides unless given. Part of what a search is too.
        damage_points: widths of each group whose damage is measured before the search; 0: all are predicted from
            calibration data alone.
        measure: time the members where a profile's device is this machine.
        racing: stop judging a policy once it is surely dominated, where the task's quality metric allows it.
        precision: what policies are judged in: `float32`, `bfloat16`, or `auto`: bfloat16 where the device computes in
            it and the dense model's quality stays within its noise.
        storage: URL of a database for the trials, instead of a journal in the run folder.
        progress: called with (stage, done, total).

    Raises:
        InputError: wrong input, checked before work starts; one message that says what to do.
        AutopruneError: nothing could be evaluated or fine-tuned.
        KeyboardInterrupt: interrupted; call again to resume.
    """
    from autoprune.pipeline.explore import run_pipeline
    from autoprune.pipeline.problem import SearchSettings, pose

    where = _executor_settings(executor)
    wanted, trainer = _member_settings(finetune, members, where)
    settings = SearchSettings(
        trials=trials,
        sampler=sampler,
        criterion=criterion,
        seed=seed,
        time_budget_s=time_budget_s,
        plateau=plateau,
        overlap=overlap,
        batch=batch,
        damage_points=damage_points,
        members=wanted.members,
        candidates=wanted.candidates,
        short_epochs=wanted.short_epochs,
        finetune=wanted.training,
        trainer=trainer,
        executor=where,
        measure=measure,
        racing=racing,
        precision=precision,
        storage=storage,
    )
    problem = pose(model, task, profiles=profiles, space=space, objectives=objectives, constraints=constraints, run=run)
    run_pipeline(problem, settings, progress or (lambda stage, done, total: None))
    return load_front(run, model=model)


def _member_settings(given: Any, members: int | None, executor: ExecutorSettings) -> tuple[MemberSettings, Any]:
    """How members are trained and how many, and a user's own training (None: the built-in one).

    Raises:
        InputError: an unknown key or wrong value, or a function that cannot be called or sent to workers.
    """
    from autoprune.callables import import_reference
    from autoprune.tuning.custom import check_trainer

    fields: dict[str, Any] = {}
    if isinstance(given, FinetuneSettings):
        fields = given.model_dump()
    elif isinstance(given, Mapping):
        fields = dict(given)
    elif given is not None:
        fields = {"function": given}
    function = fields.pop("function", None)
    if members is not None:
        fields["members"] = members
    settings = validated(MemberSettings, fields, "finetune")
    if isinstance(function, str):
        function = import_reference(function, "finetune")
    if function is not None:
        limited = executor.timeout_s is not None or executor.memory_bytes is not None
        function = check_trainer(function, portable=executor.kind != "local" or executor.workers > 1 or limited)
    return settings, function


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

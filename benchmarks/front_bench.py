"""What all methods of the front benchmark share: a task bound to a hardware profile, and evaluations counted alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.core.errors import AutopruneError, Failure
from autoprune.graph import TracedModule
from autoprune.graph.policy import SparsityPolicy
from autoprune.pareto.dominance import non_dominated
from autoprune.pareto.hypervolume import hypervolume
from autoprune.pipeline.problem import Problem, pose
from autoprune.pruning import Pruner
from autoprune.pruning.recalibration import Anchor, anchors
from autoprune.search.evaluation import threads_of_torch
from autoprune.tuning.batches import as_inputs, batch_size, call, default_inputs, labels, main_output
from autoprune.tuning.task import Task

Floats = npt.NDArray[np.float64]


class Meter:
    """Counts the samples that models were judged or recalibrated on.

    Attributes:
        samples: so far.
    """

    def __init__(self) -> None:
        self.samples = 0

    def read(self, batch: Any) -> None:
        """Count a batch."""
        self.samples += batch_size(as_inputs(default_inputs(batch)))


@dataclass(frozen=True, eq=False)
class Classified:
    """Accuracy, and which samples are right."""

    meter: Meter

    def hits(self, model: nn.Module, batches: Iterable[Any]) -> Tensor:
        """Whether each sample's class has the highest logit.  # (n,) bool"""
        found = []
        for batch in batches:
            self.meter.read(batch)
            logits = main_output(call(model, as_inputs(default_inputs(batch))))
            found.append(logits.argmax(dim=1) == labels(batch))
        return torch.cat(found)

    def __call__(self, model: nn.Module, batches: Iterable[Any]) -> float:
        """The share of samples that are right."""
        return float(self.hits(model, batches).double().mean())


@dataclass(frozen=True, eq=False)
class Metered:
    """A loss that counts the samples it is given.

    Attributes:
        loss: from outputs and a batch to a scalar.
    """

    meter: Meter
    loss: Callable[[Any, Any], Tensor]

    def __call__(self, outputs: Any, batch: Any) -> Tensor:
        """The loss."""
        self.meter.read(batch)
        return self.loss(outputs, batch)


class MeteredPruner(Pruner):
    """A pruner whose recalibrations are counted.

    Args:
        meter: where.
        samples: that each model is recalibrated on; the other arguments are a `Pruner`'s.
    """

    def __init__(self, meter: Meter, samples: int, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._meter = meter
        self._samples = samples

    def build(self, policy: Mapping[str, int], samples: int | None = None) -> TracedModule:
        """See `Pruner.build`."""
        self._meter.samples += self._samples if samples is None else min(samples, self._samples)
        return super().build(policy, samples)


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network and how it is judged.

    Attributes:
        name: of the task.
        model: trained.
        task: its first metric has `hits(model, batches)`, samples that are right; metrics and loss use `meter`.
        meter: counts samples.
        worst: the error of always guessing the most frequent answer on the validation split.
        space: of the search.
        profile: of the hardware.
        last_layers: names of layers whose output Torch-Pruning must leave as it is.
        groups: of the test split's samples, where some come from the same source: its number.  # (n_test,)
        options: what it was made with.
    """

    name: str
    model: nn.Module
    task: Task
    meter: Meter
    worst: float
    space: str | Mapping[str, Any] = "cnn"
    profile: str = "cpu-x86-onnxruntime-1t"
    last_layers: tuple[str, ...] = ()
    groups: npt.NDArray[np.int64] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_norms(self) -> bool:
        """Whether there are batch norms to re-estimate."""
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules())


@dataclass(frozen=True)
class Recipe:
    """How a policy becomes a model.

    Attributes:
        criterion: which units stay.
        compensate: re-fit what reads them.
        recalibrate: re-estimate batch norms.
    """

    criterion: str
    compensate: bool = False
    recalibrate: bool = False


@dataclass(frozen=True)
class Evaluated:
    """One quality evaluation of a method, in the order they were made.

    Attributes:
        error: on the whole validation split; None where it failed, or was stopped early as surely dominated.
        latency_us: predicted p50.
        spent: evaluations up to here, this one included; a pass over fewer samples counts as its share.
        seconds: that it took; 0 where the method does not say.
        policy: widths.
        setting: what else the model is made of again by, of sweeps.
        failure: why it failed or was stopped.
    """

    error: float | None
    latency_us: float
    spent: float
    seconds: float
    policy: Mapping[str, int]
    setting: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a method did.

    Attributes:
        evaluated: in order.
        setup_s: time before the first evaluation: scores, Gram matrices, tables.
        figures: whatever else is worth keeping.
    """

    evaluated: tuple[Evaluated, ...]
    setup_s: float
    figures: Mapping[str, float] = field(default_factory=dict)


class Bench:
    """A subject bound to its profile.

    Args:
        subject: what is pruned.
        folder: for scratch.
        threads: of torch.
    """

    def __init__(self, subject: Subject, folder: Path, threads: int = 1) -> None:
        self.subject = subject
        self.threads = threads
        self.meter = subject.meter
        with threads_of_torch(threads):
            self.problem: Problem = pose(
                subject.model,
                subject.task,
                profiles=[subject.profile],
                space=subject.space,
                objectives=[subject.task.quality, "latency_p50"],
                constraints=(),
                run=folder,
            )
        self.graph, self.space = self.problem.graph, self.problem.space
        (self.table,) = self.problem.tables.values()
        self._pruners: dict[tuple[Recipe, int], Pruner] = {}

    @property
    def task(self) -> Task:
        """The subject's."""
        return self.subject.task

    @cached_property
    def dense(self) -> tuple[float, float]:
        """Error and latency in us of the dense model."""
        error = self.task.objective(self.problem.dense_metrics)
        return float(error), self.latency_us({})

    @cached_property
    def reference(self) -> tuple[float, float]:
        """The worst corner: the error of guessing, the latency of the dense model."""
        return self.subject.worst, self.dense[1]

    @cached_property
    def calibration(self) -> list[tuple[Tensor, ...]]:
        """Inputs of the calibration split."""
        return self.task.calibration_batches(seed=0)

    @cached_property
    def anchors(self) -> dict[str, Anchor]:
        """The dense model's batch norms, as they are and as the calibration split sees them."""
        return anchors(self.graph.module().clone_tensors(), self.calibration)

    def calibration_loss(self, outputs: Any, position: int) -> Tensor:
        """The task's loss on a calibration batch, labels read: what `Pruner` takes as loss."""
        assert self.task.loss is not None
        return self.task.loss(outputs, list(self.task.loader("calibration"))[position])

    def samples(self, recipe: Recipe) -> int:
        """How many samples one evaluation of a model made by a recipe goes through."""
        judged = sum(batch_size(self.task.inputs_of(batch)) for batch in self.task.loader("validation"))
        return judged + self.recalibrated(recipe)

    def recalibrated(self, recipe: Recipe) -> int:
        """How many samples a model made by a recipe is recalibrated on."""
        norms = recipe.recalibrate and self.subject.has_norms
        return sum(len(inputs[0]) for inputs in self.calibration) if norms else 0

    def pruner(self, recipe: Recipe, seed: int) -> Pruner:
        """The recipe's pruner; made once."""
        if (recipe, seed) not in self._pruners:
            samples = self.recalibrated(recipe)
            blind = recipe.criterion in ("l1", "l2") and not recipe.compensate and not samples
            with threads_of_torch(self.threads):
                self._pruners[recipe, seed] = MeteredPruner(
                    self.meter,
                    samples,
                    self.graph,
                    recipe.criterion,
                    () if blind else self.calibration,
                    compensate=recipe.compensate,
                    recalibrate=samples > 0,
                    seed=seed,
                    loss=self.calibration_loss if recipe.criterion in ("taylor", "fisher") else None,
                )
        return self._pruners[recipe, seed]

    def latency_us(self, policy: Mapping[str, int]) -> float:
        """Predicted p50."""
        widths = self.graph.widths(self.graph.check(policy))
        row = np.array([[widths[group] for group in self.table.groups]], dtype=np.int64)
        return float(self.table.latency_us(row)["p50"][0])

    def error(self, model: nn.Module, split: str = "validation") -> float:
        """The quality objective of a model as it is."""
        with threads_of_torch(self.threads):
            return float(self.task.objective(self.task.evaluate(model, split)))

    def hits(self, model: nn.Module, split: str) -> Tensor:
        """Which samples of a split a model gets right.  # (n,) bool"""
        metric: Any = next(iter(self.task.metrics.values()))
        with threads_of_torch(self.threads), torch.no_grad():
            found: Tensor = metric.hits(model.eval(), self.task.loader(split))
        return found


class Ledger:
    """Evaluations one after the other, one of them one unit of budget; a policy seen before is not run again.

    Args:
        bench: what is evaluated.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.evaluated: list[Evaluated] = []
        self._known: dict[SparsityPolicy, Evaluated] = {}

    def judge(
        self,
        policy: Mapping[str, int],
        build: Callable[[], nn.Module],
        setting: Mapping[str, Any] | None = None,
    ) -> Evaluated:
        """Evaluate a model, and count it."""
        key = SparsityPolicy(self._bench.graph.widths(self._bench.graph.check(policy)))
        spent = len(self.evaluated) + 1.0
        known = self._known.get(key)
        if known is None:
            start = time.perf_counter()
            error, failure = _error(self._bench, build)
            latency_us = self._bench.latency_us(key)
            known = Evaluated(error, latency_us, spent, time.perf_counter() - start, dict(key), setting or {}, failure)
            self._known[key] = known
        self.evaluated.append(replace(known, spent=spent))
        return self.evaluated[-1]

    def knows(self, policy: Mapping[str, int]) -> bool:
        """Whether a policy was evaluated before."""
        return SparsityPolicy(self._bench.graph.widths(self._bench.graph.check(policy))) in self._known


def _error(bench: Bench, build: Callable[[], nn.Module]) -> tuple[float | None, str]:
    try:
        with threads_of_torch(bench.threads):
            error = bench.error(build())
    except AutopruneError as problem:
        return None, str(Failure(type(problem).__name__, str(problem)))
    return (error, "") if np.isfinite(error) else (None, f"the error is {error}")


def front(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """Those that no other dominates, each once, the fastest first."""
    sound = [item for item in evaluated if item.error is not None]
    values = np.array([(item.error, item.latency_us) for item in sound], dtype=np.float64).reshape(-1, 2)
    kept = [item for item, best in zip(sound, non_dominated(values), strict=True) if best]
    distinct = {(item.error, item.latency_us): item for item in reversed(kept)}
    return sorted(distinct.values(), key=lambda item: item.latency_us)


def spread(members: Sequence[Evaluated], count: int, dense_us: float) -> list[Evaluated]:
    """At most `count` of a front, those nearest to latencies spaced evenly in their logarithm up to the dense one."""
    inside = [item for item in members if item.latency_us < dense_us]
    if len(inside) <= count:
        return inside
    times = np.log([item.latency_us for item in inside])
    wanted = np.linspace(times[0], np.log(dense_us), count + 1)[:-1]
    return [inside[place] for place in np.unique(np.abs(times[None, :] - wanted[:, None]).argmin(axis=1))]


def volume(values: npt.ArrayLike, reference: Sequence[float]) -> float:
    """Hypervolume of points (error, latency) as shares of the reference, so that 1 is the ideal.  # (n, 2)"""
    points = np.asarray(values, dtype=np.float64).reshape(-1, 2) / np.asarray(reference, dtype=np.float64)
    return hypervolume(points, [1.0, 1.0])


def curve(evaluated: Sequence[Evaluated], dense: Sequence[float], reference: Sequence[float]) -> Floats:
    """Hypervolume after each evaluation, the dense model being known from the start.

    Returns:
        Evaluations spent, hypervolume.  # (1 + n, 2)
    """
    points = np.array([dense], dtype=np.float64)
    rows = [(0.0, volume(points, reference))]
    for item in evaluated:
        if item.error is not None:
            together = np.concatenate([points, [(item.error, item.latency_us)]])
            points = together[non_dominated(together)]
        rows.append((item.spent, volume(points, reference)))
    return np.array(rows)

"""From a task's metric to losses that can race, and back: which metrics can, and one candidate's race."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoprune.graph.policy import SparsityPolicy
from autoprune.search.racing import CountRace, Kind, Rules

if TYPE_CHECKING:
    from torch import nn

    from autoprune.tuning.reading import Samples
    from autoprune.tuning.task import Task

CLOSE = 1e-5  # relative: what float32 sums in another order differ by


@dataclass(frozen=True)
class Raced:
    """How a race ended.

    Attributes:
        metric: the quality metric over the samples looked at.
        samples: how many; all of them where the candidate held on.
    """

    metric: float
    samples: int


def order_of(policy: Mapping[str, int], seed: int, total: int) -> torch.Tensor:
    """The order in which a policy's samples are looked at: drawn for each policy, the same wherever it is judged.

    (total,) int64
    """
    name = int(SparsityPolicy(policy).id, 16)
    return torch.from_numpy(np.random.default_rng([seed, name]).permutation(total))


def run_race(
    rules: Rules, task: Task, model: nn.Module, samples: Samples, order: torch.Tensor, rival: float
) -> Raced | None:
    """Judge a model by its task's quality metric, part by part; stop when it has lost.

    Args:
        rules: that `find_rules` found.
        task: tells the metric.
        model: the candidate.
        samples: of the validation split.
        order: in which they are looked at.
        rival: quality objective that it must not be worse than.

    Returns:
        None where a part's value is not what the rules expect: then only the whole split can tell.
    """
    race = rules.race(rival if _is_loss(task) or task.judges_classes else 1.0 + rival)
    if not race.parts:
        return None
    found: list[tuple[float, int]] = []
    seen = 0
    for size in (*race.parts, rules.total - sum(race.parts)):
        loss = _loss(task, model, samples.at(order[seen : seen + size]))
        if not _fits(rules.kind, loss, size):
            return None
        found.append((loss, size))
        seen += size
        if seen < rules.total and race.lost(max(0.0, loss), size):
            break
    return Raced(_metric(rules.kind, task, found), seen)


def find_rules(
    task: Task, model: nn.Module, samples: Samples, batches: Sequence[Any], order: torch.Tensor
) -> Rules | str | None:
    """How candidates can race by a task's quality metric: tried on one model, in parts and whole.

    Args:
        task: tells the metric.
        model: not the dense one: where that is right everywhere, parts prove nothing.
        samples: of the validation split.
        batches: the same as they were given.
        order: of the samples.

    Returns:
        The rules; why there are none; or None where this model does not tell, since all parts look alike.
    """
    name, total = task.metric, len(samples)
    parts = CountRace(total, 0.0).parts
    if not parts:
        return f"the validation split has only {total} samples"
    sizes = (*parts, total - sum(parts))
    ends = np.cumsum(sizes)
    losses = [_loss(task, model, samples.at(order[end - size : end])) for end, size in zip(ends, sizes, strict=True)]
    whole = task.judge(model, batches, [name])[name]
    if not all(map(math.isfinite, (whole, *losses))):
        return None
    if min(losses) < 0.0:
        return f"expected '{name}' to be a share from 0 to 1, or a loss >= 0 named in minimize"
    kind: Kind = "counts" if all(_fits("counts", x, size) for x, size in zip(losses, sizes, strict=True)) else "means"
    mean = _metric(kind, task, list(zip(losses, sizes, strict=True)))
    if abs(mean - whole) > CLOSE * max(abs(whole), 1e-3) + (1.5 / total if kind == "counts" else 0.0):
        return f"'{name}' of the whole split ({whole:.6g}) is not the mean of its parts' ({mean:.6g})"
    return None if max(losses) == min(losses) else Rules(kind, total)


def _is_loss(task: Task) -> bool:
    return task.metric in task.minimize


def _loss(task: Task, model: nn.Module, batches: Any) -> float:
    """The quality metric as a loss: itself where less is better, else what a share lacks to 1."""
    value = task.judge(model, batches, [task.metric])[task.metric]
    return value if _is_loss(task) else 1.0 - value


def _fits(kind: Kind, loss: float, samples: int) -> bool:
    """Whether a part's mean loss is of the kind that is expected."""
    if not math.isfinite(loss) or loss < -1e-9:
        return False
    errors = loss * samples
    return kind == "means" or (loss <= 1.0 + 1e-9 and abs(errors - round(errors)) <= min(0.1, 1e-6 * samples))


def _metric(kind: Kind, task: Task, parts: Sequence[tuple[float, int]]) -> float:
    """The metric over parts together; of counts, the very number that the whole would give."""
    seen = sum(size for _, size in parts)
    if kind == "counts":
        errors = sum(round(loss * size) for loss, size in parts)
        return (errors if _is_loss(task) else seen - errors) / seen
    loss = math.fsum(loss * size for loss, size in parts) / seen
    return loss if _is_loss(task) else 1.0 - loss

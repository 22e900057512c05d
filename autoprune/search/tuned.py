"""Fine-tuning a candidate as a job: built, trained and judged on a worker, its tensors given back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from autoprune.core.errors import Failure
from autoprune.search.evaluation import threads_of_torch
from autoprune.tuning.custom import Trainer, finetune_by
from autoprune.tuning.finetune import finetune
from autoprune.tuning.settings import FinetuneSettings

if TYPE_CHECKING:
    from autoprune.graph.policy import SparsityPolicy
    from autoprune.search.evaluation import Evaluator


@dataclass(frozen=True, eq=False)
class Tuned:
    """A candidate after fine-tuning.

    Attributes:
        policy: its widths.
        state: the parameters and buffers of its program by name, on the CPU.
        metrics: the task's metrics on the validation split.
        before: the same before fine-tuning.
        losses: mean training loss of each epoch; none of a user's own training.
        seconds: building and training together.
    """

    policy: SparsityPolicy
    state: dict[str, torch.Tensor]
    metrics: dict[str, float]
    before: dict[str, float]
    losses: tuple[float, ...]
    seconds: float


def tune(
    evaluator: Evaluator,
    policy: SparsityPolicy,
    settings: FinetuneSettings,
    checkpoint: str | None = None,
    start: dict[str, torch.Tensor] | None = None,
    trainer: Trainer | None = None,
) -> Tuned | Failure:
    """Build a policy's model on a worker, fine-tune it with the dense model as teacher, and judge it.

    Args:
        evaluator: the worker's own; its pruner builds the model, its task trains and judges it.
        policy: which model.
        settings: how to train; no epochs: only judged.
        checkpoint: a file to go on from, written after each epoch; not of a user's own training, which starts over.
        start: the tensors to train on from; those that pruning gives where None.
        trainer: a user's own training.
    """
    began = time.perf_counter()
    graph, task = evaluator.pruner.graph, evaluator.task
    with threads_of_torch(evaluator.threads):
        model = evaluator.pruner.build(policy) if start is None else graph.rebuild(policy, start).clone_tensors()
        teacher = graph.module() if settings.distill and settings.epochs else None
        if trainer is not None and settings.epochs:
            result = finetune_by(trainer, model, task, settings, teacher)
        else:
            result = finetune(
                model, task, settings, teacher=teacher, checkpoint=Path(checkpoint) if checkpoint else None
            )
    if isinstance(result, Failure):
        return result
    losses = tuple(epoch.loss for epoch in result.history if epoch.loss is not None)
    named = dict(model.named_parameters()) | dict(model.named_buffers())  # those that a state dict leaves out too
    wanted = (*model.program.parameters, *model.program.buffers)
    state = {name: named[name].detach().cpu().clone() for name in wanted if name in named}
    return Tuned(policy, state, result.metrics, result.history[0].metrics, losses, time.perf_counter() - began)

"""Calibration batches: the inputs that pruning looks at, and, where they have labels, the loss on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from autoprune.core.errors import InputError
from autoprune.tuning.batches import batch_size, tensors_of, to_device
from autoprune.tuning.randomness import seeded

if TYPE_CHECKING:
    from autoprune.tuning.task import Task

EXAMPLES = 1024  # that are enough
BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class BatchLoss:
    """The task's loss on calibration batches by their position.

    Attributes:
        loss: from outputs and a batch to a scalar.
        batches: with labels.
    """

    loss: Callable[[Any, Any], torch.Tensor]
    batches: tuple[Any, ...]

    def __call__(self, outputs: Any, position: int) -> torch.Tensor:
        device = next((tensor.device for tensor in tensors_of(outputs).values()), torch.device("cpu"))
        return self.loss(outputs, to_device(self.batches[position], device))


@dataclass(frozen=True, eq=False)
class Calibration:
    """What pruning looks at.

    Attributes:
        inputs: the model's inputs, a tuple of tensors a batch.
        loss: the mean loss on a batch; None where the task has none, or its calibration split may have no labels.
    """

    inputs: list[tuple[torch.Tensor, ...]]
    loss: BatchLoss | None


def read_calibration(task: Task, n: int | None, seed: int) -> Calibration:
    """The first calibration batches; see `Task.calibration_batches`."""
    loader = task.loader("calibration")
    inputs: list[tuple[torch.Tensor, ...]] = []
    whole: list[Any] = []
    labelled = task.calibration is None and task.loss is not None
    examples = size = 0
    with seeded(seed, loader):
        for batch in islice(loader, n):
            found = task.inputs_of(batch)
            inputs.append(tuple(found.values()) if isinstance(found, dict) else found)
            if labelled:
                whole.append(batch)
            examples += batch_size(found)
            size += sum(tensor.numel() * tensor.element_size() for tensor in inputs[-1])
            if n is None and (examples >= EXAMPLES or size >= BYTES):
                break
    if not inputs:
        raise InputError("task: the calibration loader gave no batches.")
    return Calibration(inputs, BatchLoss(task.loss, tuple(whole)) if labelled and task.loss is not None else None)

"""The built-in loss and metrics: plain functions, so that a task can be sent to another process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from autoprune.core.errors import InputError
from autoprune.tuning.batches import Inputs, as_inputs, batch_size, call, default_inputs, labels, main_output


def cross_entropy(outputs: Any, batch: Any) -> torch.Tensor:
    """Mean cross-entropy of logits (n, classes, ...) against the batch's labels (n, ...)."""
    return functional.cross_entropy(main_output(outputs), labels(batch))


@dataclass(frozen=True)
class Accuracy:
    """The share of labels whose class has the highest logit.

    Attributes:
        inputs: from a batch to the model's inputs.
    """

    inputs: Callable[[Any], Any] = default_inputs

    def __call__(self, model: nn.Module, batches: Iterable[Any]) -> float:
        right = total = 0
        for batch in batches:
            logits, wanted = main_output(call(model, as_inputs(self.inputs(batch)))), labels(batch)
            if wanted.shape == logits.shape and wanted.is_floating_point():
                wanted = wanted.argmax(dim=1)  # soft or one-hot labels
            found = logits.argmax(dim=1)
            if found.shape != wanted.shape:
                raise InputError(
                    f"accuracy: expected labels {tuple(found.shape)} for logits {tuple(logits.shape)}, "
                    f"got {tuple(wanted.shape)}."
                )
            right += int((found == wanted).sum())
            total += wanted.numel()
        return right / total if total else float("nan")


@dataclass(frozen=True)
class MeanLoss:
    """The mean of a loss over batches, each weighted by its examples.

    Attributes:
        loss: from outputs and a batch to a scalar.
        inputs: from a batch to the model's inputs.
    """

    loss: Callable[[Any, Any], torch.Tensor]
    inputs: Callable[[Any], Any] = default_inputs

    def __call__(self, model: nn.Module, batches: Iterable[Any]) -> float:
        total, examples = 0.0, 0
        for batch in batches:
            arguments: Inputs = as_inputs(self.inputs(batch))
            count = batch_size(arguments)
            total += float(self.loss(call(model, arguments), batch)) * count
            examples += count
        return total / examples if examples else float("nan")

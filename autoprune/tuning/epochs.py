"""The epochs of a training, and the numbers that a checkpoint keeps of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from autoprune.tuning.checkpoint import BrokenCheckpointError


@dataclass(frozen=True)
class Epoch:
    """One epoch: number 0 is the model as it came.

    Attributes:
        number: from 0.
        loss: the mean training loss, distillation included; None for epoch 0.
        metrics: on the validation split; empty where not evaluated.
        seconds: wall-clock time of training and evaluating.
    """

    number: int
    loss: float | None
    metrics: dict[str, float]
    seconds: float


def as_tensors(history: Sequence[Epoch], best: int, epochs: int) -> dict[str, torch.Tensor]:
    """Epochs as tensors whose shapes follow from `epochs` alone.

    Args:
        history: every epoch so far.
        best: number of the best one.
        epochs: how many there will be.

    Returns:
        The numbers of the last and the best epoch; losses, seconds and each metric by epoch, NaN for those to come.
            # (2,) and (epochs + 1,)
    """
    to_come = [math.nan] * (epochs + 1 - len(history))

    def numbers(values: Iterable[float]) -> torch.Tensor:
        return torch.tensor([*values, *to_come], dtype=torch.float64)

    return {
        "places": torch.tensor([history[-1].number, best]),
        "losses": numbers(math.nan if epoch.loss is None else epoch.loss for epoch in history),
        "seconds": numbers(epoch.seconds for epoch in history),
        **{f"metric.{name}": numbers(epoch.metrics[name] for epoch in history) for name in history[0].metrics},
    }


def from_tensors(found: Mapping[str, torch.Tensor], judged: Iterable[str]) -> tuple[tuple[Epoch, ...], int]:
    """The inverse of `as_tensors`: every epoch so far, and the number of the best one.

    Args:
        found: tensors of the shapes that `as_tensors` gives.
        judged: names of the metrics.

    Raises:
        BrokenCheckpointError: numbers that no training gives.
    """
    last, best = (int(place) for place in found["places"])
    losses, seconds = found["losses"].tolist(), found["seconds"].tolist()
    sound = 1 <= last < len(losses) and 0 <= best <= last and all(map(math.isfinite, losses[1 : last + 1]))
    if not sound or not all(0 <= spent < math.inf for spent in seconds[: last + 1]):
        raise BrokenCheckpointError("its epochs do not fit together")
    metrics = {name: found[f"metric.{name}"].tolist() for name in judged}
    history = (
        Epoch(
            number,
            losses[number] if number else None,
            {name: values[number] for name, values in metrics.items()},
            seconds[number],
        )
        for number in range(last + 1)
    )
    return tuple(history), best

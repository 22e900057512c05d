"""Batch-norm statistics re-estimated on calibration data: what pruning shifts most and what costs least to mend.

A few calibration samples say little of a mean, but much of how pruning moves it: the dense model sees the same samples,
and what they have peculiar it has too. So statistics are the dense model's own, moved by as much as those on the
calibration data move from the dense to the pruned model (a control variate; Glasserman 2003, section 4.1). A dense
policy leaves the model as it is, bit for bit, whatever the data; with much data the two ways are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.errors import InputError
from autoprune.pruning.gram import run


@dataclass(frozen=True, eq=False)
class Anchor:
    """Statistics of a batch norm in the dense model.

    Attributes:
        mean, variance: its running ones.  # (channels,)
        seen_mean, seen_variance: what the calibration batches give it.  # (channels,)
    """

    mean: Tensor
    variance: Tensor
    seen_mean: Tensor
    seen_variance: Tensor

    def take(self, channels: Tensor) -> Anchor:
        """Of some channels."""
        return Anchor(
            self.mean[channels], self.variance[channels], self.seen_mean[channels], self.seen_variance[channels]
        )

    def moved(self, mean: Tensor, variance: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """The running statistics of a pruned model whose calibration batches give these."""
        ratio = (variance + epsilon) / (self.seen_variance + epsilon)
        return self.mean + (mean - self.seen_mean), self.variance * ratio


def anchors(dense: nn.Module, calibration: Sequence[Any]) -> dict[str, Anchor]:
    """Those of all batch norms with running statistics, by module name; `dense` is re-estimated.

    Raises:
        InputError: as `recalibrate`.
    """
    own = {name: _statistics(norm) for name, norm in _named(dense)}
    recalibrate(dense, calibration)
    return {name: Anchor(*own[name], *_statistics(norm)) for name, norm in _named(dense)}


def recalibrate(module: nn.Module, calibration: Sequence[Any], anchored: Mapping[str, Anchor] | None = None) -> None:
    """Re-estimate running means and variances on the calibration batches, in place.

    Every batch counts the same (cumulative average). Only batch norms are in train mode meanwhile, so dropout stays
    off; each module's mode and each batch norm's momentum are as before when this returns or raises.

    Args:
        module: whose batch norms.
        calibration: batches of inputs.
        anchored: the dense model's statistics by module name, of the channels that are left, as seen on the same
            batches; batch norms that are not named take the averages as they are.

    Raises:
        InputError: a batch with one value a channel, of which there is no variance.
    """
    named = _named(module)
    norms = [norm for _, norm in named]
    if not norms or not calibration:
        return
    modes = [(m, m.training) for m in module.modules()]
    momenta = [(norm, norm.momentum) for norm in norms]
    try:
        module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for item in calibration:
                run(module, item)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "calibration: expected batches of at least 2 samples (batch norm needs a variance), got a batch with one "
            "value a channel. Pass larger batches."
        ) from error
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
        for m, mode in modes:
            m.training = mode
    for name, norm in named:
        if anchored is not None and name in anchored:
            mean, variance = anchored[name].moved(*_statistics(norm), norm.eps)
            norm.running_mean, norm.running_var = mean, variance


def running_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms with running statistics."""
    return [norm for _, norm in _named(module)]


def _named(module: nn.Module) -> list[tuple[str, _BatchNorm]]:
    found = ((name, m) for name, m in module.named_modules() if isinstance(m, _BatchNorm))
    return [(name, norm) for name, norm in found if norm.running_mean is not None]


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Its running mean and variance, copied."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.clone(), norm.running_var.clone()

"""Batch-norm statistics re-estimated on calibration data: what pruning shifts most and what costs least to mend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.errors import InputError
from autoprune.pruning.gram import run


def recalibrate(module: nn.Module, calibration: Sequence[Any]) -> None:
    """Replace running means and variances by their averages over the calibration batches, in place.

    Every batch counts the same (cumulative average). Only batch norms are in train mode meanwhile, so dropout stays
    off; each module's mode and each batch norm's momentum are as before when this returns or raises.

    Raises:
        InputError: a batch with one value a channel, of which there is no variance.
    """
    norms = running_norms(module)
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


def running_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms with running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]

"""The model and the task that `config.yaml` names: any module of yours with two such functions will do."""

from __future__ import annotations

from torch import nn

import autoprune as ap
from autoprune import demo


def model() -> nn.Module:
    """A trained model. Yours would load its weights here; this one takes some seconds to train."""
    return demo.model()


def task() -> ap.Task:
    """Data to train on, to choose by and to report, with accuracy as metric."""
    return demo.task()

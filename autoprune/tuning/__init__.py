"""Tuning: the user's data and metrics as a `Task`, and fine-tuning with distillation.

- `Task`, `TaskCheck`: data, loss and metrics; `Task.classification` for the common case.
- `FinetuneSettings`, `finetune`, `FinetuneResult`, `Epoch`: a few epochs that never leave a model worse on validation.
"""

from autoprune.tuning.epochs import Epoch
from autoprune.tuning.finetune import FinetuneResult, finetune
from autoprune.tuning.settings import FinetuneSettings
from autoprune.tuning.task import Task, TaskCheck

__all__ = ["Epoch", "FinetuneResult", "FinetuneSettings", "Task", "TaskCheck", "finetune"]

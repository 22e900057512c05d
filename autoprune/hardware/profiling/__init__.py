"""Profiling: a model's kernels timed over their widths, and whole pruned models that correct their sum.

`settings` says how, `target` for which models, `kernels` and `models` do the timing, `journal` keeps what is done so
that a profile that was cut off is gone on with, `rows` makes the table and `run` puts it all together.
"""

from __future__ import annotations

from autoprune.hardware.profiling.rows import kernel_work
from autoprune.hardware.profiling.run import default_name, profile_graph, profile_graphs
from autoprune.hardware.profiling.settings import BUDGET_S, WHOLE_MODELS, ProfileSettings

__all__ = [
    "profile_graph", "profile_graphs", "ProfileSettings", "WHOLE_MODELS", "BUDGET_S",
    "default_name", "kernel_work",
]  # fmt: skip

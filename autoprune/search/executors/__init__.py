"""Where jobs run: in this process, in worker processes, or on a Ray cluster. Results do not depend on it.

| kind | module | workers |
|---|---|---|
| `local`, one worker without limits | `local.py` | this process |
| `local`, otherwise | `local.py`, `worker.py` | processes, spawned; a dead one is replaced |
| `ray` | `ray.py` | actors; the object store holds the context once |

Other packages add kinds under the entry-point group `autoprune.executors`.
"""

from __future__ import annotations

from typing import Any

from autoprune.search.executors.executor import EXECUTORS, Executor, ExecutorFactory, ExecutorSettings, Job

__all__ = ["EXECUTORS", "Executor", "ExecutorFactory", "ExecutorSettings", "Job", "open_executor"]


def open_executor(context: Any, settings: ExecutorSettings | None = None) -> Executor:
    """An executor whose workers each hold a copy of `context`.

    Args:
        context: what jobs run on (an `Evaluator`); picklable, unless jobs run in this process.
        settings: where; in this process when not given.

    Raises:
        InputError: an unknown kind, or a context that cannot be pickled.
    """
    chosen = settings or ExecutorSettings()
    return EXECUTORS.get(chosen.kind)(context, chosen)

"""Autoprune: a trained model in, a Pareto front of pruned, fine-tuned, deployable models out.

- `trace`, `inspect`: what of a model can be pruned, what cannot, and why.
- `SparsityPolicy`, `prune`: one policy, and the smaller model it makes.
- `load_profile`, `profile_device`, `predict_cost`: what a policy costs on given hardware.
- `Task`, `search`: data and metrics, and the search over policies for them.
- `load_front`, `Front`, `Member`: the models that came out.

Names are imported when first used: `import autoprune` itself loads neither torch nor ray nor optuna.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# The room `search/` is loaded first, so that the function of that name can stand in its place.
import autoprune.search  # noqa: F401

if TYPE_CHECKING:
    from autoprune.api import (
        Front,
        Member,
        SparsityPolicy,
        Task,
        inspect,
        load_front,
        load_profile,
        predict_cost,
        profile_device,
        prune,
        search,
        trace,
    )

else:
    del search

__version__ = "0.1.0"

__all__ = [
    "trace",
    "inspect",
    "SparsityPolicy",
    "prune",
    "load_profile",
    "profile_device",
    "predict_cost",
    "Task",
    "search",
    "load_front",
    "Front",
    "Member",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        value = getattr(importlib.import_module("autoprune.api"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'autoprune' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

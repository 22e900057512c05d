"""From a config to a running search: the user's callables imported, their results handed to `autoprune.search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.callables import import_reference, load_model, load_task

if TYPE_CHECKING:
    from autoprune.artifacts.front import Front
    from autoprune.config import Config


def search_with(config: Config, folder: Path, progress: Any = None) -> Front:
    """Run the search that `config` describes; `folder` is where it lies."""
    from autoprune import api

    _check_names(config)
    return api.search(
        load_model(config.model, folder),
        load_task(config.task, folder),
        profiles=list(config.profiles),
        space=config.space,
        objectives=list(config.objectives),
        constraints=list(config.constraints),
        criterion=config.criterion,
        sampler=config.search.sampler,
        trials=config.search.trials,
        time_budget_s=config.search.time_budget_s,
        plateau=config.search.plateau,
        overlap=config.search.overlap,
        batch=config.search.batch,
        damage_points=config.search.damage_points,
        seed=config.search.seed,
        racing=config.search.racing,
        precision=config.search.precision,
        storage=config.search.storage,
        finetune=_training(config, folder),
        executor=config.executor.model_dump(),
        run=config.run or "runs/search",
        progress=progress,
    )


def _training(config: Config, folder: Path) -> dict[str, Any]:
    """What the config says of fine-tuning, a user's own function imported."""
    found = config.finetune.model_dump()
    if config.finetune.function is not None:
        found["function"] = import_reference(config.finetune.function, "finetune", folder)
    return found


def _check_names(config: Config) -> None:
    """Look every name up before the user's code runs: loading a model may take minutes."""
    from autoprune.hardware.profile import load_profile
    from autoprune.pruning.criteria import criteria
    from autoprune.search.executors import EXECUTORS
    from autoprune.search.samplers import SAMPLERS

    for profile in config.profiles:
        load_profile(profile)
    criteria.get(config.criterion)
    SAMPLERS.get(config.search.sampler)
    EXECUTORS.get(config.executor.kind)

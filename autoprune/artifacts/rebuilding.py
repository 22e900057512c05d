"""A member once more, from the dense model and its recipe."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autoprune.artifacts.bundle import source_hashes
from autoprune.artifacts.records import Recipe
from autoprune.core.errors import InputError
from autoprune.graph.graph import DependencyGraph
from autoprune.graph.module import TracedModule
from autoprune.pruning import Pruner


def rebuild(
    graph: DependencyGraph, recipe: Recipe, calibration: Sequence[tuple[torch.Tensor, ...]] = ()
) -> TracedModule:
    """Build a member again from the dense model and its recipe, as it was before fine-tuning.

    Args:
        graph: the traced dense model that the recipe was made from.
        recipe: of the member.
        calibration: the same inputs as then, where the criterion, compensation or batch norms need them.

    Raises:
        InputError: another dense model, or units other than the recipe's (another calibration set).
    """
    for what, value in source_hashes(graph).items():
        if recipe.source.get(what, value) != value:
            raise InputError(
                f"recipe of '{recipe.member}': expected {what} {recipe.source[what]}, got {value}: another model."
            )
    pruner = Pruner(
        graph,
        recipe.criterion,
        calibration,
        compensate=recipe.compensate,
        recalibrate=recipe.recalibrate,
        seed=recipe.seed,
    )
    for group, units in recipe.kept.items():
        if tuple(int(unit) for unit in pruner.orders[group].kept(recipe.policy[group])) != units:
            raise InputError(
                f"recipe of '{recipe.member}': expected its units in '{group}', got others. "
                "Give the calibration inputs it was made with."
            )
    return pruner.build(recipe.policy)

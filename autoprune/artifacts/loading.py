"""Reading a member: `program.json`, `policy.json` and `weights.safetensors`, each checked against the others."""

from __future__ import annotations

from pathlib import Path

import torch

from autoprune.artifacts.layout import INPUTS, MEMBERS, RECIPE, WEIGHTS, member_folder
from autoprune.artifacts.program_file import read_program
from autoprune.artifacts.records import Recipe
from autoprune.artifacts.weights import expected_shapes, read_any_tensors, read_tensors
from autoprune.core.errors import InputError, shortened, unknown_name
from autoprune.graph.module import TracedModule
from autoprune.graph.program import Program

_MAX_INPUT_BYTES = 256 * 1024 * 1024


def load_module(run: str | Path, name: str) -> TracedModule:
    """A member of a run as a module in eval mode, from its recipe and weights and the run's program.

    Raises:
        InputError: no such member, or files that do not fit each other; the message names file and key.
    """
    folder = member_folder(Path(run), name)
    if not folder.is_dir():
        raise unknown_name("member", name, member_names(Path(run)))
    program, identity = read_program(Path(run))
    recipe = Recipe.read(folder / RECIPE)
    _check_recipe(folder / RECIPE, recipe, name, program, identity)
    try:
        tensors = read_tensors(folder / WEIGHTS, expected_shapes(program, recipe.policy))
        module = TracedModule.from_sliced(program, recipe.policy, tensors)
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        RuntimeError,
        RecursionError,
        ArithmeticError,
        MemoryError,
    ) as error:
        told = shortened(f"{type(error).__name__}: {error}", 200)
        raise InputError(f"member {folder}: the program does not fit together: {told}.") from error
    return module.eval()


def member_names(run: Path) -> tuple[str, ...]:
    """Names of the members that have a folder in a run, sorted."""
    folder = run / MEMBERS
    if not folder.is_dir():
        return ()
    return tuple(sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")))


def _check_recipe(path: Path, recipe: Recipe, name: str, program: Program, identity: str) -> None:
    if recipe.member != name:
        raise InputError(f"recipe {path}: expected member '{name}', got '{shortened(recipe.member)}'.")
    if recipe.source.get("program", identity) != identity:
        raise InputError(
            f"recipe {path}: expected a member of this run's program ({identity}), got one of another "
            f"('{shortened(recipe.source['program'], 16)}')."
        )
    sizes = program.group_sizes
    if recipe.policy.keys() != sizes.keys():
        odd = sorted(recipe.policy.keys() ^ sizes.keys())[0]
        told = shortened(odd)
        raise InputError(f"recipe {path}: policy: expected exactly the groups of the program, '{told}' differs.")
    for group, width in recipe.policy.items():
        if not 0 <= width <= sizes[group]:
            told = f"{sizes[group]} units for '{shortened(group)}'"
            raise InputError(f"recipe {path}: policy: expected 0 to {told}, got {width}.")
    for group, units in recipe.kept.items():
        if group not in sizes:
            raise unknown_name(f"group in {path}: kept:", group, sizes)
        if len(units) != recipe.policy[group] or list(units) != sorted({unit for unit in units if unit < sizes[group]}):
            raise InputError(
                f"recipe {path}: kept: expected {recipe.policy[group]} ascending unit numbers below {sizes[group]} "
                f"for '{shortened(group)}', got {len(units)} that are not."
            )


def read_inputs(run: Path, program: Program) -> tuple[torch.Tensor, ...]:
    """The example inputs of a run, in the order of `program.inputs`.

    Raises:
        InputError: unreadable, or not as many as the program has inputs, or of other shapes.
    """
    path = run / INPUTS
    found = read_any_tensors(path, _MAX_INPUT_BYTES)
    if len(found) != len(program.inputs):
        raise InputError(f"inputs {path}: expected {len(program.inputs)} tensors, got {len(found)}.")
    tensors = tuple(found[name] for name in sorted(found))
    for name, tensor in zip(program.inputs, tensors, strict=True):
        rank = len(program.values[name].dimensions)
        if tensor.ndim != rank or not tensor.numel():
            raise InputError(f"inputs {path}: expected '{name}' of {rank} dimensions, got {tuple(tensor.shape)}.")
    return tensors

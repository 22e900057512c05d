"""`program.json`: the traced program of a run, read without ever importing what the file names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autoprune.artifacts.layout import PROGRAM, PROGRAM_SCHEMA
from autoprune.core.errors import InputError
from autoprune.core.files import canonical_json, digest, read_json, write_json
from autoprune.graph.dimension import Concatenation, Dimension, Product, Width
from autoprune.graph.program import Program
from autoprune.graph.serialize import program_from_data, program_to_data

# torch's reader of these trees imports modules that a tree names (enum members, factories of defaultdicts). Plain
# containers name none, so only they are let through.
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", "collections.deque"}
_MAX_DEPTH = 32


def program_hash(program: Program) -> str:
    """16 hex digits that identify a program, sizes over groups included."""
    return digest(canonical_json(program_to_data(program)))


def write_program(run: Path, program: Program) -> None:
    """Write `program.json` of a run.

    Raises:
        InputError: the folder cannot be written.
    """
    write_json(run / PROGRAM, program_to_data(program))


def read_program(run: Path) -> tuple[Program, str]:
    """The program of a run, and its hash.

    Raises:
        InputError: unreadable, of another schema, or not what `write_program` writes.
    """
    path = run / PROGRAM
    data = read_json(path, "program", PROGRAM_SCHEMA)
    try:
        _check_tree(json.loads(data["output_tree"])[1])
        program = program_from_data(data)
        _check_groups(program)
        return program, digest(canonical_json(data))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(
            f"program {path}: expected a program as `autoprune search` writes it, got {type(error).__name__}: {error}."
        ) from error


def group_sizes(program: Program) -> dict[str, int]:
    """Group id -> units in the dense model, in program order."""
    sizes: dict[str, int] = {}
    for value in program.values.values():
        for dimension in value.dimensions:
            _collect(dimension, sizes)
    return sizes


def _collect(dimension: Dimension, sizes: dict[str, int]) -> None:
    match dimension:
        case Width(group, dense):
            sizes.setdefault(group, dense)
        case Product(children) | Concatenation(children):
            for child in children:
                _collect(child, sizes)


def _check_groups(program: Program) -> None:
    sizes = group_sizes(program)
    for value in program.values.values():
        for dimension in value.dimensions:
            seen: dict[str, int] = {}
            _collect(dimension, seen)
            for group, dense in seen.items():
                if dense < 1 or dense != sizes[group]:
                    raise ValueError(f"group '{group}' of {sizes[group]} units has {dense} in '{value.name}'")


def _check_tree(tree: Any, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("outputs nested too deeply")
    if tree["type"] not in _CONTAINERS:
        raise ValueError(f"outputs nest in {tree['type']!r}, expected tuples, lists and dicts")
    if "__enum__" in str(tree["context"]):
        raise ValueError("outputs are keyed by enum members, expected texts")
    for child in tree["children_spec"]:
        _check_tree(child, depth + 1)

"""`program.json`: the traced program of a run, read without ever importing what the file names."""

from __future__ import annotations

from pathlib import Path

from autoprune.artifacts.layout import PROGRAM, PROGRAM_SCHEMA
from autoprune.core.errors import InputError, shortened
from autoprune.core.files import canonical_json, digest, read_json, write_json
from autoprune.graph.dimension import group_sizes
from autoprune.graph.program import Program
from autoprune.graph.serialize import program_from_data, program_to_data


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
        program = program_from_data(data)
        _check_groups(program)
        return program, digest(canonical_json(data))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, RuntimeError) as error:
        told = shortened(f"{type(error).__name__}: {error}", 200)
        raise InputError(f"program {path}: expected a program as `autoprune search` writes it, got {told}.") from error


def _check_groups(program: Program) -> None:
    sizes = program.group_sizes
    for value in program.values.values():
        for dimension in value.dimensions:
            for group, dense in group_sizes(dimension):
                if dense < 1 or dense != sizes[group]:
                    raise ValueError(f"group '{group}' of {sizes[group]} units has {dense} in '{value.name}'")

"""Tensors in safetensors files: written atomically, read only where names, types and shapes are the ones expected."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from autoprune.core.errors import InputError, shortened
from autoprune.core.files import replacing

_CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "complex64": "C64",
}  # fmt: skip
_SHOWN = 3
MAX_HEADER_BYTES = 16 * 2**20
_DAMAGED = (SafetensorError, OSError, ValueError, OverflowError, TypeError, LookupError, AttributeError, RuntimeError)

Expected = Mapping[str, tuple[str, Sequence[int]]]  # name -> (dtype such as `float32`, shape)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, atomically. Tensors that share memory are written each in full.

    Args:
        path: the file.
        tensors: by name.
        notes: texts that stand in its header.

    Raises:
        InputError: the folder cannot be written.
    """
    own = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    data = save(own, dict(notes) if notes else None)
    with replacing(path) as file:
        file.write(data)


def read_notes(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file; none of its tensors is looked at.

    Raises:
        InputError: unreadable or truncated.
    """
    _check_header(path, "tensors")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return dict(file.metadata() or {})
    except _DAMAGED as error:
        raise _damaged("tensors", path, error) from error


def read_tensors(path: Path, expected: Expected) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, if they are exactly the expected ones.

    The header is compared before anything is read, so memory stays within what was expected.

    Args:
        path: the file.
        expected: name -> (dtype such as `float32`, shape).

    Raises:
        InputError: unreadable, truncated, or with a tensor missing, unexpected, or of another type or shape.
    """
    if not path.is_file():
        raise InputError(f"weights {path}: expected a file, got none.")
    _check_header(path, "weights")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            found = set(file.keys())
            _compare_names(path, found, set(expected))
            for name, (dtype, shape) in expected.items():
                part = file.get_slice(name)
                _compare(
                    path, name, (_CODES.get(dtype, dtype), tuple(shape)), (part.get_dtype(), tuple(part.get_shape()))
                )
            return {name: file.get_tensor(name) for name in expected}
    except _DAMAGED as error:
        raise _damaged("weights", path, error) from error


def read_any_tensors(path: Path, max_bytes: int) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file of at most `max_bytes`.

    Raises:
        InputError: unreadable, truncated or larger.
    """
    _check_header(path, "tensors", max_bytes)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except _DAMAGED as error:
        raise _damaged("tensors", path, error) from error


def _damaged(what: str, path: Path, error: Exception) -> InputError:
    told = shortened(str(error), 300)
    return InputError(f"{what} {path}: expected a whole safetensors file, got one that cannot be read ({told}).")


def _check_header(path: Path, what: str, max_bytes: int | None = None) -> None:
    """Refuse what is no plain file, too large, or begins with a header that no model of ours has."""
    try:
        told = path.stat()
        if not stat.S_ISREG(told.st_mode):
            raise InputError(f"{what} {path}: expected a file, got a folder, device or pipe.")
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {what} {path}: {getattr(error, 'strerror', None) or error}.") from error
    if max_bytes is not None and told.st_size > max_bytes:
        raise InputError(f"{what} {path}: expected at most {max_bytes} bytes, got {told.st_size}.")
    if header > min(MAX_HEADER_BYTES, told.st_size):
        got = f"one that cannot be read (a header of {header} bytes)"
        raise InputError(f"{what} {path}: expected a whole safetensors file, got {got}.")


def _compare_names(path: Path, found: set[str], expected: set[str]) -> None:
    for what, names in (("lacks", expected - found), ("has unexpected", found - expected)):
        if names:
            listed = ", ".join(f"'{shortened(name)}'" for name in sorted(names)[:_SHOWN])
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise InputError(f"weights {path}: {what} {listed}{more}; expected the tensors of the run's program.")


def _compare(path: Path, name: str, expected: tuple[str, tuple[int, ...]], found: tuple[str, tuple[int, ...]]) -> None:
    for what, wanted, got in (("type", expected[0], found[0]), ("shape", expected[1], found[1])):
        if wanted != got:
            raise InputError(f"weights {path}: expected '{name}' of {what} {wanted}, got {shortened(str(got), 300)}.")

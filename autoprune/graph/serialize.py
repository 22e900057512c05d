"""Programs as JSON data and back: how a pruned model is loaded without its code, and without unpickling."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from autoprune.core.errors import InputError, shortened
from autoprune.graph.dimension import from_data, to_data
from autoprune.graph.lift import LIFTED, module_path
from autoprune.graph.module import plain_spec
from autoprune.graph.program import Operation, Program, Ref, Size, Value
from autoprune.graph.run import resolve_target

SCHEMA = "autoprune.program/1"
_INTEGER_TARGETS = ("operator.add", "operator.sub", "operator.mul", "operator.floordiv", "operator.mod", "operator.neg")
_MAX_DEPTH = 32


def program_to_data(program: Program) -> dict[str, Any]:
    """The program as JSON data (schema `autoprune.program/1`)."""
    return {
        "schema": SCHEMA,
        "inputs": list(program.inputs),
        "outputs": list(program.outputs),
        "operations": [
            {
                "results": list(op.results),
                "target": op.target,
                "args": [_encode(arg) for arg in op.args],
                "kwargs": {name: _encode(value) for name, value in op.kwargs},
                "module": op.module,
            }
            for op in program.operations
        ],
        "values": {
            name: {"dimensions": [to_data(d) for d in value.dimensions], "dtype": value.dtype}
            for name, value in program.values.items()
        },
        "parameters": list(program.parameters),
        "buffers": list(program.buffers),
        "input_tree": program.input_tree,
        "output_tree": program.output_tree,
    }


def program_from_data(data: dict[str, Any]) -> Program:
    """The inverse of `program_to_data`, with every name, target and literal checked.

    Raises:
        InputError: anything that `program_to_data` would not have written.
    """
    if data.get("schema") != SCHEMA:
        raise InputError(f"program: expected schema '{SCHEMA}', got {shortened(repr(data.get('schema')))}.")
    try:
        program = Program(
            inputs=_names(data["inputs"]),
            outputs=tuple(None if name is None else _name(name) for name in data["outputs"]),
            operations=tuple(_operation(item) for item in data["operations"]),
            values={
                _name(name): Value(name, tuple(from_data(d) for d in item["dimensions"]), _name(item["dtype"]))
                for name, item in data["values"].items()
            },
            parameters=_names(data["parameters"]),
            buffers=_names(data["buffers"]),
            input_tree=_name(data["input_tree"]),
            output_tree=_name(data["output_tree"]),
        )
        if not isinstance(json.loads(program.input_tree)["kwargs"], list):
            raise ValueError("input_tree without kwargs")
        plain_spec(program.output_tree)
    except (
        LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError,
    ) as error:  # fmt: skip
        got = shortened(f"{type(error).__name__}: {error}", 200)
        raise InputError(f"program: expected a program as autoprune writes it, got {got}.") from error
    _check_order(program)
    return program


def _check_order(program: Program) -> None:
    known = {*program.inputs, *program.parameters, *program.buffers}
    missing = [name for name in known if name not in program.values]
    for operation in program.operations:
        missing += [name for name in operation.refs() if name not in known]
        known.update(operation.results)
    missing += [name for name in program.outputs if name is not None and name not in known]
    if missing:
        raise InputError(f"program: '{shortened(missing[0])}' is read before it is defined.")


def _operation(item: dict[str, Any]) -> Operation:
    target = _name(item["target"])
    args = tuple(_decode(arg) for arg in item["args"])
    kwargs = {_name(name): _decode(value) for name, value in item["kwargs"].items()}
    if target not in (*_INTEGER_TARGETS, "getitem"):
        overload = resolve_target(target)
        if overload._schema.is_mutable:  # type: ignore[attr-defined]
            raise ValueError(f"{target} changes its operands in place")
    results = _names(item["results"])
    module = item["module"]
    if module is not None:
        lifted = module_path(target, args, kwargs) if target in LIFTED else None
        if lifted != module and target != "aten.dropout.default":
            raise ValueError(f"{target} cannot be module {module!r}")
        module = _name(module)
    if not results:
        raise ValueError("operation without results")
    return Operation(results[0], target, args, tuple(kwargs.items()), module, results)


def _name(item: Any) -> str:
    if not isinstance(item, str):
        raise ValueError(f"expected a text, got {item!r}")
    return item


def _names(items: Any) -> tuple[str, ...]:
    return tuple(_name(item) for item in items)


def _encode(item: Any) -> Any:
    if isinstance(item, Ref):
        return {"ref": item.name}
    if isinstance(item, Size):
        return {"size": to_data(item.dimension)}
    if isinstance(item, tuple):
        return [_encode(part) for part in item]
    if isinstance(item, (torch.dtype, torch.memory_format)):
        return {type(item).__name__: str(item).removeprefix("torch.")}
    if isinstance(item, float) and not math.isfinite(item):
        return {"float": str(item)}
    if item is None or isinstance(item, (bool, int, float, str)):
        return item
    raise InputError(f"program: an argument of type {type(item).__name__} cannot be written to a file.")


def _decode(item: Any, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    match item:
        case None | bool() | int() | float() | str():
            return item
        case list():
            return tuple(_decode(part, depth + 1) for part in item)
        case {"ref": str() as name}:
            return Ref(name)
        case {"size": dimension}:
            return Size(from_data(dimension))
        case {"dtype": str() as name} | {"memory_format": str() as name}:
            found = getattr(torch, name)
            if not isinstance(found, (torch.dtype, torch.memory_format)):
                raise ValueError(f"{name} is not a dtype or memory format")
            return found
        case {"float": ("inf" | "-inf" | "nan") as text}:
            return float(text)
        case _:
            raise ValueError(f"not an argument: {item!r}")

"""The integers that a model's modules keep as attributes: found, tracked for one run, and set."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from autoprune.graph.native.tracked import Origin, Place, TrackedInt

_OWN = frozenset(vars(nn.Module()))  # what every nn.Module keeps for itself
# What a convolution does along its spatial dimensions; no policy changes it, and small numbers coincide often.
_SPATIAL = ("kernel_size", "stride", "padding", "dilation", "output_padding", "_reversed_padding_repeated_twice")
_DEPTH = 3  # a configuration inside a configuration, and a tuple in that

Change = Callable[[Place, int], int]


def integers(model: nn.Module) -> dict[Place, int]:
    """Every integer of at least two units that a module keeps: in attributes, tuples, lists and configurations."""
    found: dict[Place, int] = {}

    def note(place: Place, value: int) -> int:
        found[place] = value
        return value

    for path, module in model.named_modules():
        for name, value in _attributes(module):
            _changed(value, Place(path, (name,)), note)
    return found


@contextmanager
def tracked(model: nn.Module) -> Iterator[set[Origin]]:
    """While it lasts, every such integer is a `TrackedInt`, and every module has a configuration of its own.

    Yields the set that collects the origins of integers that became floats.
    """
    escapes: set[Origin] = set()
    before: list[tuple[nn.Module, str, Any]] = []
    try:
        for path, module in model.named_modules():
            for name, value in _attributes(module):
                replaced = _changed(value, Place(path, (name,)), partial(_tracked, escapes))
                if replaced is not value:
                    before.append((module, name, value))
                    module.__dict__[name] = replaced
        yield escapes
    finally:
        for module, name, value in before:
            module.__dict__[name] = value


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Attributes that a run sets, and dicts and lists that it fills (caches that depend on weights), are put back."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    filled = [(item, copy.copy(item)) for _, held in before for item in held.values() if type(item) in (dict, list)]
    try:
        yield
    finally:
        for module, attributes in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for item, contents in filled:  # in place: other modules may share them
            item.clear()
            item.update(contents) if isinstance(item, dict) else item.extend(contents)


def assign(model: nn.Module, values: Mapping[Place, int]) -> Callable[[], None]:
    """Set the integers; returns what undoes it.

    A configuration shared by several modules stays shared where all of them agree on a value; a module that needs
    another value than most gets a copy of its own.
    """
    undo: list[tuple[dict[str, Any], str, Any]] = []

    def put(target: dict[str, Any], name: str, value: Any) -> None:
        undo.append((target, name, target[name]))
        target[name] = value

    modules = dict(model.named_modules())
    shared = _shared_values(modules, values)
    for owner, name, value in shared.values():
        put(vars(owner), name, value)
    wanted: dict[tuple[str, str], set[Place]] = {}
    for place in values:
        wanted.setdefault((place.module, str(place.path[0])), set()).add(place)
    for (path, name), needed in wanted.items():
        holder = modules[path].__dict__
        changed = _changed(holder[name], Place(path, (name,)), partial(_assigned, values, needed))
        if changed is not holder[name]:
            put(holder, name, changed)

    def revert() -> None:
        for target, name, value in reversed(undo):
            target[name] = value

    return revert


def _tracked(escapes: set[Origin], place: Place, value: int) -> int:
    return TrackedInt(value, place, escapes)


def _assigned(values: Mapping[Place, int], needed: set[Place], place: Place, value: int) -> int:
    return values[place] if place in needed else value


def configurations(model: nn.Module) -> dict[Place, tuple[int, str]]:
    """Place of each integer that stands in an object -> that object's identity and the attribute."""
    modules = dict(model.named_modules())
    return {
        place: (id(owner), str(place.path[-1]))
        for place in integers(model)
        if len(place.path) > 1 and (owner := _owner(modules[place.module], place)) is not None
    }


def _shared_values(
    modules: Mapping[str, nn.Module], values: Mapping[Place, int]
) -> dict[tuple[int, str], tuple[Any, str, int]]:
    """(object, attribute) -> the value most modules need, where an object holds the attribute."""
    votes: dict[tuple[int, str], Counter[int]] = {}
    owners: dict[tuple[int, str], tuple[Any, str]] = {}
    for place, value in values.items():
        owner = _owner(modules[place.module], place)
        if owner is not None:
            name = str(place.path[-1])
            votes.setdefault((id(owner), name), Counter())[value] += 1
            owners[id(owner), name] = (owner, name)
    return {key: (*owners[key], votes[key].most_common(1)[0][0]) for key in votes}


def _owner(module: nn.Module, place: Place) -> Any:
    """The object (not a module, tuple or list) in which a place stands, or None."""
    owner: Any = None
    item: Any = module
    for part in place.path:
        owner, item = item, (vars(item)[part] if isinstance(part, str) else item[part])
    return owner if _is_configuration(owner) else None


def _attributes(module: nn.Module) -> list[tuple[str, Any]]:
    fixed = _SPATIAL if isinstance(module, nn.modules.conv._ConvNd) else ()
    return [(name, value) for name, value in vars(module).items() if name not in _OWN and name not in fixed]


def _changed(value: Any, place: Place, change: Change, depth: int = _DEPTH) -> Any:
    """The value with every integer in it changed; the same object where nothing did."""
    if isinstance(value, int):
        return change(place, value) if type(value) is int and value > 1 else value
    if depth == 0:
        return value
    if type(value) in (tuple, list, torch.Size):
        parts = [
            _changed(part, Place(place.module, (*place.path, i)), change, depth - 1) for i, part in enumerate(value)
        ]
        same = all(new is old for new, old in zip(parts, value, strict=True))
        return value if same else (list if type(value) is list else tuple)(parts)
    if not _is_configuration(value):
        return value
    items = {
        name: _changed(item, Place(place.module, (*place.path, name)), change, depth - 1)
        for name, item in vars(value).items()
    }
    if all(items[name] is item for name, item in vars(value).items()):
        return value
    copied = object.__new__(type(value))
    copied.__dict__.update(items)
    return copied


def _is_configuration(value: Any) -> bool:
    """An object of attributes, of a class that is neither torch's nor Python's own."""
    excluded = (nn.Module, torch.Tensor, type, FunctionType, ModuleType)
    if isinstance(value, excluded) or not hasattr(value, "__dict__") or callable(value):
        return False
    return type(value).__module__.partition(".")[0] not in ("torch", "builtins", "functools", "collections", "enum")

"""Integers that remember which attribute of which module they come from, through the arithmetic done on them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Place:
    """Where an integer stands in a module: `("num_heads",)`, `("normalized_shape", 0)`, `("config", "hidden_size")`."""

    module: str
    path: tuple[str | int, ...]

    def __str__(self) -> str:
        return ".".join(str(part) for part in (self.module, *self.path) if part != "")


Origin: TypeAlias = "int | Place | tuple[str, Origin, Origin]"

_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
}


class TrackedInt(int):
    """An int with its origin. Sums, products, quotients and remainders with ints stay tracked; all else is plain.

    Attributes:
        origin: where it comes from.
        escapes: takes the origin of every tracked integer that became a float, as a scale does.
    """

    origin: Origin
    escapes: set[Origin]

    def __new__(cls, value: int, origin: Origin | None = None, escapes: set[Origin] | None = None) -> TrackedInt:
        """`value`, known to come from `origin`."""
        made = super().__new__(cls, value)
        made.origin = int(value) if origin is None else origin
        made.escapes = set() if escapes is None else escapes
        return made

    def _escaped(self) -> int:
        self.escapes.add(self.origin)
        return int(self)

    def __float__(self) -> float:
        return float(self._escaped())

    def __truediv__(self, other: Any) -> Any:
        return self._escaped() / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self._escaped()

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        return pow(self._escaped(), other, modulo)

    def __rpow__(self, other: Any, modulo: Any = None) -> Any:
        return pow(other, self._escaped(), modulo)


def _origin(value: int) -> Origin:
    return value.origin if isinstance(value, TrackedInt) else int(value)


def _forward(name: str) -> Callable[[TrackedInt, Any], Any]:
    def method(self: TrackedInt, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        value = _OPERATORS[name](int(self), int(other))
        return TrackedInt(value, (name, self.origin, _origin(other)), self.escapes)

    return method


def _reflected(name: str) -> Callable[[TrackedInt, Any], Any]:
    def method(self: TrackedInt, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        value = _OPERATORS[name](int(other), int(self))
        return TrackedInt(value, (name, _origin(other), self.origin), self.escapes)

    return method


for _name in _OPERATORS:
    setattr(TrackedInt, f"__{_name}__", _forward(_name))
    setattr(TrackedInt, f"__r{_name}__", _reflected(_name))


def evaluate(origin: Origin, values: Mapping[Place, int]) -> int:
    """What an origin comes to when its places hold `values`.

    Raises:
        ZeroDivisionError: a place that is divided by holds 0.
    """
    if isinstance(origin, Place):
        return values[origin]
    if isinstance(origin, int):
        return origin
    name, first, second = origin
    return _OPERATORS[name](evaluate(first, values), evaluate(second, values))


def places(origin: Origin) -> Iterator[Place]:
    """All places an origin is made of, from left to right."""
    if isinstance(origin, Place):
        yield origin
    elif isinstance(origin, tuple):
        yield from places(origin[1])
        yield from places(origin[2])


def plain(item: Any) -> Any:
    """The same arguments with plain ints; slices, tuples, lists and dicts are looked into."""
    if isinstance(item, TrackedInt):
        return int(item)
    if isinstance(item, slice):
        return slice(plain(item.start), plain(item.stop), plain(item.step))
    if type(item) in (tuple, list):
        return type(item)(plain(part) for part in item)
    if type(item) is dict:
        return {key: plain(value) for key, value in item.items()}
    return item


def tracked_integers(item: Any, key: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], TrackedInt]]:
    """(index path, integer) of every tracked integer in call arguments."""
    if isinstance(item, TrackedInt):
        yield key, item
    elif isinstance(item, slice):
        for name in ("start", "stop", "step"):
            yield from tracked_integers(getattr(item, name), (*key, name))
    elif isinstance(item, (tuple, list)):
        for index, part in enumerate(item):
            yield from tracked_integers(part, (*key, index))
    elif type(item) is dict:
        for name, value in item.items():
            yield from tracked_integers(value, (*key, name))

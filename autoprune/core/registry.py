"""Lazy registries: one a kind of extension, filled by built-ins and by entry points `autoprune.<kind>`."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from autoprune.core.errors import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names -> objects, imported only when asked for.

    Args:
        kind: what is registered ("criterion"); used in messages.
        group: the entry-point group that other packages register under ("autoprune.criteria").
        built_in: name -> "package.module:attribute".
    """

    def __init__(self, kind: str, group: str, built_in: dict[str, str]) -> None:
        self._kind = kind
        self._group = group
        self._targets = dict(built_in)

    def names(self) -> tuple[str, ...]:
        """All known names, built in and installed, sorted."""
        installed = {point.name for point in entry_points(group=self._group)}
        return tuple(sorted(installed | self._targets.keys()))

    def get(self, name: str) -> T:
        """The object registered as `name`.

        Raises:
            InputError: the name is unknown; the message lists the known ones.
        """
        if name in self._targets:
            module, _, attribute = self._targets[name].partition(":")
            return cast(T, getattr(importlib.import_module(module), attribute))
        for point in entry_points(group=self._group):
            if point.name == name:
                return cast(T, point.load())
        raise unknown_name(self._kind, name, self.names())

"""What goes wrong, said once and clearly: what, expected, got, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class AutopruneError(Exception):
    """Work that failed while it ran; the command line exits with status 1."""

    exit_code = 1


class InputError(AutopruneError):
    """Wrong usage or input: one message that says what, expected, got and the next step; exit status 2."""

    exit_code = 2


@dataclass(frozen=True)
class Failure:
    """A failure that is normal (a trial diverges, a compile is refused): data, not an exception."""

    kind: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" + (f" ({self.hint})" if self.hint else "")


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not known: lists the known ones and names the nearest."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(names) if names else "(none)"
    return InputError(f"unknown {what} '{name}'.{hint} Known: {listed}.")

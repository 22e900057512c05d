"""What goes wrong, said once and clearly: what, expected, got, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

MOST_LISTED, LONGEST = 60, 200  # names of which a message tells; a longer one is near nothing
MOST_COMPARED = 2_000_000  # pairs of characters, of an unknown name and known ones: a fifth of a second at worst


class AutopruneError(Exception):
    """Work that failed while it ran; the command line exits with status 1."""

    exit_code = 1


class InputError(AutopruneError):
    """Wrong usage or input: one message that says what, expected, got and the next step; exit status 2."""

    exit_code = 2


class NoRoomError(AutopruneError):
    """The disk is full or fails: whatever was tried is not to blame, and goes on once there is room."""


@dataclass(frozen=True)
class Failure:
    """A failure that is normal (a trial diverges, a compile is refused): data, not an exception."""

    kind: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" + (f" ({self.hint})" if self.hint else "")


def shortened(text: str, limit: int = 80) -> str:
    """A text of somebody else's for a message: printable, on one line and of bounded length.

    Example:
        >>> shortened("a\\nb"), shortened("long text", 7)
        ('a\\\\nb', 'long...')
    """
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not known: lists the known ones and names the nearest."""
    names = sorted(known)
    near = difflib.get_close_matches(name, _comparable(name, names), n=1) if len(name) <= LONGEST else []
    hint = f" Did you mean '{shortened(near[0])}'?" if near else ""
    listed = ", ".join(shortened(known) for known in names[:MOST_LISTED]) if names else "(none)"
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return InputError(f"unknown {what} '{shortened(name, LONGEST)}'.{hint} Known: {listed}{more}.")


def _comparable(name: str, names: Iterable[str]) -> list[str]:
    """The first names, as many as are compared in no time: comparing two texts takes the product of their lengths."""
    found, pairs = [], 0
    for known in names:
        pairs += len(name) * len(known)
        if pairs > MOST_COMPARED:
            break
        found.append(known)
    return found

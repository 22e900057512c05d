"""Short texts for the coverage benchmark's rows."""

from __future__ import annotations

MAX_CHARACTERS = 240


def first_line(error: object) -> str:
    """The first line with text of a message, cut to a length that fits a table."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 3] + "..."

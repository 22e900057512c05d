"""Durations for people."""

from __future__ import annotations

import pytest

from autoprune.core.units import format_seconds


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (1.2, "1 s"),
        (99.4, "99 s"),
        (99.6, "2 min"),
        (600, "10 min"),
        (5900, "98 min"),
        (6000, "1.7 h"),
        (7200, "2.0 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown

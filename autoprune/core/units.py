"""Quantities as people write them (`5ms`, `4MB`, `30min`) and as the code keeps them (us, bytes, s)."""

from __future__ import annotations

import re

from autoprune.core.errors import InputError, shortened

_TIME_US = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6, "min": 60e6, "h": 3600e6}
_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_COUNT = {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ%]*)\s*")


def _parse(text: str, units: dict[str, float] | dict[str, int], what: str, default: str) -> float:
    found = _QUANTITY.fullmatch(text)
    unit = (found.group(2) or default).replace("µ", "u") if found else ""
    if found is None or unit not in units:
        known = ", ".join(filter(None, units))
        raise InputError(f"expected a {what} such as '5{default}' in one of {known}, got '{shortened(text)}'.")
    return float(found.group(1)) * units[unit]


def parse_us(text: str) -> float:
    """A time in microseconds: `5ms` -> 5000.0; a bare number is microseconds."""
    return _parse(text, _TIME_US, "time", "us")


def parse_seconds(text: str) -> float:
    """A time in seconds: `30min` -> 1800.0; a bare number is seconds."""
    return _parse(text, _TIME_US, "time", "s") / 1e6


def parse_bytes(text: str) -> float:
    """A size in bytes: `4MB` -> 4000000.0 (decimal), `4MiB` binary; a bare number is bytes."""
    return _parse(text, _BYTES, "size", "B")


def parse_count(text: str) -> float:
    """A count: `300M` -> 3e8; a bare number as it is."""
    return _parse(text, _COUNT, "count", "")


def format_us(value_us: float) -> str:
    """Microseconds for people: three significant digits in us, ms or s."""
    for unit, scale in (("s", 1e6), ("ms", 1e3)):
        if value_us >= scale:
            return f"{value_us / scale:.3g} {unit}"
    return f"{value_us:.3g} us"


def format_seconds(value_s: float) -> str:
    """A duration for people: `40 s`, `3 min`, `1.5 h`."""
    if value_s < 99.5:
        return f"{value_s:.0f} s"
    return f"{value_s / 60:.0f} min" if value_s < 5970 else f"{value_s / 3600:.1f} h"


def format_count(value: float, suffix: str = "") -> str:
    """A count for people: `61.2k`, `3.5M`; with suffix 'B', a size in decimal bytes."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}{suffix}" if suffix else f"{value / scale:.3g}{unit}"
    return f"{value:.3g} {suffix}".rstrip()

"""Column names and their units: `latency_p50` and `5ms` are what people write, `latency_p50_us` and 5000.0 the data."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from autoprune.core.errors import InputError, unknown_name
from autoprune.core.units import format_count, format_us, parse_bytes, parse_count, parse_seconds, parse_us

_LATENCY = re.compile(r"(measured_)?latency_(p[0-9]+|mean|std)")
_ALIASES = {
    "size": "size_bytes",
    "peak_memory": "peak_memory_bytes",
    "energy": "energy_uj",
    "throughput": "throughput_per_s",
}
_JOULES = {"uJ": 1.0, "mJ": 1e3, "J": 1e6}


def column(name: str, available: Collection[str] = ()) -> str:
    """The column a name stands for; a suffix `@profile` stays.

    `latency_pNN` is the measured latency where `available` has it, else the predicted one; `size`, `peak_memory`,
    `energy` and `throughput` get their unit; other names are columns already.

    Example:
        >>> column("latency_p50@phone"), column("latency_p50", {"measured_latency_p50_us"}), column("accuracy")
        ('latency_p50_us@phone', 'measured_latency_p50_us', 'accuracy')
    """
    if name in available:
        return name
    base, at, profile = name.partition("@")
    suffix = at + profile
    latency = _LATENCY.fullmatch(base)
    if latency is None:
        return _ALIASES.get(base, base) + suffix
    measured = f"measured_{base}_us{suffix}"
    return measured if latency.group(1) is None and measured in available else f"{base}_us{suffix}"


def known_column(name: str, available: Collection[str]) -> str:
    """The column a name stands for.

    Raises:
        InputError: there is no such column; names the nearest.
    """
    found = column(name, available)
    if found not in available:
        raise unknown_name("column", name, available)
    return found


def parse_quantity(name: str, text: str) -> float:
    """The value of `text` (`5ms`, `-4MB`, `97%`) in the unit that the column of `name` keeps.

    Raises:
        InputError: not a number, of the wrong unit for this column, or not finite.
    """
    negative, digits = text.startswith("-"), text.lstrip("+-").replace("\u03bc", "u").replace("\u00b5", "u")
    digits = f"0{digits}" if digits.startswith(".") else digits
    base = column(name).partition("@")[0]
    if base.endswith("_us"):
        value = parse_us(digits)
    elif base.endswith("_bytes"):
        value = parse_bytes(digits)
    elif base.endswith("_uj"):
        value = _parse_energy(digits)
    elif base == "seconds" or base.endswith("_s"):
        value = parse_seconds(digits)
    elif digits.endswith("%"):
        value = parse_count(digits[:-1]) / 100.0
    else:
        value = _parse_plain(name, digits)
    if not math.isfinite(value):
        raise InputError(f"expected a finite number, got '{text}'.")
    return -value if negative else value


def format_quantity(name: str, value: float) -> str:
    """The value of a column for people, with its unit.

    Example:
        >>> format_quantity("latency_p99@phone", 8000.0), format_quantity("size", 4e6), format_quantity("accuracy", 0.9)
        ('8 ms', '4 MB', '0.9')
    """
    base = column(name).partition("@")[0]
    if base.endswith("_us"):
        return format_us(value)
    if base.endswith("_bytes"):
        return format_count(value, "B")
    if base.endswith("_uj"):
        return f"{value:.4g} uJ"
    return format_count(value) if base in ("macs", "params") else f"{value:.6g}"


def _parse_plain(name: str, digits: str) -> float:
    try:
        return parse_count(digits)
    except InputError:
        raise InputError(
            f"'{name}' has no unit: expected a plain number such as 0.97, 97% or 300M, got '{digits}'. Latencies and "
            "sizes are named latency_p50 (or p90, p95, p99), size and peak_memory."
        ) from None


def _parse_energy(text: str) -> float:
    number = text.rstrip("mJu ")
    unit = text[len(number) :].strip() or "uJ"
    if unit not in _JOULES:
        raise InputError(f"expected an energy such as '5mJ' in one of {', '.join(_JOULES)}, got '{text}'.")
    return parse_count(number) * _JOULES[unit]

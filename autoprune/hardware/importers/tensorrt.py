"""TensorRT's `trtexec --exportProfile`: JSON, `[{count}, {name, timeMs, averageMs, medianMs}, ...]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoprune.core.errors import InputError, shortened
from autoprune.hardware.importers import Imported, ImportSettings
from autoprune.hardware.importers.named import Report, needed_model, timings_of
from autoprune.hardware.importers.reading import not_negative, read_json_file, time_us, whole

WHAT = "TensorRT profile"


class TensorRt:
    """Per-layer times of an engine, names as in the ONNX file it was built from."""

    def read(self, path: Path, settings: ImportSettings) -> Imported:
        """The times of every layer that takes any."""
        model = needed_model(path, WHAT, settings)
        return timings_of(layer_reports(read_json_file(path, WHAT), f"{WHAT} {path}"), model, f"{WHAT} {path}")


def layer_reports(data: Any, place: str) -> list[Report]:
    """What an exported profile says of every layer that takes any time.

    Args:
        data: the JSON value of the profile.
        place: where it stands, for messages.

    Raises:
        InputError: not a profile, a time that is no number, a layer twice, or no layer in it.
    """
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise InputError(f"{place}: expected a list of layers, got {type(data).__name__}.")
    count = next((whole(item["count"], f"{place}, count", 1, 10**9) for item in data if "count" in item), 1)
    reports: list[Report] = []
    names: set[str] = set()
    for item in data:
        if set(item) == {"count"}:
            continue
        report = _report(item, place, count)
        if report is None:
            continue
        if report.name in names:
            raise InputError(f"{place}: expected each layer once, got '{shortened(report.name)}' twice.")
        names.add(report.name)
        reports.append(report)
    if not reports:
        raise InputError(f"{place}: expected layers with 'name' and 'averageMs', got none.")
    return reports


def _report(item: dict[str, Any], place: str, count: int) -> Report | None:
    """A layer; None for one that takes no time, such as a reformat that was optimised away."""
    name = item.get("name")
    if not isinstance(name, str) or "averageMs" not in item:
        raise InputError(f"{place}: expected layers with 'name' and 'averageMs', got {shortened(str(item))}.")
    here = f"{place}, {shortened(name)}"
    if not_negative(item["averageMs"], here) == 0:
        return None
    percentiles = {"p50": time_us(item["medianMs"], here, 1e3)} if item.get("medianMs") else {}
    return Report(name, time_us(item["averageMs"], here, 1e3), n=count, percentiles_us=percentiles)

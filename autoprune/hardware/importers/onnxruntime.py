"""ONNX Runtime's profile (`SessionOptions.enable_profiling`): a JSON trace, one event a node and run, microseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autoprune.core.errors import InputError, shortened
from autoprune.hardware.importers import Imported, ImportSettings
from autoprune.hardware.importers.named import Report, needed_model, timings_of
from autoprune.hardware.importers.reading import check_count, not_negative, read_json_file

WHAT = "ONNX Runtime profile"
ENDING = "_kernel_time"
QUANTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
LEAST_US = 0.5  # the trace counts whole microseconds: a 0 is less than one


class OnnxRuntimeTrace:
    """Per-node times; the first run, which allocates, is left out where there are several."""

    def read(self, path: Path, settings: ImportSettings) -> Imported:
        """The times of every node."""
        model = needed_model(path, WHAT, settings)
        data = read_json_file(path, WHAT)
        times = node_times(data, f"{WHAT} {path}")
        check_count(len(times), f"{WHAT} {path}")
        reports = [_report(name, np.array(found[1:] or found)) for name, found in times.items()]
        return timings_of(reports, model, f"{WHAT} {path}")


def node_times(trace: Any, place: str) -> dict[str, list[float]]:
    """Node -> its time in each run, in microseconds.

    Args:
        trace: the JSON value of a profile.
        place: where it stands, for messages.

    Raises:
        InputError: not a trace, a time that is no number, or no node in it.
    """
    if not isinstance(trace, list):
        raise InputError(f"{place}: expected a list of events, got {type(trace).__name__}.")
    times: dict[str, list[float]] = {}
    for index, event in enumerate(trace):
        if not isinstance(event, dict):
            raise InputError(f"{place}, event {index}: expected an object, got {shortened(str(event))}.")
        name = event.get("name")
        if event.get("cat") != "Node" or not isinstance(name, str) or not name.endswith(ENDING):
            continue
        duration = not_negative(event.get("dur"), f"{place}, event {index} ({shortened(name, 60)}), dur")
        times.setdefault(name.removesuffix(ENDING), []).append(max(duration, LEAST_US))
    if not times:
        raise InputError(
            f"{place}: expected events of category 'Node' whose names end in '{ENDING}', got none. "
            "Run the model with profiling enabled, and end it with end_profiling()."
        )
    return times


def _report(name: str, times_us: np.ndarray) -> Report:
    found = np.percentile(times_us, list(QUANTILES.values())).tolist()
    percentiles = dict(zip(QUANTILES, found, strict=True))
    return Report(name, float(times_us.mean()), float(times_us.std()), len(times_us), percentiles)

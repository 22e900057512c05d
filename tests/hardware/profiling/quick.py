"""Settings under which a profile takes a second: times mean nothing, everything else is real."""

from __future__ import annotations

from dataclasses import replace

from autoprune.hardware.measure import Protocol
from autoprune.hardware.profiling import ProfileSettings

TINY = Protocol(sessions=1, minimum_runs=3, maximum_runs=3, warmup_runs=1, warmup_us=0.0, target_us=0.0)


def quick(**fields: object) -> ProfileSettings:
    """A few runs a kernel."""
    return replace(ProfileSettings(kernel_protocol=TINY, model_protocol=TINY), **fields)  # type: ignore[arg-type]

"""One pruned model timed as a whole: what compositions are fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.hardware.measure import Measurement


@dataclass(frozen=True)
class Observation:
    """A whole model of one policy, timed.

    Attributes:
        target: which of the profiled models.
        widths: kept units, in the order of the model's groups.  # (n_groups,)
        measured: its time from end to end.
        node_us: index of a kernel of the model (of `kernel_slots`) -> median time inside the model, by the runtime's
            own per-node profiler; None where the runtime has none.
    """

    target: int
    widths: tuple[int, ...]
    measured: Measurement
    node_us: Mapping[int, float] | None = None

"""How a profile is measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from autoprune.hardware.measure import MODEL_PROTOCOL, Protocol
from autoprune.hardware.runtimes import RunSettings

# Kernels of half a millisecond are run 60 times in three sessions; shorter ones at least 150 times.
KERNEL_PROTOCOL = Protocol(target_us=3_000.0, warmup_us=800.0, maximum_runs=150, slow_us=500.0)
WHOLE_MODELS = 60
BUDGET_S = 600.0
_NO_PART = ("budget_s", "name", "description")  # of what decides whether two measurements are the same


@dataclass(frozen=True)
class ProfileSettings:
    """How a profile is measured.

    Attributes:
        runtime: a registered runtime.
        threads, batch, precision, layout: how models are run (see `RunSettings`).
        processor: what of the machine runs them: `cpu`, `cuda`, or what the runtime names.
        budget_s: stop so that the whole takes about this long, kernels and whole models together; multiples of the
            alignment quantum and coarse grids come first, so what is left out is interpolated. None times everything.
        whole_models: how many pruned models to time for the composition.
        name, description: of the profile.
        seed: of the order and of the whole models' policies.
        kernel_protocol, model_protocol: how often what is run.
    """

    runtime: str = "onnxruntime"
    threads: int = 1
    batch: int = 1
    precision: str = "float32"
    layout: str = "contiguous"
    processor: str = "cpu"
    budget_s: float | None = BUDGET_S
    whole_models: int = WHOLE_MODELS
    name: str | None = None
    description: str = ""
    seed: int = 0
    kernel_protocol: Protocol = KERNEL_PROTOCOL
    model_protocol: Protocol = MODEL_PROTOCOL

    @property
    def run(self) -> RunSettings:
        """How models are run."""
        return RunSettings(self.threads, self.batch, self.precision, self.layout, self.processor)

    def session_data(self) -> dict[str, Any]:
        """What two measurements must have in common for one to be gone on with by the other."""
        return {name: value for name, value in asdict(self).items() if name not in _NO_PART}

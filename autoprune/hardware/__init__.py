"""Hardware: what a pruned model costs on a device, measured and predicted.

- `profile`, `kernel_table`: a profile's files. `load_profile`, `list_profiles` need no torch.
- `latency`, `cost`, `memory`: predictions for policies, from a profile.
- `interpolation`, `estimate`, `composition`, `fit`: how a prediction is made.
- `analytical*`: rooflines an operator class, for devices that are not at hand and kernels that were not measured.
- `measure`, `profiling`: timing models and kernels, and making a profile.
- `runtimes`, `devices`: what runs models, and where. `importers`: what others measured.

Names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.hardware.cost import Cost, predict_cost
    from autoprune.hardware.latency import LatencyTable
    from autoprune.hardware.measure import Measurement, measure_models, measure_module
    from autoprune.hardware.memory import peak_memory_bytes
    from autoprune.hardware.profile import HardwareProfile, list_profiles, load_profile
    from autoprune.hardware.profiling import profile_graph

__all__ = [
    "HardwareProfile",
    "load_profile",
    "list_profiles",
    "LatencyTable",
    "Cost",
    "predict_cost",
    "peak_memory_bytes",
    "profile_graph",
    "Measurement",
    "measure_module",
    "measure_models",
]

_HOMES = {
    "HardwareProfile": "profile",
    "load_profile": "profile",
    "list_profiles": "profile",
    "LatencyTable": "latency",
    "Cost": "cost",
    "predict_cost": "cost",
    "peak_memory_bytes": "memory",
    "profile_graph": "profiling",
    "Measurement": "measure",
    "measure_module": "measure",
    "measure_models": "measure",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"autoprune.hardware.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'autoprune.hardware' has no attribute '{name}'")

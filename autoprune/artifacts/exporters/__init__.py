"""Formats that a pruned model is published in.

- `Exporter`: the Protocol that a format implements; `EXPORTERS`: the registry (entry points `autoprune.exporters`).
- `contract.check_exporter`: the contract as a test, for formats of other packages.
- `publish`: writes one file and lets it stand only if its outputs are the module's.
- `onnx`, `pt2`, `safetensors`: the built-in formats.
"""

from autoprune.artifacts.exporters.base import EXPORTERS, Exporter, Tensors
from autoprune.artifacts.exporters.publish import publish

__all__ = ["EXPORTERS", "Exporter", "Tensors", "publish"]

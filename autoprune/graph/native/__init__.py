"""The user's own class at a policy's sizes: copied once, tensors replaced, attributes patched, outputs compared.

No table of model names and no list of attributes is used. The dense copy is run once with integers that remember where
they come from (`tracked`, `attributes`, `recording`); each call that receives one is found again in the traced program,
whose sizes are expressions over groups (`evidence`), and the attributes are set to what those come to (`solve`). What
stays open is tried in a fixed order. Nothing is returned unless it computes what the traced module does (`compare`).
"""

from autoprune.graph.native.patching import patch

__all__ = ["patch"]

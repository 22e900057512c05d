"""Model -> traced program -> dependency groups; policy -> smaller model.

- `trace`: a trained model and example inputs to a `DependencyGraph`
- `DependencyGraph`, `DependencyGroup`, `Member`, `Frozen`: what may shrink, with what, and what may not and why
- `SparsityPolicy`, `UnitOrder`: how many units stay, and which
- `TracedModule`: the program as a trainable module
"""

from autoprune.graph.graph import DependencyGraph, DependencyGroup, Frozen, Member
from autoprune.graph.module import TracedModule
from autoprune.graph.policy import SparsityPolicy, UnitOrder
from autoprune.graph.trace import trace

__all__ = [
    "DependencyGraph", "DependencyGroup", "Frozen", "Member",
    "SparsityPolicy", "UnitOrder",
    "TracedModule",
    "trace",
]  # fmt: skip

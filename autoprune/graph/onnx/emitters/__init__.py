"""One emitter an ATen operator, one file a kind of operators."""

from autoprune.graph.onnx.emitters import (
    arithmetic,
    attention,
    comparisons,
    contractions,
    creation,
    elementwise,
    indexing,
    norms,
    pooling,
    reductions,
    resizing,
    shapes,
    writing,
)
from autoprune.graph.onnx.emitters.registry import EMITTERS, Emitter, emits

__all__ = ["EMITTERS", "Emitter", "emits"]

_FILES = (
    arithmetic, attention, comparisons, contractions, creation, elementwise, indexing, norms, pooling, reductions,
    resizing, shapes, writing,
)  # fmt: skip

"""The table of emitters and how to add to it.

An emitter takes the context and the operation, appends nodes, and leaves the operation's results under their names.
"""

from __future__ import annotations

from collections.abc import Callable

from autoprune.graph.onnx.context import Context, UnsupportedOperator
from autoprune.graph.program import Operation

Emitter = Callable[[Context, Operation], None]
EMITTERS: dict[str, Emitter] = {}


def emits(*targets: str) -> Callable[[Emitter], Emitter]:
    """Register an emitter for ATen overloads (without `aten.`)."""

    def register(emitter: Emitter) -> Emitter:
        for target in targets:
            EMITTERS[f"aten.{target}"] = emitter
        return emitter

    return register


def refuse(operation: Operation, detail: str) -> UnsupportedOperator:
    """The error for a use of an operator that has no ONNX form here."""
    return UnsupportedOperator(operation.target, operation.name, detail)


def result_type(context: Context, operation: Operation) -> str:
    """The type of an operation's result."""
    return context.dtype(operation.name)

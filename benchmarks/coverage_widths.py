"""How much of a traced model may shrink, and what keeps the rest from it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from autoprune.graph import DependencyGraph
from autoprune.graph.dimension import dense_size, groups_of

_MULTIPLIES = ("conv", "linear", "matmul", "mm", "einsum", "mv", "dot")


def multiplied_weights(graph: DependencyGraph) -> list[str]:
    """Parameters of two or more dimensions that convolutions and matrix products read, reshaped or rescaled or not."""
    program = graph.program
    sources: dict[str, frozenset[str]] = {name: frozenset({name}) for name in program.parameters}
    sources |= dict.fromkeys(program.buffers, frozenset())
    found: dict[str, None] = {}
    for operation in program.operations:
        refs = operation.refs()
        kind = operation.target.split(".")[1] if "." in operation.target else ""
        if any(part in kind for part in _MULTIPLIES):
            found |= dict.fromkeys(name for ref in refs for name in sorted(sources.get(ref, ())))
        elif refs and all(ref in sources for ref in refs):  # made of parameters alone: a weight still
            made = frozenset().union(*(sources[ref] for ref in refs))
            sources |= dict.fromkeys(operation.results, made)
    return [name for name in found if len(program.values[name].dimensions) > 1]


def main_share(graph: DependencyGraph) -> float:
    """Of the weights that convolutions and matrix products read, by element: the share whose every width may shrink.

    Widths are what a weight reads from and what it produces; kernel sizes and dimensions of one do not count. A model's
    main widths are prunable where this is above one half: its residual or layer widths then must be, since a hidden
    width alone frees one side only.
    """
    frozen = {(item.parameter, item.axis) for item in graph.frozen}
    total = free = 0
    for name in multiplied_weights(graph):
        dimensions = graph.program.values[name].dimensions
        elements = _elements(graph, name)
        total += elements
        widths = [bool(groups_of(d)) for axis, d in enumerate(dimensions) if groups_of(d) or (name, axis) in frozen]
        free += elements if widths and all(widths) else 0
    return free / total if total else 0.0


def obstacles(graph: DependencyGraph, limit: int = 6) -> list[dict[str, Any]]:
    """Why parameters have no prunable dimension, the reason of most elements first.

    Returns:
        Objects with `reason`, `share` of all parameters, and one `example` parameter.
    """
    reasons = {item.parameter: item.reason for item in reversed(graph.frozen)}
    share: Counter[str] = Counter()
    example: dict[str, str] = {}
    total = sum(_elements(graph, name) for name in graph.program.parameters)
    for name in graph.program.parameters:
        if not any(groups_of(dimension) for dimension in graph.program.values[name].dimensions):
            reason = reasons.get(name, "has no dimension above one")
            share[reason] += _elements(graph, name)
            example.setdefault(reason, name)
    return [
        {"reason": reason, "share": count / max(1, total), "example": example[reason]}
        for reason, count in share.most_common(limit)
    ]


def main_obstacles(graph: DependencyGraph, limit: int = 6) -> list[dict[str, Any]]:
    """Why widths of the multiplied weights are frozen, by elements of those weights; as `obstacles`."""
    weights = {name: _elements(graph, name) for name in multiplied_weights(graph)}
    share: Counter[str] = Counter()
    example: dict[str, str] = {}
    for item in graph.frozen:
        if item.parameter in weights:
            share[item.reason] += weights[item.parameter]
            example.setdefault(item.reason, f"{item.parameter}[{item.axis}]")
    total = max(1, sum(weights.values()))
    return [
        {"reason": reason, "share": count / total, "example": example[reason]}
        for reason, count in share.most_common(limit)
    ]


def _elements(graph: DependencyGraph, name: str) -> int:
    elements = 1
    for dimension in graph.program.values[name].dimensions:
        elements *= dense_size(dimension)
    return elements

"""Random policies of the coverage benchmark, and what they are checked against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.artifacts.exporters.parity import flat_outputs
from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph
from autoprune.graph.dimension import Indices
from benchmarks.coverage_text import first_line
from tests.graph.oracle import Oracle

TOLERANCE = {"float64": 1e-7, "float32": 1e-3}
"""Largest difference that counts as equal, relative to the largest output. Rounding stays a factor of a thousand below
in both; a wrong unit is orders of magnitude above."""


@dataclass(frozen=True, eq=False)
class RandomPolicy:
    """Units drawn at random.

    Attributes:
        kind: `every group`, `heads and residual width` or `removed blocks`.
        kept: group id -> units kept, ascending; groups not named stay whole.
        heads, residual, removed: how many groups of heads, of widths shared by several layers, and of removed branches
            the policy cuts.
    """

    kind: str
    kept: Mapping[str, Indices]
    heads: int
    residual: int
    removed: int


def random_policies(graph: DependencyGraph, seed: int = 0) -> list[RandomPolicy]:
    """Three policies: all groups at once, heads and residual widths, removed blocks where the model has some."""
    rng = np.random.default_rng(seed)
    sizes = {name: group.size for name, group in graph.groups.items()}

    def some(names: Sequence[str], chance: float) -> dict[str, int]:
        chosen = [name for name in names if rng.random() < chance] or names[:1]
        return {name: int(rng.integers(1, max(2, sizes[name]))) for name in chosen}

    narrow = [name for name in sizes if name in (*_heads(graph), *_shared(graph)) and sizes[name] > 1]
    widths = {
        "every group": some(list(sizes), 1.0),
        "heads and residual width": some(list(sizes), 0.3) | {n: int(rng.integers(1, sizes[n])) for n in narrow},
        "removed blocks": some(list(sizes), 0.5),
    }
    widths["removed blocks"] |= dict.fromkeys(_removals(graph, widths["removed blocks"], rng), 0)
    return [_drawn(graph, kind, wanted, rng) for kind, wanted in widths.items()]


def _removals(graph: DependencyGraph, widths: Mapping[str, int], rng: np.random.Generator) -> list[str]:
    """About half of the removable groups, as far as the graph accepts them together."""
    gone: list[str] = []
    for name in rng.permutation([name for name, group in graph.groups.items() if group.removable]).tolist():
        if gone and rng.random() < 0.5:
            continue
        try:
            graph.check({**widths, **dict.fromkeys([*gone, name], 0)})
        except InputError:  # nothing of the model would be left, or of what another part reads
            continue
        gone.append(name)
    return gone


def _drawn(graph: DependencyGraph, kind: str, widths: dict[str, int], rng: np.random.Generator) -> RandomPolicy:
    checked = graph.check(widths)
    kept = {name: np.sort(rng.permutation(graph.groups[name].size)[:width]) for name, width in checked.items()}
    cut = {name for name, units in kept.items() if 0 < units.size < graph.groups[name].size}
    removed = sum(1 for name in widths if kept[name].size == 0)
    return RandomPolicy(kind, kept, len(cut & _heads(graph)), len(cut & _shared(graph)), removed)


def _heads(graph: DependencyGraph) -> set[str]:
    return {name for name, group in graph.groups.items() if group.unit == "head"}


def _shared(graph: DependencyGraph) -> set[str]:
    """Widths that more than two layers read: residual streams."""
    return {name for name, group in graph.groups.items() if len({m.parameter for m in group.consumers}) > 2}


def in_double(graph: DependencyGraph) -> DependencyGraph:
    """The same program on float64 tensors: rounding cannot hide a wrong unit, nor pass for one."""

    def literal(item: Any) -> Any:
        if isinstance(item, tuple):
            return tuple(literal(part) for part in item)
        return torch.float64 if item is torch.float32 else item

    operations = tuple(
        replace(each, args=literal(each.args), kwargs=tuple((k, literal(v)) for k, v in each.kwargs))
        for each in graph.program.operations
    )
    values = {
        name: replace(value, dtype="float64") if value.dtype == "float32" else value
        for name, value in graph.program.values.items()
    }
    return replace(
        graph,
        program=replace(graph.program, operations=operations, values=values),
        state={name: _double(tensor) for name, tensor in graph.state.items()},
        example_inputs=tuple(map(_double, graph.example_inputs)),
    )


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor


def relative_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest absolute difference over the largest expected value, over all outputs; infinite where shapes differ
    or a value is not finite in one of them alone."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return float("inf")
    worst = 0.0
    for wanted, got in zip(expected, found, strict=True):
        a, b = wanted.double(), got.double()
        finite = torch.isfinite(a)
        if not torch.equal(finite, torch.isfinite(b)):
            return float("inf")
        if finite.any():
            scale = max(float(a[finite].abs().max()), 1e-30)
            worst = max(worst, float((a[finite] - b[finite]).abs().max()) / scale)
    return worst


def checked(graph: DependencyGraph, double: DependencyGraph, policy: RandomPolicy) -> dict[str, Any]:
    """One policy, sliced and run, against the oracle; in float64, or in float32 where an operator refuses that."""
    row: dict[str, Any] = {
        "kind": policy.kind, "heads": policy.heads, "residual": policy.residual, "removed": policy.removed,
    }  # fmt: skip
    errors: list[str] = []
    for precision, candidate in (("float64", double), ("float32", graph)):
        try:
            return row | _compared(candidate, policy, precision) | ({"refused": errors[0]} if errors else {})
        except Exception as error:  # whatever an operator raises; the row says so
            errors.append(f"{precision}: {type(error).__name__}: {first_line(error)}")
    return row | {"equal": False, "error": errors[-1]}


def _compared(graph: DependencyGraph, policy: RandomPolicy, precision: str) -> dict[str, Any]:
    with torch.no_grad():
        small = graph.module(kept=policy.kept)
        found = flat_outputs(small(*graph.example_inputs))
        expected = flat_outputs(Oracle(graph, policy.kept)(*graph.example_inputs))
        dense = flat_outputs(graph.module()(*graph.example_inputs))
    difference = relative_difference(expected, found)
    total = sum(graph.state[name].numel() for name in graph.program.parameters)
    return {
        "precision": precision,
        "difference": difference if np.isfinite(difference) else None,
        "equal": difference <= TOLERANCE[precision],
        # How far the policy moves the outputs: a check of a policy that moves nothing would say nothing.
        "effect": min(relative_difference(dense, found), 1e9),
        "parameters": sum(parameter.numel() for parameter in small.parameters()) / max(1, total),
    }

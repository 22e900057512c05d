"""Groups at width 0, for one program: which may be, and what is then left of it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.core.errors import InputError
from autoprune.graph.depth.flow import CHANNELS, Flow, NotConstantError
from autoprune.graph.depth.rewrite import Fold, Rewrite
from autoprune.graph.dimension import Widths, groups_of, size
from autoprune.graph.program import Operation, Program, Ref, Value
from autoprune.graph.run import run_operation


@dataclass(frozen=True)
class Reduction:
    """A program without the branches that have become constant.

    Attributes:
        program: what is left of it.
        folds: where the constants go.
        tail: operations of the dense program that compute the constants, in order.
        closed: groups of the dense program that the reduced one no longer has: they are at width 0.
    """

    program: Program
    folds: tuple[Fold, ...]
    tail: tuple[Operation, ...]
    closed: frozenset[str]

    def tensors(self, dense: Program, sliced: Mapping[str, torch.Tensor], widths: Widths) -> dict[str, torch.Tensor]:
        """Tensors of the reduced program: constants are computed, and stored or added to what takes them up.

        Args:
            dense: the program that was reduced.
            sliced: its parameters and buffers under `widths`.
            widths: of all groups.
        """
        values: dict[str, Any] = dict(sliced)
        result = dict(sliced)
        with torch.no_grad():
            for operation in self.tail:
                if all(name in values for name in operation.refs()):
                    found = run_operation(operation, values, widths)
                else:
                    found = _of_nothing(dense, operation, values, widths)
                several = found if len(operation.results) > 1 else (found,)
                values.update(zip(operation.results, several, strict=False))
            for fold in self.folds:
                constant = values[fold.value]
                for axis in range(constant.ndim):
                    constant = constant if axis == fold.axis else constant.narrow(axis, 0, 1)
                if fold.added:
                    bias = result[fold.parameter]
                    shape = constant.shape[-bias.ndim :] if bias.ndim > 1 else (-1,)
                    added = bias.detach() + constant.reshape(shape).to(bias)
                    result[fold.parameter] = nn.Parameter(added, requires_grad=bias.requires_grad)
                else:
                    result[fold.parameter] = nn.Parameter(constant.detach().clone())
        return {name: result[name] for name in (*self.program.parameters, *self.program.buffers)}


class Depth:
    """Reductions of one program, each worked out once.

    Args:
        program: the dense program.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._reductions: dict[frozenset[str], Reduction] = {}

    @cached_property
    def _carriers(self) -> dict[str, tuple[str, ...]]:
        """Group -> values in whose dimensions it is."""
        found: dict[str, list[str]] = {group: [] for group in self._program.group_sizes}
        for value in self._program.values.values():
            for group in {group for d in value.dimensions for group in groups_of(d)}:
                found[group].append(value.name)
        return {group: tuple(names) for group, names in found.items()}

    @cached_property
    def _readers(self) -> dict[str, tuple[int, ...]]:
        """Value -> places of the operations that read it."""
        found: dict[str, list[int]] = {}
        for place, operation in enumerate(self._program.operations):
            for name in dict.fromkeys(operation.refs()):
                found.setdefault(name, []).append(place)
        return {name: tuple(places) for name, places in found.items()}

    @cached_property
    def _makers(self) -> dict[str, int]:
        """Value -> place of the operation that makes it."""
        return {name: place for place, op in enumerate(self._program.operations) for name in op.results}

    @cached_property
    def _fixed(self) -> frozenset[str]:
        """Parameters, buffers, and what is computed from them alone."""
        found = {*self._program.parameters, *self._program.buffers}
        for operation in self._program.operations:
            if found.issuperset(operation.refs()):
                found.update(operation.results)
        return frozenset(found)

    @cached_property
    def removable(self) -> frozenset[str]:
        """Groups that may have width 0."""
        found = set()
        for group in self._program.group_sizes:
            try:
                self._flow(frozenset({group}))
            except NotConstantError:
                continue
            found.add(group)
        return frozenset(found)

    def reduce(self, empty: frozenset[str]) -> Reduction:
        """The program with these groups, and those that vanish with them, at width 0.

        Raises:
            InputError: what is left would not depend on its inputs, or a branch does not become a constant.
        """
        if empty not in self._reductions:
            try:
                reduction = self._reduced(empty)
                if not reduction.closed <= empty:
                    reduction = self.reduce(empty | reduction.closed)
            except NotConstantError as error:
                names = ", ".join(f"'{name}'" for name in sorted(empty)[:3]) + (", ..." if len(empty) > 3 else "")
                raise InputError(
                    f"policy: expected at least 1 unit for {names}, got 0: {error}. Groups that may have width 0 are "
                    "those whose branch is then a constant (`DependencyGroup.removable`)."
                ) from error
            self._reductions[empty] = reduction
        return self._reductions[empty]

    def state(self, names: Iterable[str], widths: Widths) -> Iterator[tuple[Value, Any]]:
        """Parameters or buffers, and whether they are still there under `widths`.

        Args:
            names: of the dense program.
            widths: closed: what vanishes with a branch is at width 0 too. Integers, or arrays of one entry a policy.

        Yields:
            Each value with 1, or with an array of ones and zeros. Exact for integers; where arrays remove several
            branches in one policy, each constant is taken to end where it would if only its own branch were removed.
        """
        zeros = {group: widths[group] == 0 for group in self.removable if np.any(widths.get(group, 1) == 0)}
        if not any(np.ndim(flags) for flags in zeros.values()):
            reduced = self.reduce(frozenset(zeros)).program if zeros else self._program
            added = set(reduced.parameters) - set(self._program.parameters)
            wanted = set(names)
            present = (*reduced.parameters, *reduced.buffers)
            yield from ((reduced.values[name], 1) for name in present if name in wanted or name in added)
            return
        programs = {group: self.reduce(frozenset({group})).program for group in zeros}
        for name in names:
            gone = [zeros[group] for group, reduced in programs.items() if name not in reduced.values]
            yield self._program.values[name], 1 - np.logical_or.reduce(gone) if gone else 1
        constants: dict[str, list[str]] = {}
        for group, reduced in programs.items():
            for name in set(reduced.parameters) - set(self._program.parameters):
                constants.setdefault(name, []).append(group)
        for name, groups in constants.items():
            yield programs[groups[0]].values[name], np.logical_or.reduce([zeros[group] for group in groups]) * 1

    def _flow(self, empty: frozenset[str]) -> Flow:
        nothing = dict.fromkeys(empty, 0)
        values = self._program.values
        gone = {
            name
            for group in empty
            for name in self._carriers.get(group, ())
            if any(size(dimension, nothing) == 0 for dimension in values[name].dimensions)
        }
        flow = Flow(self._program, self._fixed, gone)
        queue = sorted({p for name in gone for p in (*self._readers.get(name, ()), self._makers.get(name, -1))} - {-1})
        queued = set(queue)
        while queue:
            operation = self._program.operations[heapq.heappop(queue)]
            for name in flow.visit(operation):
                for place in self._readers.get(name, ()):
                    if place not in queued:
                        queued.add(place)
                        heapq.heappush(queue, place)
        return flow

    def _reduced(self, empty: frozenset[str]) -> Reduction:
        flow = self._flow(empty)
        rewrite = Rewrite(self._program, flow)
        program = rewrite.program()
        wanted = set(flow.constants)
        tail = []
        for operation in reversed(self._program.operations):
            if not wanted.isdisjoint(operation.results):
                tail.append(operation)
                wanted.update(name for name in operation.refs() if name in self._fixed)
        closed = (group for group, names in self._carriers.items() if not any(name in program.values for name in names))
        return Reduction(program, rewrite.folds, tuple(tail[::-1]), frozenset(closed))


def _of_nothing(
    program: Program, operation: Operation, values: Mapping[str, torch.Tensor], widths: Widths
) -> torch.Tensor:
    """A contraction over nothing, at batch 1: zeros and the bias."""
    value = program.values[operation.name]
    shape = [int(size(dimension, widths)) for dimension in value.dimensions]
    kind = operation.kind
    added = operation.args[0] if kind in ("addmm", "baddbmm") else operation.argument(2, "bias")
    biased = kind in (*CHANNELS, "addmm", "baddbmm") and isinstance(added, Ref)
    bias = values[added.name] if biased else None
    result = torch.zeros(shape, dtype=getattr(torch, value.dtype), device=None if bias is None else bias.device)
    if bias is None:
        return result
    if kind in CHANNELS:
        bias = bias.reshape([-1 if axis == CHANNELS[kind] % len(shape) else 1 for axis in range(len(shape))])
    return result + bias

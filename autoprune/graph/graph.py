"""`DependencyGraph`: the groups of a traced model, what is frozen and why, and the way from a policy to a module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.core.errors import InputError, unknown_name
from autoprune.core.units import format_count
from autoprune.graph.dimension import Batch, Dimension, Indices, Widths, dense_size, groups_of, size
from autoprune.graph.macs import macs
from autoprune.graph.module import TracedModule, build
from autoprune.graph.policy import SparsityPolicy, UnitOrder
from autoprune.graph.program import Program


@dataclass(frozen=True)
class Member:
    """One parameter dimension that carries a group.

    Attributes:
        parameter: state-dict name (`layer1.0.conv1.weight`).
        axis: which dimension of it.
        dimension: that dimension over groups (the "layout").
        role: "producer" (output features, norm scales) or "consumer" (contracted with the group's activations).
    """

    parameter: str
    axis: int
    dimension: Dimension
    role: str


@dataclass(frozen=True)
class DependencyGroup:
    """Dimensions of parameters that must shrink together.

    Attributes:
        id: readable and stable, after its first producer (`layer1.0.conv1`).
        size: units in the dense model.
        unit: `channel`, `hidden`, `head`, `head_dim` or `group`.
        members: every parameter dimension it appears in.
        removable: whether width 0 is allowed: the residual branch that it is the inside of is then a constant, and
            leaves the model.
    """

    id: str
    size: int
    unit: str
    members: tuple[Member, ...]
    removable: bool = False

    @property
    def consumers(self) -> tuple[Member, ...]:
        """Members whose parameter is contracted with the group's activations."""
        return tuple(member for member in self.members if member.role == "consumer")


@dataclass(frozen=True)
class Frozen:
    """A parameter dimension that cannot shrink, and why."""

    parameter: str
    axis: int
    size: int
    reason: str


@dataclass(frozen=True, eq=False)
class DependencyGraph:
    """A trained model, traced and analysed.

    Attributes:
        program: the traced program, sizes over groups.
        groups: id -> group, in program order.
        frozen: parameter dimensions that no policy changes, with reasons.
        state: parameters and buffers of the model by state-dict name; the model's own tensors, not copies.
        example_inputs: flattened example input tensors, in the order of `program.inputs`.
        output_example: outputs nested in the user's own classes, integers in the place of tensors; None where plain
            dicts, lists and tuples do.
    """

    program: Program
    groups: dict[str, DependencyGroup]
    frozen: tuple[Frozen, ...]
    state: dict[str, torch.Tensor] = field(repr=False)
    example_inputs: tuple[torch.Tensor, ...] = field(repr=False)
    output_example: Any = field(default=None, repr=False)

    def check(self, policy: Mapping[str, int]) -> SparsityPolicy:
        """The policy, validated against the groups; groups inside a removed branch are at width 0 with it.

        Raises:
            InputError: an unknown group, a width outside 1..size (0 where the group is removable), or removals that
                leave nothing of the model.
        """
        for group in policy:
            if group not in self.groups:
                raise unknown_name("group", group, self.groups)
        gone = self._gone(policy)
        for group, width in policy.items():
            least = 0 if group in gone or self.groups[group].removable else 1
            if not least <= width <= self.groups[group].size:
                raise InputError(
                    f"policy: expected {least} to {self.groups[group].size} units for '{group}', got {width}."
                )
        if any(policy.get(group, 1) for group in gone):
            return SparsityPolicy({**policy, **dict.fromkeys(gone, 0)})
        return policy if isinstance(policy, SparsityPolicy) else SparsityPolicy(policy)

    def _gone(self, policy: Mapping[str, int]) -> frozenset[str]:
        """Groups that are at width 0 with the removable ones that the policy puts there."""
        empty = frozenset(g for g, width in policy.items() if width == 0 and self.groups[g].removable)
        return self.program.depth.reduce(empty).closed if empty else empty

    @cached_property
    def closure(self) -> dict[str, tuple[str, ...]]:
        """Removable group -> the groups that live in its branch alone, which vanish with it (itself among them)."""
        removable = [group.id for group in self.groups.values() if group.removable]
        closed = {group: self.program.depth.reduce(frozenset({group})).closed for group in removable}
        return {group: tuple(name for name in self.groups if name in closed[group]) for group in removable}

    def uniform(self, ratio: float, multiple_of: int = 1) -> SparsityPolicy:
        """Every group keeps `1 - ratio` of its units, rounded to a multiple of `multiple_of` (at least one multiple).

        Raises:
            InputError: a ratio outside 0 <= ratio < 1, or a multiple below 1.
        """
        if not 0.0 <= ratio < 1.0:
            raise InputError(f"uniform: expected a ratio from 0 (dense) to below 1, got {ratio}.")
        if multiple_of < 1:
            raise InputError(f"uniform: expected multiple_of >= 1, got {multiple_of}.")
        kept = {}
        for group in self.groups.values():
            wanted = max(multiple_of, multiple_of * round(group.size * (1.0 - ratio) / multiple_of))
            kept[group.id] = min(group.size, wanted)
        return SparsityPolicy(kept)

    def widths(self, policy: Mapping[str, int]) -> dict[str, int]:
        """The policy with every group named."""
        return {name: int(policy.get(name, group.size)) for name, group in self.groups.items()}

    def module(
        self,
        policy: Mapping[str, int] | None = None,
        kept: Mapping[str, Indices] | None = None,
        weights: Mapping[str, torch.Tensor] | None = None,
    ) -> TracedModule:
        """The smaller module: parameters sliced, sizes set; the dense one without arguments.

        Args:
            policy: widths; units are then the first ones of each group, unless `kept` names them.
            kept: group id -> unit indices to keep, ascending. Takes the place of `policy`.
            weights: tensors that replace parameters before slicing; a dimension already at its pruned size is left.

        Tensors share memory with the model's where they are whole or made of first units; call
        `TracedModule.clone_tensors` before training.
        """
        if kept is None:
            checked = self.check(policy or {})
            kept = {name: np.arange(width, dtype=np.int64) for name, width in checked.items()}
        module = build(self.program, self.state, kept, weights or {})
        module.output_example = self.output_example
        return module

    def ordered(self, orders: Mapping[str, UnitOrder]) -> DependencyGraph:
        """The same model with the units of each group in the order they are kept; groups without an order stay.

        Any policy then keeps first units, and its module is made of views of these tensors, without a copy (but for
        dimensions made of several groups). Outputs are those of the model, up to the order in which sums are taken.
        """
        plan = self.program.plan
        moved = plan.selections({name: order.order for name, order in orders.items()})
        state = dict(self.state)
        with torch.no_grad():
            for name, cuts in plan.cuts.items():
                tensor = source = state[name]
                for axis, place in cuts:
                    index = moved[place]
                    if index is not None:
                        tensor = tensor.index_select(axis, torch.tensor(index, device=tensor.device))
                if tensor is not source and isinstance(source, nn.Parameter):
                    tensor = nn.Parameter(tensor, requires_grad=source.requires_grad)
                state[name] = tensor
        return replace(self, state=state)

    def rebuild(self, policy: Mapping[str, int], tensors: Mapping[str, torch.Tensor]) -> TracedModule:
        """The module of a policy from its own tensors, by name and at their pruned shapes.

        Raises:
            InputError: a tensor is missing or of another shape.
        """
        module = TracedModule.from_sliced(self.program, self.widths(self.check(policy)), tensors)
        module.output_example = self.output_example
        return module

    def macs(self, widths: Widths) -> Any:
        """Multiply-accumulates of conv, linear and matmul operators, at batch 1 or `widths[Batch.KEY]`.

        Where a removable group is at width 0, those of its `closure` are expected there too, as `check` leaves them.
        """
        return macs(self.program, widths)

    def parameter_count(self, widths: Widths) -> Any:
        """Parameters under `widths`: an int, or an array where widths are arrays."""
        parameters = self.program.depth.state(self.program.parameters, widths)
        return sum(present * math.prod(size(d, widths) for d in value.dimensions) for value, present in parameters)

    def prunable_share(self) -> float:
        """Share of parameters (by count) with at least one prunable dimension."""
        total = prunable = 0
        for name in self.program.parameters:
            dimensions = self.program.values[name].dimensions
            count = int(np.prod([dense_size(d) for d in dimensions], dtype=np.int64))
            total += count
            prunable += count if any(groups_of(d) for d in dimensions) else 0
        return prunable / total if total else 0.0

    def summary(self) -> str:
        """Groups and frozen dimensions as text, one a line."""
        lines = [
            f"{len(self.groups)} groups, {self.prunable_share():.1%} of {format_count(self.parameter_count({}))} "
            f"parameters in prunable dimensions, {format_count(self.macs({Batch.KEY: 1}))} MACs"
        ]
        for group in self.groups.values():
            lines.append(f"  {group.id}  {group.size} {group.unit}  ({len(group.members)} parameter dimensions)")
        for item in self.frozen:
            lines.append(f"  frozen {item.parameter}[{item.axis}] ({item.size}): {item.reason}")
        return "\n".join(lines)

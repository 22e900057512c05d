"""Layer, RMS and group norms over a pruned dimension: what they divide by changes, and their affine part makes up.

With the dense normalised input `z` of a norm, over the kept units `K` the pruned norm computes `(z_K - m) / sqrt(r)`
where `m = mean_K z` and `r = mean_K z^2 - m^2` (`m` is 0 for RMS norms), whatever the token. The expectations of `m`
and `r` follow from the second moments of `z`, so scale and bias are corrected in closed form for any width: behind the
norm, kept units have about their dense values, which is what consumers were fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autoprune.graph import DependencyGraph
from autoprune.graph.dimension import Dimension, Indices, dense_size, groups_of, indices
from autoprune.graph.program import Operation, Program, Ref
from autoprune.graph.run import concrete
from autoprune.pruning.consumers import Source
from autoprune.pruning.contractions import Reading, parameter_views
from autoprune.pruning.gram import Sums

_BETWEEN = ("add", "rsqrt", "sqrt", "reciprocal", "mul", "div", "to", "_to_copy", "type_as")
_LEAST_RATIO = 1e-6


@dataclass(frozen=True)
class Norm:
    """One norm whose statistics run over groups.

    Attributes:
        operation: before which its input is at hand.
        value: name of the input.
        kind: "layer", "rms" (both over the last axis) or "group" (over axis 1, in groups, and all behind).
        weight, bias: state-dict names of the affine part; the bias may be missing.
        dimension: what the statistics run over, or the channels of a group norm.
        parts: groups of a group norm, else 1.
        epsilon: added to the variance.
    """

    operation: str
    value: str
    kind: str
    weight: str
    bias: str | None
    dimension: Dimension
    parts: int
    epsilon: float

    @property
    def groups(self) -> tuple[str, ...]:
        """Ids of the groups that the statistics run over."""
        return groups_of(self.dimension)


class NormSums:
    """Moments of a norm's normalised input, summed over batches.

    Args:
        norm: which.
        batches: how many will be added.
    """

    def __init__(self, norm: Norm, batches: int) -> None:
        self.norm = norm
        units = dense_size(norm.dimension) // norm.parts
        reading = Reading(norm.value, (1,), (2,))
        self._reading = reading
        source = Source((reading,), (norm.operation,), False, 1, units, norm.operation, diagonal=norm.kind == "rms")
        self._means = Sums(source, batches)
        self._energy = torch.zeros(norm.parts, units, dtype=torch.float64)
        self._count = 0

    def watch(self, values: Mapping[str, Any]) -> None:
        """Add one batch."""
        x = normalised(self.norm, values[self.norm.value])  # (samples, parts, units, places)
        self._means.add(self._reading, x.mean(dim=3))
        self._energy += x.square().mean(dim=3).sum(dim=0, dtype=torch.float64).cpu()
        self._count += x.shape[0]

    def statistics(self) -> NormStatistics:
        """What was summed, as averages."""
        moments = self._means.moments()
        cross = None if self.norm.kind == "rms" else moments.second
        return NormStatistics(self.norm, self._energy / self._count, cross, moments.mean[:, 0])


@dataclass(frozen=True, eq=False)
class NormStatistics:
    """What correcting a norm takes.

    Attributes:
        norm: which.
        energy: E[z^2].  # (parts, units) float64
        cross: E[mean z mean z^T], means over places; None for RMS norms.  # (parts, units, units) float64
        mean: E[z].  # (parts, units) float64
    """

    norm: Norm
    energy: Tensor
    cross: Tensor | None
    mean: Tensor

    def weights(self, kept: Mapping[str, Indices], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replacements for the norm's weight and bias, by state-dict name; all units of the dense model."""
        norm, units = self.norm, self.energy.shape[1]
        columns = torch.from_numpy(indices(norm.dimension, kept))
        scale, shift = torch.ones_like(self.energy), torch.zeros_like(self.energy)
        for part in range(norm.parts):
            own = columns[columns // units == part] % units
            if own.numel() in (0, units):
                continue
            ratio = self.energy[part, own].mean()
            if self.cross is not None:
                ratio = ratio - self.cross[part][own[:, None], own].mean()
                shift[part] = self.mean[part, own].mean()
            scale[part] = ratio.clamp(min=_LEAST_RATIO).sqrt()
        weight = state[norm.weight].detach()
        result = {norm.weight: (weight.double().cpu() * scale.flatten()).to(weight)}
        if norm.bias is not None and self.cross is not None:
            bias = state[norm.bias].detach()
            result[norm.bias] = (bias.double().cpu() + weight.double().cpu() * shift.flatten()).to(bias)
        return result


def normalised(norm: Norm, x: Tensor) -> Tensor:
    """The norm's output before its affine part.  # (samples, parts, units, places)"""
    x = x.detach().float()
    if norm.kind == "group":
        return F.group_norm(x, norm.parts, eps=norm.epsilon).reshape(
            x.shape[0], norm.parts, x.shape[1] // norm.parts, -1
        )
    flat = x.reshape(-1, 1, x.shape[-1])
    if norm.kind == "rms":
        return (flat * torch.rsqrt(flat.square().mean(dim=-1, keepdim=True) + norm.epsilon))[..., None]
    return F.layer_norm(flat, flat.shape[-1:], eps=norm.epsilon)[..., None]


def batch_norm_scales(program: Program) -> frozenset[str]:
    """State-dict names of the scales of batch norms."""
    found = (operation.argument(1, "weight") for operation in program.operations if operation.kind == "batch_norm")
    return frozenset(weight.name for weight in found if isinstance(weight, Ref) and weight.name in program.parameters)


def find_norms(graph: DependencyGraph) -> tuple[Norm, ...]:
    """Norms with a scale of their own whose statistics run over a group, in program order."""
    program = graph.program
    readers = program.readers
    found = []
    for operation in program.operations:
        norm = _written_out(program, operation, readers) if operation.kind == "mean" else _norm(program, operation)
        own = [] if norm is None else [name for name in (norm.weight, norm.bias) if name is not None]
        if norm is not None and norm.groups and all(len(readers[name]) == 1 for name in own):
            found.append(norm)
    return tuple(found)


def _norm(program: Program, operation: Operation) -> Norm | None:
    kind = operation.kind.removesuffix("_norm")
    if kind not in ("layer", "rms", "group") or operation.kind == kind:
        return None
    x, weight, bias = operation.args[0], operation.argument(2, "weight"), operation.argument(3, "bias")
    bias = bias if kind != "rms" else None
    if not isinstance(weight, Ref) or weight.name not in program.parameters:
        return None
    if bias is not None and bias.name not in program.parameters:
        return None
    dimensions = program.values[x.name].dimensions
    if kind != "group" and len(operation.args[1]) != 1:
        return None
    parts = int(concrete(operation.args[1], {})) if kind == "group" else 1
    epsilon = operation.argument(3 if kind == "rms" else 4, "eps", None)
    axis = 1 if kind == "group" else -1
    name = bias.name if bias is not None else None
    return Norm(operation.name, x.name, kind, weight.name, name, dimensions[axis], parts, epsilon or 1e-6)


def _written_out(program: Program, mean: Operation, readers: Mapping[str, tuple[Operation, ...]]) -> Norm | None:
    """An RMS norm in single operators: `x * rsqrt(mean(x^2) + eps) * weight`, casts between them."""
    source, axes = mean.args[0], mean.argument(1, "dim")
    makers = {op.name: op for op in program.operations}
    square = makers.get(source.name)
    if (
        square is None
        or not _is_square(square)
        or axes not in ((-1,), (len(program.values[source.name].dimensions) - 1,))
    ):
        return None
    dimension = program.values[source.name].dimensions[-1]
    views, operation, x = parameter_views(program), mean, square.args[0].name
    while len(readers.get(operation.name, ())) == 1:
        operation = readers[operation.name][0]
        if operation.kind not in _BETWEEN:
            return None
        for name in operation.refs():
            parameter = views[name][0] if name in views else None
            if operation.kind == "mul" and parameter is not None:
                own = program.values[parameter].dimensions
                return Norm(mean.name, x, "rms", parameter, None, dimension, 1, 1e-6) if own == (dimension,) else None
    return None


def _is_square(operation: Operation) -> bool:
    kind, args = operation.kind, operation.args
    return kind == "square" or (kind == "pow" and args[1] == 2) or (kind == "mul" and args[0] == args[1])

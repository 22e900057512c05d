"""What gradients say of units: first-order Taylor and Fisher information, over calibration batches.

A batch goes through the dense program in parts small enough for a budget of memory; its gradients are summed into a
number a unit and let go.

**Without labels.** Where no loss is given, gradients are of `sum(e * outputs)`, `e` of mean 0 and covariance 1, drawn
for each sample: what a Gaussian model of the outputs, sampled from itself, has for its log-likelihood (Martens 2020,
New Insights and Perspectives on the Natural Gradient Method, section 5: targets are drawn from the model). The expected
square of such a derivative is the squared change of the outputs, of first order: what pruning is to keep small. Signs
give the least variance of all such `e` (Hutchinson 1990, A Stochastic Estimator of the Trace of the Influence Matrix).
Several outputs count alike, each divided by its norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph
from autoprune.graph.dimension import Batch, dense_size, groups_of
from autoprune.graph.module import plain_spec
from autoprune.graph.program import Operation, Program
from autoprune.pruning.calibration import inputs_of, run_program
from autoprune.pruning.criteria import Need
from autoprune.pruning.criteria.units import axis_sums, unit_sums
from autoprune.pruning.taps import Tap, find_taps

Loss: TypeAlias = Callable[[Any, int], Tensor]
"""From the model's outputs on a calibration batch and the batch's position to their mean loss, a scalar."""

ACTIVATION_BYTES = 1 << 29
"""What the activations of one part of a batch may take together: a batch is split to stay below."""


class NoGradientError(InputError):
    """No gradient flows from the outputs to anything."""


class _Fisher:
    """Mean over samples of the squared derivative by a gate on all that reads a unit.

    Args:
        graph: the traced dense model.
    """

    def __init__(self, graph: DependencyGraph) -> None:
        batched = any(
            isinstance(d, Batch) for name in graph.program.inputs for d in graph.program.values[name].dimensions
        )
        taps = [tap for tap in find_taps(graph) if tap.by_sample or not batched]
        self._sizes = {name: group.size for name, group in graph.groups.items()}
        self._taps: dict[str, list[Tap]] = {}
        for tap in taps:
            self._taps.setdefault(tap.operation, []).append(tap)
        self._gates: dict[str, Tensor] = {}  # of the samples at hand  (samples, size)
        self._sums: dict[str, Tensor] = {}
        self._samples = 0

    def gated(self, operation: Operation, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values with those that the operation contracts apart from what else reads them, and watched."""
        own = self._taps.get(operation.name, ())
        if not own:
            return values
        replaced = dict(values)
        for name in dict.fromkeys(tap.value for tap in own):
            x = values[name]
            gate = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            gate.register_hook(self._adder(x.detach(), [tap for tap in own if tap.value == name]))
            replaced[name] = gate
        return replaced

    def _adder(self, x: Tensor, taps: Sequence[Tap]) -> Callable[[Tensor], None]:
        def add(gradient: Tensor) -> None:
            product = x * gradient.detach()
            for tap in taps:
                places = tap.per_sample(product).cpu()
                for group in tap.groups:
                    found = unit_sums(places, tap.dimension, group, self._sizes[group])
                    self._gates[group] = self._gates[group] + found if group in self._gates else found

        return add

    def part_done(self, samples: int) -> None:
        """Square what the gates of one part of a batch have summed."""
        for group, gates in self._gates.items():
            squares = gates.square().sum(dim=0)
            self._sums[group] = self._sums[group] + squares if group in self._sums else squares
        self._gates = {}
        self._samples += samples

    def statistics(self) -> dict[str, Tensor]:
        """Group id -> what was summed, as averages.  # (size,) float64"""
        return {group: total / self._samples for group, total in self._sums.items()}


class _Taylor:
    """Mean over batches of the sum of (weight x gradient)^2 over all that goes with a unit.

    Args:
        graph: the traced dense model.
    """

    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph
        state = graph.state
        names = {member.parameter for group in graph.groups.values() for member in group.members}
        self.leaves = {
            name: state[name].detach().requires_grad_()
            for name in graph.program.parameters
            if name in names and state[name].is_floating_point()
        }
        self._axes = {
            (name, axis)
            for name in self.leaves
            for axis, dimension in enumerate(graph.program.values[name].dimensions)
            if groups_of(dimension)
        }
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._batches = 0

    def batch_done(self, samples: int) -> None:
        """Square the gradients of the mean loss of a batch, and let them go."""
        for name, axis in sorted(self._axes):
            leaf = self.leaves[name]
            if leaf.grad is None:
                continue
            squares = axis_sums(leaf.detach() * leaf.grad / samples, axis, torch.square).cpu()
            self._sums[name, axis] = self._sums[name, axis] + squares if (name, axis) in self._sums else squares
        for leaf in self.leaves.values():
            leaf.grad = None
        self._batches += 1

    def statistics(self) -> dict[str, Tensor]:
        """Group id -> what was summed, as averages.  # (size,) float64"""
        found: dict[str, Tensor] = {}
        for name, group in self._graph.groups.items():
            for member in group.members:
                places = self._sums.get((member.parameter, member.axis))
                if places is not None:
                    own = unit_sums(places, member.dimension, name, group.size) / self._batches
                    found[name] = found[name] + own if name in found else own
        return found


def gradient_statistics(
    graph: DependencyGraph, calibration: Sequence[Any], wanted: Collection[str], loss: Loss | None, seed: int
) -> dict[Need, dict[str, Tensor]]:
    """First-order Taylor and Fisher numbers of all groups, by one pass forward and backward over the batches.

    Args:
        graph: the traced dense model.
        calibration: batches of model inputs.
        wanted: "taylor", "fisher" or both.
        loss: of the model's outputs; a batch is then not split. Without one, see above.
        seed: of what is drawn without a loss; a sample's draw does not depend on the batch that it comes in.

    Returns:
        Statistic -> group id -> a number a unit.  # (size,) float64

    Raises:
        InputError: a batch that does not fit; outputs that no gradient flows from; a loss that is no finite scalar.
    """
    fisher = _Fisher(graph) if "fisher" in wanted else None
    taylor = _Taylor(graph) if "taylor" in wanted else None
    differentiate(
        graph,
        calibration,
        loss,
        seed,
        leaves=taylor.leaves if taylor is not None else {},
        seen=fisher.gated if fisher is not None else None,
        part_done=fisher.part_done if fisher is not None else None,
        batch_done=taylor.batch_done if taylor is not None else None,
    )
    found: dict[Need, dict[str, Tensor]] = {}
    if taylor is not None:
        found["taylor"] = taylor.statistics()
    if fisher is not None:
        found["fisher"] = fisher.statistics()
    return found


def differentiate(
    graph: DependencyGraph,
    calibration: Sequence[Any],
    loss: Loss | None,
    seed: int,
    *,
    leaves: Mapping[str, Tensor] | None = None,
    seen: Callable[[Operation, Mapping[str, Any]], Mapping[str, Any]] | None = None,
    made: Callable[[Operation, Any], Any] | None = None,
    part_done: Callable[[int], None] | None = None,
    batch_done: Callable[[int], None] | None = None,
) -> None:
    """Run the dense program forward and backward over calibration batches; who looks on has put hooks on tensors.

    Args:
        graph: the traced dense model; no gradient reaches its own parameters.
        calibration: batches of model inputs.
        loss: of the model's outputs; a batch is then not split. Without one, see above.
        seed: of what is drawn without a loss; a sample's draw does not depend on the batch that it comes in.
        leaves: parameters to differentiate by.
        seen, made: as `run_program`.
        part_done: called with the samples of each part of a batch, once gradients are there.
        batch_done: called with those of each batch.

    Raises:
        NoGradientError: outputs that no gradient flows from.
        InputError: a batch that does not fit; a loss that is no finite scalar.
    """
    program = graph.program
    state = {name: tensor.detach() for name, tensor in graph.state.items()} | dict(leaves or {})
    first = 0  # sample of the part
    with torch.enable_grad():
        for position, item in enumerate(calibration):
            inputs = [tensor.detach() for tensor in inputs_of(program, item)]
            parts = [inputs] if loss is not None else _parts(program, inputs)
            for part in parts:
                samples = _samples(program, part)
                values = run_program(program, state, part, seen or _unchanged, made=made)
                if loss is not None:
                    value = _checked(loss(_nested(graph, values), position)) * samples
                else:
                    value = _sampled(program, values, first, seed)
                _backward(value)
                first += samples
                if part_done is not None:
                    part_done(samples)
            if batch_done is not None:
                batch_done(sum(_samples(program, part) for part in parts))


def _backward(value: Tensor) -> None:
    try:
        torch.autograd.backward(value)
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        raise NoGradientError(f"criterion: expected operators with derivatives, got {error}") from error


def _unchanged(operation: Operation, values: Mapping[str, Any]) -> Mapping[str, Any]:
    return values


def _batch_axis(program: Program, name: str) -> int | None:
    dimensions = program.values[name].dimensions
    return next((axis for axis, dimension in enumerate(dimensions) if dimension == Batch()), None)


def _samples(program: Program, inputs: Sequence[Tensor]) -> int:
    """How many samples a batch has; 1 where the program was traced for one batch size, as they cannot be told apart."""
    for name, tensor in zip(program.inputs, inputs, strict=True):
        axis = _batch_axis(program, name)
        if axis is not None:
            return tensor.shape[axis]
    return 1


def _parts(program: Program, inputs: Sequence[Tensor]) -> list[list[Tensor]]:
    """A batch in parts whose activations stay below `ACTIVATION_BYTES`, at least a sample each."""
    values = [program.values[name] for operation in program.operations for name in operation.results]
    elements = sum(math.prod(map(dense_size, v.dimensions)) for v in values if v.dtype.startswith(("float", "bfloat")))
    axes = [_batch_axis(program, name) for name in program.inputs]
    most = max(1, ACTIVATION_BYTES // max(1, 4 * elements))
    if _samples(program, inputs) <= most or all(axis is None for axis in axes):
        return [list(inputs)]
    count = math.ceil(_samples(program, inputs) / most)
    split = [
        [tensor] * count if axis is None else torch.split(tensor, most, dim=axis)
        for tensor, axis in zip(inputs, axes, strict=True)
    ]
    return [list(part) for part in zip(*split, strict=True)]


def _outputs(program: Program, values: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """The outputs that a gradient flows from."""
    found = []
    for name in dict.fromkeys(program.outputs):
        value = None if name is None else values[name]
        if name is not None and isinstance(value, Tensor) and value.requires_grad:
            found.append((name, value))
    return found


def _sampled(program: Program, values: Mapping[str, Any], first: int, seed: int) -> Tensor:
    """`sum(e * outputs)`, `e` random signs for each sample (see above)."""
    total: Tensor | None = None
    for place, (name, output) in enumerate(_outputs(program, values)):
        axis = _batch_axis(program, name)
        y = output[None] if axis is None else output.movedim(axis, 0)
        draws = torch.stack([_signs(y.shape[1:], seed, first + sample, place) for sample in range(y.shape[0])])
        scale = y.detach().flatten(1).double().square().mean(dim=1).sqrt().clamp(min=1e-30)  # (samples,)
        weighted = (y.flatten(1) * draws.to(y).flatten(1)).sum(dim=1)
        own = (weighted / scale.to(y)).sum() if len(program.outputs) > 1 else weighted.sum()
        total = own if total is None else total + own
    if total is None:
        raise NoGradientError(
            "criterion: expected outputs that depend on the weights by differentiable operations, got none. "
            "Use criterion='obs', which takes no gradients."
        )
    return total


def _signs(shape: torch.Size, seed: int, sample: int, output: int) -> Tensor:
    drawn = np.random.SeedSequence([seed % 2**64, sample, output]).generate_state(1, np.uint64)[0]
    bits = torch.randint(2, shape, generator=torch.Generator().manual_seed(int(drawn) >> 1))
    return 2 * bits - 1


def _nested(graph: DependencyGraph, values: Mapping[str, Any]) -> Any:
    """Outputs nested as the model's."""
    outputs = [None if name is None else values[name] for name in graph.program.outputs]
    if graph.output_example is not None:
        return pytree.tree_map(lambda place: outputs[place], graph.output_example)
    return pytree.tree_unflatten(outputs, plain_spec(graph.program.output_tree))


def _checked(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"loss: expected a scalar that depends on the model's outputs, got {got}.")
    return loss.reshape(())

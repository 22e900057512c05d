"""`Pruner`: from a policy to a smaller model whose remaining units make up for those that went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph, UnitOrder
from autoprune.graph.dimension import Indices, indices
from autoprune.graph.module import TracedModule
from autoprune.pruning.criteria import Evidence, criteria
from autoprune.pruning.criteria.magnitude import magnitude_order
from autoprune.pruning.gradients import Loss
from autoprune.pruning.norms import batch_norm_scales
from autoprune.pruning.recalibration import Anchor, anchors, recalibrate, running_norms
from autoprune.pruning.repairs import Findings, Repairs
from autoprune.pruning.sensitivity import Floats, predicted_damage, reconstruction_errors
from autoprune.pruning.statistics import measure


class Pruner:
    """Turns policies into smaller models; what is dear is computed once here, for all widths of every group.

    Picklable (caches stay behind) and deterministic given its arguments.

    Args:
        graph: the traced dense model.
        criterion: name of a registered criterion (`autoprune.pruning.criteria`).
        calibration: batches of model inputs: tuples of tensors (a tensor, or a mapping of keyword inputs, will do).
            They are looked at once here and once by each `build`.
        compensate: re-fit consumers to the units that stay, correct norms over them, rotate queries and keys.
        recalibrate: re-estimate batch-norm statistics of each built model.
        seed: for criteria that draw.
        loss: for criteria that take gradients, from the model's outputs on a calibration batch and the batch's position
            to a scalar: the mean loss with labels, say. Without one they look at how the outputs themselves change
            (`autoprune.pruning.gradients`).

    Without calibration (criteria that do not need it only) models are sliced, neither compensated nor recalibrated.

    Attributes:
        graph: the traced dense model.
        orders: group id -> `UnitOrder`.
        notes: what is worth knowing though nothing is wrong: groups that the criterion had nothing to say of.

    Raises:
        InputError: unknown criterion; no calibration where the criterion needs it; activations that are not finite; a
            criterion that has nothing to say of any group.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        criterion: str = "obs",
        calibration: Sequence[Any] = (),
        *,
        compensate: bool = True,
        recalibrate: bool = True,
        seed: int = 0,
        loss: Loss | None = None,
    ) -> None:
        chosen = criteria.get(criterion)()
        self.graph = graph
        self._calibration = _batches(calibration)
        if chosen.needs and not self._calibration:
            raise InputError(
                f"criterion '{criterion}': expected calibration batches, got none. Pass calibration=[(inputs,), ...] "
                "(a few hundred samples without labels are enough), or use criterion='l1', which needs none."
            )
        self._recalibrate = recalibrate
        self._anchors: dict[int | None, dict[str, Anchor]] = {}  # by samples that they were seen on
        self._seed = seed
        statistics = measure(graph, self._calibration, chosen.needs, loss, seed)
        wanted = bool(self._calibration) and (compensate or "consumers" in chosen.needs)
        findings = Findings.of(graph, self._calibration, seed) if wanted else None
        scales = batch_norm_scales(graph.program)
        self.orders: dict[str, UnitOrder] = {}
        self._errors: dict[str, Floats] = {}  # of groups that something contracts
        silent: list[str] = []
        for name, group in graph.groups.items():
            regressions = findings.regressions(name, graph.state, compensate) if findings is not None else ()
            measured = {what: scores[name] for what, scores in statistics.items() if name in scores}
            evidence = Evidence(graph.state, regressions, seed, scales, measured)
            order = chosen.order(group, evidence)
            if order is None:
                silent.append(name)
                order = magnitude_order(group, evidence, power=2)
            self.orders[name] = UnitOrder(name, order)
            if regressions:
                self._errors[name] = reconstruction_errors(regressions, order)
        self.notes = _notes(criterion, silent, len(graph.groups))
        self._repairs = Repairs(findings, self.orders, graph.state) if compensate and findings is not None else None

    def build(self, policy: Mapping[str, int], samples: int | None = None) -> TracedModule:
        """The pruned model: sliced, compensated, batch norms re-estimated; own tensors, eval mode.

        Args:
            policy: group id -> units to keep.
            samples: batch norms are re-estimated on the first so many calibration samples only; on all where None.

        Raises:
            InputError: a policy that does not fit the graph.
        """
        module = self.slice(policy)
        if self._recalibrate and running_norms(module):
            batches = self._calibration if samples is None else _first(self._calibration, samples)
            if samples not in self._anchors:
                self._anchors[samples] = anchors(self.graph.module().clone_tensors(), batches)
            recalibrate(module, batches, self._anchored(self._kept(module.widths), samples))
        return module

    def _kept(self, widths: Mapping[str, int]) -> dict[str, Indices]:
        """Groups that are cut -> the units that stay."""
        groups = self.graph.groups
        return {name: self.orders[name].kept(width) for name, width in widths.items() if width < groups[name].size}

    def _anchored(self, kept: Mapping[str, Indices], samples: int | None) -> dict[str, Anchor]:
        """The dense model's batch norms as seen on so many samples, at the units that are kept."""
        values = self.graph.program.values
        found = {}
        for name, anchor in self._anchors[samples].items():
            (dimension,) = values[f"{name}.running_mean"].dimensions
            found[name] = anchor.take(torch.from_numpy(indices(dimension, kept)).to(anchor.mean.device))
        return found

    @property
    def recalibrated(self) -> int:
        """Samples that each built model's batch norms are re-estimated on; 0 where there are none."""
        norms = running_norms(self.graph.module()) if self._recalibrate else ()
        return sum(_samples(batch) for batch in self._calibration) if norms else 0

    def damage(self) -> dict[str, Floats]:
        """What each width of each group does to the model's outputs, predicted from calibration (`sensitivity.py`).

        Takes a pass forward and backward over the calibration data.

        Returns:
            Group id -> damage by units kept, none to all; nothing of groups that no parameter is contracted with, and
            nothing at all where there is neither compensation nor a criterion that looks at consumers.  # (size + 1,)
        """
        if not self._errors:
            return {}
        try:
            fisher = measure(self.graph, self._calibration, {"fisher"}, None, self._seed)["fisher"]
        except InputError:  # no gradient reaches the weights from the outputs
            fisher = {}
        return predicted_damage(self._errors, fisher)

    def slice(self, policy: Mapping[str, int]) -> TracedModule:
        """As `build`, with the batch norms' dense statistics."""
        checked = self.graph.check(policy)
        kept = self._kept(checked)
        weights = self._repairs.weights({name: checked[name] for name in kept}) if self._repairs is not None else {}
        return self.graph.module(kept=kept, weights=weights).clone_tensors()


def prune(
    graph: DependencyGraph, policy: Mapping[str, int], criterion: str = "obs", calibration: Iterable[Any] = ()
) -> TracedModule:
    """One pruned model (see `Pruner.build`); for many policies of one model, keep a `Pruner`.

    Args:
        graph: the traced dense model.
        policy: group id -> units to keep.
        criterion: name of a registered criterion (`autoprune.pruning.criteria`).
        calibration: batches of model inputs, without labels.

    Raises:
        InputError: as `Pruner` and `Pruner.build`.
    """
    graph.check(policy)
    return Pruner(graph, criterion, tuple(calibration)).build(policy)


def _notes(criterion: str, silent: Sequence[str], groups: int) -> tuple[str, ...]:
    """What is said of groups that a criterion says nothing of."""
    if not silent:
        return ()
    if len(silent) == groups:
        raise InputError(
            f"criterion '{criterion}': expected at least one group that it can order, got none of {groups} (it finds "
            "nothing to go by in this model). Use criterion='obs', or 'l2' without calibration."
        )
    some = ", ".join(f"'{name}'" for name in silent[:3]) + (", ..." if len(silent) > 3 else "")
    return (f"criterion '{criterion}' has nothing to go by in {len(silent)} of {groups} groups ({some}): by l2 there.",)


def _batches(calibration: Sequence[Any]) -> tuple[Any, ...]:
    """Each item as a tuple of positional inputs, or a mapping of keyword inputs."""
    batches = []
    for item in calibration:
        values = item.values() if isinstance(item, Mapping) else item if isinstance(item, (tuple, list)) else (item,)
        if not values or not all(isinstance(value, Tensor) for value in values):
            kinds = ", ".join(sorted({type(value).__name__ for value in values})) or "nothing"
            raise InputError(
                f"calibration: expected tuples of input tensors, got an item with {kinds}. "
                "Pass [(inputs,), ...], no labels."
            )
        if any(value.numel() == 0 for value in values):
            raise InputError("calibration: expected batches with samples, got an empty one. Leave it out.")
        own = [_compact(value) for value in values]
        batches.append(dict(zip(item, own, strict=True)) if isinstance(item, Mapping) else tuple(own))
    return tuple(batches)


def _samples(batch: Any) -> int:
    tensors = batch.values() if isinstance(batch, Mapping) else batch
    return int(next(iter(tensors)).shape[0])


def _first(batches: Sequence[Any], samples: int) -> list[Any]:
    """The first samples, at least two (a batch norm needs a variance); the last batch is cut."""
    found: list[Any] = []
    left = max(samples, 2)
    for batch in batches:
        if left < 2:
            break
        if isinstance(batch, Mapping):
            found.append({name: tensor[:left] for name, tensor in batch.items()})
        else:
            found.append(tuple(tensor[:left] for tensor in batch))
        left -= _samples(batch)
    return found


def _compact(tensor: Tensor) -> Tensor:
    """A view of part of a larger tensor as a tensor of its own: pickling would carry the whole."""
    tensor = tensor.detach()
    whole = tensor.untyped_storage().nbytes() <= tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()

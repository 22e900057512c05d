"""`Pruner`: from a policy to a smaller model whose remaining units make up for those that went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph, UnitOrder
from autoprune.graph.module import TracedModule
from autoprune.pruning.criteria import Evidence, criteria
from autoprune.pruning.recalibration import recalibrate
from autoprune.pruning.repairs import Findings, Repairs


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

    Without calibration (criteria that do not need it only) models are sliced, neither compensated nor recalibrated.

    Attributes:
        graph: the traced dense model.
        orders: group id -> `UnitOrder`.

    Raises:
        InputError: unknown criterion; no calibration where the criterion needs it; activations that are not finite.
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
    ) -> None:
        chosen = criteria.get(criterion)()
        self.graph = graph
        self._calibration = _batches(calibration)
        if chosen.needs_calibration and not self._calibration:
            raise InputError(
                f"criterion '{criterion}': expected calibration batches, got none. Pass calibration=[(inputs,), ...] "
                "(a few hundred samples without labels are enough), or use criterion='l1', which needs none."
            )
        self._recalibrate = recalibrate
        wanted = bool(self._calibration) and (compensate or chosen.needs_calibration)
        findings = Findings.of(graph, self._calibration) if wanted else None
        self.orders: dict[str, UnitOrder] = {}
        for name, group in graph.groups.items():
            regressions = findings.regressions(name, graph.state, compensate) if findings is not None else ()
            self.orders[name] = UnitOrder(name, chosen.order(group, Evidence(graph.state, regressions, seed)))
        self._repairs = Repairs(findings, self.orders, graph.state) if compensate and findings is not None else None

    def build(self, policy: Mapping[str, int]) -> TracedModule:
        """The pruned model: sliced, compensated, batch norms re-estimated; own tensors, eval mode.

        Raises:
            InputError: a policy that does not fit the graph.
        """
        module = self.slice(policy)
        if self._recalibrate:
            recalibrate(module, self._calibration)
        return module

    def slice(self, policy: Mapping[str, int]) -> TracedModule:
        """As `build`, with the batch norms' dense statistics."""
        groups = self.graph.groups
        checked = self.graph.check(policy)
        cut = {name: width for name, width in checked.items() if width < groups[name].size}
        kept = {name: self.orders[name].kept(width) for name, width in cut.items()}
        weights = self._repairs.weights(cut) if self._repairs is not None else {}
        return self.graph.module(kept=kept, weights=weights).clone_tensors()


def prune(
    graph: DependencyGraph, policy: Mapping[str, int], criterion: str = "obs", calibration: Iterable[Any] = ()
) -> TracedModule:
    """One pruned model (see `Pruner.build`); for many policies of one model, keep a `Pruner`.

    Args:
        graph: the traced dense model.
        policy: group id -> units to keep.
        criterion: `obs`, `l1`, `l2`, `random` or an installed one.
        calibration: batches of model inputs, without labels.

    Raises:
        InputError: as `Pruner` and `Pruner.build`.
    """
    graph.check(policy)
    return Pruner(graph, criterion, tuple(calibration)).build(policy)


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


def _compact(tensor: Tensor) -> Tensor:
    """A view of part of a larger tensor as a tensor of its own: pickling would carry the whole."""
    tensor = tensor.detach()
    whole = tensor.untyped_storage().nbytes() <= tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()

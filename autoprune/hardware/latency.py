"""`LatencyTable`: a profile bound to one model; widths in, latencies out, for many policies at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from autoprune.core.errors import InputError
from autoprune.core.files import canonical_json, digest
from autoprune.graph.dimension import Batch, Dimension, size
from autoprune.graph.fusion import KernelSlot
from autoprune.hardware.analytical_estimate import Estimator
from autoprune.hardware.binding import Binding, BoundSlot, Family, Kinds
from autoprune.hardware.composition import PLAIN, compose
from autoprune.hardware.correction import Part
from autoprune.hardware.cost import Cost, Graph, table_cost
from autoprune.hardware.estimate import ALL, Roofline
from autoprune.hardware.interpolation import ESTIMATED, INTERPOLATED, MEASURED, Floats, Integers
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.profile import PERCENTILES, HardwareProfile

KINDS = ("measured", "interpolated", "estimated")
STAIRCASE = ("conv", "pointwise")  # runtimes run them in blocks of channels, and pay for whole blocks
# A sum of kernels that no whole model corrects: measured off by 13-48 %, mostly too low (see ARCHITECTURE.md).
UNFITTED = (-0.15, 0.5)


class LatencyTable:
    """A profile bound to one model.

    Args:
        profile: kernels and composition.
        graph: the model; its groups in order are the columns of every `widths`.

    Attributes:
        groups: group ids, in the order of the columns of `widths`.
        slots: the model's fused kernels, in execution order.
        profile, graph: what it was made from.
    """

    def __init__(self, profile: HardwareProfile, graph: Graph) -> None:
        self.profile = profile
        self.graph = graph
        self.groups = tuple(graph.groups)
        self._batch = profile.batch
        # Analytical rows are a model's words; rows of failed kernels hold no times.
        known = [row for row in profile.kernels if row.provenance != "analytical" and not row.failure]
        inside = profile.header.within == "model"
        self._context = profile.header.context if inside else {}
        quantum = profile.alignment_quantum if inside else None
        self._binding = Binding(graph.program, known, profile.batch, quantum)
        model = profile.header.analytical
        self._estimator = None if model is None else Estimator(model, known)
        self.slots = tuple(bound.slot for bound in self._binding.slots)
        predicting = [row for row in known if row.within == profile.header.within]
        self._roofline = Roofline(predicting or profile.kernels)
        self._tail_ratio = _tail_ratios(predicting)
        self._watts = _watts(known)
        own = profile.header.known.get(families_digest(bound.family.name for bound in self._binding.slots))
        self._compositions = profile.header.composition if own is None else own.composition
        self._residuals = profile.header.validation.residuals if own is None else own.residuals

    def slot_us(self, widths: Integers) -> tuple[Floats, Kinds]:
        """Time of every kernel, and how it is known (index into `KINDS`).

        Args:
            widths: (n, n_groups)

        Returns:
            times (n, n_slots), kinds (n, n_slots), in the order of `slots`; where a policy removes a branch, further
            columns follow for what is left of kernels that lost a part.
        """
        named, count = self._named(widths)
        times, kinds = zip(*self._kernels(named, count), strict=True)
        return np.stack(times, axis=1), np.stack(kinds, axis=1)

    def parts(self, widths: Integers) -> list[Part]:
        """Every kernel of the dense program under some policies, in the order of `slots`.

        Args:
            widths: (n, n_groups)
        """
        named, count = self._named(widths)
        found = []
        for bound, (times, _) in zip(self._binding.slots, self._kernels(named, count), strict=False):
            sizes = [np.broadcast_to(np.asarray(size(d, named)), count) for d in bound.slot.dimensions]
            stacked = np.stack(sizes, axis=1).astype(np.int64) if sizes else np.zeros((count, 0), dtype=np.int64)
            found.append(Part(bound.family.name, bound.slot.operator, stacked, times))
        return found

    def sum_us(self, widths: Integers) -> tuple[Floats, Floats]:
        """Sum of the kernels' medians, and the number of kernels that run, of each policy.  # (n,), (n,)"""
        named, count = self._named(widths)
        total, kernels = np.zeros(count), np.zeros(count)
        for times, _ in self._kernels(named, count):
            total += times
            kernels += times > 0
        return total, kernels

    def latency_us(self, widths: Integers) -> dict[str, Floats]:
        """Predicted latency of each policy.

        Args:
            widths: kept units, one row a policy, one column a group in the order of `groups`; closed, as
                `DependencyGraph.check` leaves them.  # (n, n_groups)

        Returns:
            "p50", "p90", "p95", "p99" -> (n,), ascending in the percentile.

        Raises:
            InputError: another number of columns than groups.
        """
        sums, kernels = self.sum_us(widths)
        result: dict[str, Floats] = {}
        floor = np.zeros_like(sums)
        for percentile in PERCENTILES:
            composition = self._compositions.get(percentile)
            ratio = 1.0 if composition is not None else self._tail_ratio[percentile]
            times = compose(composition or PLAIN, sums, kernels) * ratio
            result[percentile] = floor = np.maximum(times, floor)
        return result

    def interval_us(self, widths: Integers) -> dict[str, tuple[Floats, Floats]]:
        """Lowest and highest latency to expect, from the errors on models that were left out of the fit.

        Of a model that was profiled, these are policies of its own; of another, other models. They are stretched by the
        share of time that is estimated, by up to three times, unless the profile is analytical.
        """
        analytical = self.profile.header.provenance == "analytical"  # its errors are those of estimates already
        stretch = 1.0 + (0.0 if analytical else 2.0) * self.shares(widths)["estimated"]
        intervals = {}
        for percentile, times in self.latency_us(widths).items():
            residuals = self._residuals.get(percentile)
            low, high = UNFITTED if residuals is None else (min(residuals.low, 0.0), max(residuals.high, 0.0))
            intervals[percentile] = (times * np.maximum(1.0 + low * stretch, 0.0), times * (1.0 + high * stretch))
        return intervals

    def shares(self, widths: Integers) -> dict[str, Floats]:
        """Share of the kernels' time that is measured, interpolated and estimated.  # kind -> (n,)"""
        times, kinds = self.slot_us(widths)
        total = np.maximum(times.sum(axis=1), 1e-12)
        return {name: (times * (kinds == kind)).sum(axis=1) / total for kind, name in enumerate(KINDS)}

    @property
    def has_energy(self) -> bool:
        """Whether the profile knows the energy of any kernel."""
        return bool(self._watts)

    def energy_uj(self, widths: Integers) -> Floats:
        """Energy of one run of each policy: its kernels' times, each at the typical power of its class.  # (n,)

        Args:
            widths: (n, n_groups)

        Raises:
            InputError: the profile has no energy data.
        """
        if not self._watts:
            raise InputError(
                f"energy: the profile '{self.profile.name}' has none. Profile the device where it has a counter (RAPL, "
                "NVML), or import a table with a column energy_uj."
            )
        named, count = self._named(widths)
        total = np.zeros(count)
        for (bound, _), (times, _) in zip(self._binding.running(named), self._kernels(named, count), strict=True):
            total += times * self._watts.get(bound.slot.operator, self._watts[ALL])
        return total

    def cost(self, policy: Mapping[str, int]) -> Cost:
        """Everything one policy costs.

        Raises:
            InputError: an unknown group, or a width outside it.
        """
        return table_cost(self, policy)

    def _named(self, widths: Integers) -> tuple[dict[str, Integers], int]:
        array = np.asarray(widths, dtype=np.int64)
        if array.ndim != 2 or array.shape[1] != len(self.groups):
            raise InputError(f"latency: expected widths of shape (n, {len(self.groups)}), got {array.shape}.")
        columns = np.ascontiguousarray(array.T)
        named = {group: columns[index] for index, group in enumerate(self.groups)}
        named[Batch.KEY] = np.int64(self._batch)
        return named, array.shape[0]

    def _kernels(self, named: dict[str, Integers], count: int) -> Iterator[tuple[Floats, Kinds]]:
        """Times and kinds of every kernel under all policies; 0 and measured where it does not run."""
        sizes: dict[Dimension, Integers] = {}
        for bound, running in self._binding.running(named):
            times, kinds = self._slot(bound, named, count, sizes)
            if running is not None:
                times, kinds = np.where(running, times, 0.0), np.where(running, kinds, np.int8(MEASURED))
            yield times, kinds

    def _slot(
        self, bound: BoundSlot, named: dict[str, Integers], count: int, sizes: dict[Dimension, Integers]
    ) -> tuple[Floats, Kinds]:
        """Times and kinds of one kernel under all policies."""
        slot, family = bound.slot, bound.family
        codes = np.zeros(count, dtype=np.int64)
        for dimension, base in zip(slot.dimensions, family.bases, strict=True):
            if dimension not in sizes:
                sizes[dimension] = np.asarray(size(dimension, named), dtype=np.int64)
            codes = codes * base + sizes[dimension]
        if not len(family.times):
            unique, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
            times, kinds = self._predict(slot, family, unique, first, named)
            return times[inverse], kinds[inverse]
        places = np.full(family.cells, -1, dtype=np.int64)
        places[codes] = np.arange(count)
        missing = np.flatnonzero((places >= 0) & np.isnan(family.times))
        if len(missing):
            family.times[missing], family.kinds[missing] = self._predict(slot, family, missing, places[missing], named)
        return family.times[codes], family.kinds[codes]

    def _predict(
        self, slot: KernelSlot, family: Family, codes: Integers, policies: Integers, named: dict[str, Integers]
    ) -> tuple[Floats, Kinds]:
        """Exact where measured, else interpolated, else estimated; nothing runs where a width is 0.

        Args:
            codes: sizes wanted, encoded.  # (m,)
            policies: for each, a policy that has them.  # (m,)
        """
        sizes = family.decode(codes)
        if family.surface is not None:
            times, kinds = family.surface.predict(sizes, *_work(slot, policies, named))
        elif family.table is None:
            times, kinds = np.full(len(codes), np.nan), np.full(len(codes), ESTIMATED, dtype=np.int8)
        else:
            times, kinds = family.table.predict(sizes)
            between = kinds == INTERPOLATED
            if slot.operator in STAIRCASE and between.any():
                stepped = family.table.within_step(sizes[between], self.profile.alignment_quantum)
                times[between] = family.table.predict(stepped)[0]
            times *= self._context.get(slot.operator, 1.0)
        unknown = np.isnan(times)
        if unknown.any():
            times[unknown] = self._estimate(slot, family, sizes[unknown], policies[unknown], named)
        empty = (sizes == 0).any(axis=1)
        times[empty], kinds[empty] = 0.0, MEASURED
        return times, kinds

    def _estimate(
        self, slot: KernelSlot, family: Family, sizes: Integers, policies: Integers, named: dict[str, Integers]
    ) -> Floats:
        flops, bytes_ = _work(slot, policies, named)
        if self._estimator is not None:
            return self._estimator.slot_us(slot, self._batch, sizes, flops, bytes_)
        estimated = self._roofline.estimate_us(slot.operator, flops, bytes_)
        if family.table is None or family.table.work is None:
            return estimated
        nearest = family.table.nearest(sizes)
        factor = self._context.get(slot.operator, 1.0)
        near = self._roofline.estimate_us(slot.operator, *(part[nearest] for part in family.table.work))
        scaled: Floats = factor * estimated * family.table.times_us[nearest] / near
        return scaled


def families_digest(families: Iterable[str]) -> str:
    """What tells a profiled model from others: 16 hex digits over the families of its kernels, in order."""
    return digest(canonical_json(list(families)))


def _work(slot: KernelSlot, policies: Integers, named: dict[str, Integers]) -> tuple[Floats, Floats]:
    """Flops and bytes of a kernel under some of the policies.  # (m,), (m,)"""
    widths = {group: values[policies] if np.ndim(values) else values for group, values in named.items()}
    work = [np.broadcast_to(np.asarray(f(widths), dtype=np.float64), len(policies)) for f in (slot.flops, slot.bytes)]
    return work[0], work[1]


def _watts(rows: Sequence[KernelRow]) -> dict[str, float]:
    """Median power of each operator class, and of all kernels; empty where no energy is known."""
    powers: dict[str, list[float]] = {}
    for row in rows:
        if row.energy_uj is not None and row.p50_us > 0:
            for name in (row.operator, ALL):
                powers.setdefault(name, []).append(row.energy_uj / row.p50_us)
    return {name: float(np.median(values)) for name, values in powers.items()}


def _tail_ratios(rows: Sequence[KernelRow]) -> dict[str, float]:
    """Typical ratio of each percentile to the median, where no composition was fitted."""
    usable = [row for row in rows if row.p50_us > 0]
    ratios = {p: [getattr(row, f"{p}_us") / row.p50_us for row in usable] for p in PERCENTILES}
    return {percentile: float(np.median(values)) if values else 1.0 for percentile, values in ratios.items()}

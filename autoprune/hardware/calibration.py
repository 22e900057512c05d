"""From kernels to the time of a model: everything that a profile learns from whole models.

Times of kernels alone, and times inside whole models where the runtime's profiler gives them, each with and without a
correction per family, are tried in turn on models left out; the profile keeps what predicts best and says which it is.
Pure: whole models come as `Observation`s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.graph.dimension import Batch, Widths
from autoprune.graph.fusion import KernelSlot, kernel_slots
from autoprune.graph.kernel import Kernel
from autoprune.hardware.composition import compose, fit_composition, residuals_of
from autoprune.hardware.correction import Correction, Part
from autoprune.hardware.cost import Graph
from autoprune.hardware.fit import Floats
from autoprune.hardware.interpolation import Integers
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.latency import LatencyTable, families_digest
from autoprune.hardware.measure import Progress
from autoprune.hardware.observation import Observation
from autoprune.hardware.profile import PERCENTILES, Composition, HardwareProfile, KnownModel, Residuals, Validation
from autoprune.pareto.correlation import spearman_rho

FOLDS = 6
FEWEST = 12  # whole models that more than a composition is learnt from
FEWEST_FOLDED = 4  # whole models that errors are learnt from
MOST_ROWS = 240  # of a family, timed inside models
LEAST_US = 0.01
OUTLYING = 0.3  # residuals of more say nothing of the pace
PLAIN, CORRECTED = "", ", corrected"
STAGE = "ways to predict"


def calibrated(
    bare: HardwareProfile,
    graphs: Sequence[Graph],
    observed: Sequence[Observation],
    drift: float = 0.0,
    notes: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> HardwareProfile:
    """A profile of kernels with what whole models teach: rows inside models, composition, intervals, validation.

    Args:
        bare: rows timed alone.
        graphs: the profiled models.
        observed: whole models of those, timed.
        drift: of the sentinel, for the record.
        notes: for the record.
        progress: called with ("ways to predict", done, total).
    """
    if not observed:
        return replace(bare, header=bare.header.model_copy(update={"validation": Validation(notes=notes)}))
    whole = _Whole(bare, graphs, observed)
    names = ["alone"]
    if len(observed) >= FEWEST:
        names = [f"{source}{kind}" for source in whole.sources() for kind in (PLAIN, CORRECTED)]
    report = progress or (lambda *_: None)
    errors = {}
    for done, name in enumerate(names):
        report(STAGE, done, len(names) + 1)
        errors[name] = whole.left_out(name, whole.random_folds(), own=True)
    compared = {name: float(np.abs(own["p50"]).mean()) for name, own in errors.items() if len(own["p50"])}
    best = min(compared, key=lambda name: compared[name], default="alone")
    report(STAGE, len(names), len(names) + 1)
    profile = whole.profile(best, np.arange(len(observed)))
    sums, kernels = whole.sums_of(profile)
    pooled = whole.left_out(best, whole.model_folds(), own=False) if len(whole.seen) > 1 else errors[best]
    validation = Validation(
        models=len(observed),
        residuals=_residuals(pooled),
        compared=compared,
        sentinel_drift=drift,
        rank_correlation=_rank_correlation(sums, whole.times_us("p50")),
        notes=notes,
    )
    learnt = {
        "composition": whole.compositions(sums, kernels, np.arange(len(observed))),
        "known": whole.known(sums, kernels, errors[best]) if len(whole.seen) > 1 else {},
        "validation": validation,
    }
    report(STAGE, len(names) + 1, len(names) + 1)
    return replace(profile, header=profile.header.model_copy(update=learnt))


def _rank_correlation(sums: Floats, times_us: Floats) -> float | None:
    """Spearman's of the kernels' sums and the models' times; None for few models, or where all are alike."""
    rho = spearman_rho(sums.tolist(), times_us.tolist())
    return rho if len(sums) >= FEWEST_FOLDED and math.isfinite(rho) else None


def _residuals(errors: Mapping[str, Floats]) -> dict[str, Residuals]:
    return {percentile: residuals_of(own) for percentile, own in errors.items() if len(own)}


@dataclass(frozen=True, eq=False)
class _Seen:
    """One profiled model and the policies of it that were timed."""

    graph: Graph
    slots: tuple[KernelSlot, ...]
    places: Integers  # of its observations among all  # (k,)
    widths: Integers  # (k, n_groups)

    def named(self, row: int) -> Widths:
        return {group: int(width) for group, width in zip(self.graph.groups, self.widths[row], strict=True)}


class _Whole:
    """What was observed, and the ways to learn from part of it.

    Attributes:
        seen: models with at least one observation.
    """

    def __init__(self, bare: HardwareProfile, graphs: Sequence[Graph], observed: Sequence[Observation]) -> None:
        self._bare = replace(bare, kernels=tuple(row for row in bare.kernels if row.within == "alone"))
        self._observed = observed
        self.seen: list[_Seen] = []
        for target, graph in enumerate(graphs):
            places = np.array([i for i, item in enumerate(observed) if item.target == target], dtype=np.int64)
            if len(places):
                widths = np.array([observed[i].widths for i in places], dtype=np.int64)
                self.seen.append(_Seen(graph, kernel_slots(graph.program), places, widths))
        self._kept: dict[tuple[str, bytes], tuple[HardwareProfile, list[list[Part]]]] = {}
        self._exponent = self._pace_exponent()

    def sources(self) -> tuple[str, ...]:
        """Where times of kernels can come from."""
        return ("alone", "inside") if all(item.node_us for item in self._observed) else ("alone",)

    def times_us(self, percentile: str) -> Floats:
        """Measured times of all models at the pace that is typical beside them, as the sentinel tells it.  # (n,)"""
        return self.clock_us(percentile) / self._paces() ** self._exponent

    def clock_us(self, percentile: str) -> Floats:
        """Measured times of all models as the clock said.  # (n,)"""
        return np.array([item.measured.us(percentile) for item in self._observed], dtype=np.float64)

    def _paces(self) -> Floats:
        """The sentinel's pace beside each policy, over its median beside policies of the same model.  # (n,)

        A model leaves cold caches behind, so the sentinel is slower beside whole models than beside kernels, and the
        more so the larger they are: 2 to 6 %, which is not the machine's.
        """
        paces = np.array([item.measured.pace for item in self._observed], dtype=np.float64)
        for seen in self.seen:
            paces[seen.places] /= np.median(paces[seen.places])
        return paces

    def _pace_exponent(self) -> float:
        """How much of the sentinel's pace whole models share, from 0 to 1: a regression of what kernels leave open."""
        if len(self._observed) < FEWEST:
            return 0.0
        pace, times = np.log(self._paces()), self.clock_us("p50")
        sums, kernels = self._added(self._source("alone", np.arange(0))[1])
        left = np.zeros(len(times))
        for seen in self.seen:
            own = seen.places
            fitted = fit_composition(sums[own], kernels[own], times[own])
            left[own] = np.log(times[own] / np.maximum(compose(fitted, sums[own], kernels[own]), LEAST_US))
            left[own] -= np.median(left[own])
        shared = float(np.clip(left, -OUTLYING, OUTLYING) @ pace)
        return min(max(shared / max(float(pace @ pace), 1e-12), 0.0), 1.0)

    def random_folds(self) -> list[Integers]:
        """Policies left out together, some of every model.  # each (k,)"""
        count = len(self._observed)
        if count < FEWEST_FOLDED:
            return []
        fold = np.random.default_rng(0).permutation(count) % min(FOLDS, count)
        return [np.flatnonzero(fold == index) for index in range(min(FOLDS, count))]

    def model_folds(self) -> list[Integers]:
        """Whole models left out.  # each (k,)"""
        return [seen.places for seen in self.seen]

    def left_out(self, name: str, folds: Sequence[Integers], own: bool) -> dict[str, Floats]:
        """`measured / predicted - 1` of policies that were left out, by percentile; empty without folds.

        Measured as the clock says: whoever times a model does so at whatever pace the machine has.

        Args:
            name: the way to predict.
            folds: places of what is left out together.
            own: whether a model is predicted by a composition of its own.
        """
        if not folds:
            return {p: np.zeros(0) for p in PERCENTILES}
        everything = np.arange(len(self._observed))
        predicted = {p: np.zeros(len(everything)) for p in PERCENTILES}
        for test in folds:
            train = np.setdiff1d(everything, test)
            sums, kernels = self._sums(name, train)
            for places in [seen.places for seen in self.seen] if own else [everything]:
                fitted = self.compositions(sums, kernels, np.intersect1d(train, places))
                asked = np.intersect1d(test, places)
                for p in PERCENTILES:
                    predicted[p][asked] = compose(fitted[p], sums[asked], kernels[asked])
        return {p: self.clock_us(p) / np.maximum(predicted[p], LEAST_US) - 1.0 for p in PERCENTILES}

    def compositions(self, sums: Floats, kernels: Floats, places: Integers) -> dict[str, Composition]:
        """The composition of each percentile, fitted on some of the models."""
        return {p: fit_composition(sums[places], kernels[places], self.times_us(p)[places]) for p in PERCENTILES}

    def known(self, sums: Floats, kernels: Floats, errors: Mapping[str, Floats]) -> dict[str, KnownModel]:
        """What is learnt from each model for its own policies."""
        return {
            families_digest(slot.family(self._bare.batch) for slot in seen.slots): KnownModel(
                models=len(seen.places),
                composition=self.compositions(sums, kernels, seen.places),
                residuals=_residuals({p: own[seen.places] for p, own in errors.items() if len(own)}),
            )
            for seen in self.seen
            if len(seen.places) >= FEWEST
        }

    def profile(self, name: str, train: Integers) -> HardwareProfile:
        """The profile whose rows are learnt in this way from some of the models; without a composition."""
        profile, parts = self._source(name.removesuffix(CORRECTED), train)
        if not name.endswith(CORRECTED):
            return profile
        composition, correction = self._correction(parts, train)
        rows = [row for row in profile.kernels if row.within == "model"] or _met(self.seen, parts, profile)
        return _with_rows(self._bare, [_corrected(row, composition, correction) for row in rows])

    def sums_of(self, profile: HardwareProfile) -> tuple[Floats, Floats]:
        """Sum of the kernels and their number, of all models.  # (n,), (n,)"""
        sums, kernels = np.zeros(len(self._observed)), np.zeros(len(self._observed))
        for seen in self.seen:
            sums[seen.places], kernels[seen.places] = LatencyTable(profile, seen.graph).sum_us(seen.widths)
        return sums, kernels

    def _sums(self, name: str, train: Integers) -> tuple[Floats, Floats]:
        """As `sums_of`, learnt from some of the models."""
        _, parts = self._source(name.removesuffix(CORRECTED), train)
        if not name.endswith(CORRECTED):
            return self._added(parts)
        composition, correction = self._correction(parts, train)
        sums = np.zeros(len(self._observed))
        for seen, own in zip(self.seen, parts, strict=True):
            for part in own:
                factor = correction.factor(part.family, part.operator, part.sizes)
                sums[seen.places] += composition.sum_factor * part.times_us * factor
        return sums, self._added(parts)[1]

    def _source(self, source: str, train: Integers) -> tuple[HardwareProfile, list[list[Part]]]:
        """The profile whose times come from a source, and what it says of all models; both are kept."""
        key = (source, b"" if source == "alone" else train.tobytes())  # times alone learn from no model
        if key not in self._kept:
            profile = self._bare if source == "alone" else _with_rows(self._bare, self._inside_rows(train))
            parts = [LatencyTable(profile, seen.graph).parts(seen.widths) for seen in self.seen]
            self._kept[key] = profile, parts
        return self._kept[key]

    def _added(self, parts: Sequence[Sequence[Part]]) -> tuple[Floats, Floats]:
        sums, kernels = np.zeros(len(self._observed)), np.zeros(len(self._observed))
        for seen, own in zip(self.seen, parts, strict=True):
            for part in own:
                sums[seen.places] += part.times_us
                kernels[seen.places] += part.times_us > 0
        return sums, kernels

    def _correction(self, parts: Sequence[Sequence[Part]], train: Integers) -> tuple[Composition, Correction]:
        sums, kernels = self._added(parts)
        times = self.times_us("p50")
        composition = fit_composition(sums[train], kernels[train], times[train])
        rest = times - composition.constant_us - composition.kernel_us * kernels
        chosen, order = [], []
        for seen, own in zip(self.seen, parts, strict=True):
            kept = np.isin(seen.places, train)
            order.append(seen.places[kept])
            factor = composition.sum_factor
            chosen.append([replace(p, sizes=p.sizes[kept], times_us=factor * p.times_us[kept]) for p in own])
        places = np.concatenate(order)
        return composition, Correction(chosen, rest[places], times[places])

    def _inside_rows(self, train: Integers) -> list[KernelRow]:
        """Rows of the kernels as they were met inside models, as shares of the models' times."""
        wanted = set(train.tolist())
        found: dict[Kernel, list[float]] = {}
        slots: dict[Kernel, tuple[KernelSlot, Widths]] = {}
        batch = self._bare.batch
        for seen in self.seen:
            for row, place in enumerate(seen.places):
                nodes = self._observed[place].node_us
                if place not in wanted or not nodes:
                    continue
                scale = self._observed[place].measured.p50_us / max(sum(nodes.values()), LEAST_US)
                widths = {**seen.named(row), Batch.KEY: batch}
                for index, time_us in nodes.items():
                    kernel = seen.slots[index].kernel(widths)
                    found.setdefault(kernel, []).append(scale * time_us)
                    slots.setdefault(kernel, (seen.slots[index], widths))
        rows = [_inside_row(kernel, *slots[kernel], times) for kernel, times in found.items()]
        return _thinned(rows)


def _inside_row(kernel: Kernel, slot: KernelSlot, widths: Widths, times_us: Sequence[float]) -> KernelRow:
    p50 = round(float(np.median(times_us)), 3)
    flops, bytes_ = float(slot.flops(widths)), float(slot.bytes(widths))
    return KernelRow(
        kernel.family,
        kernel.sizes,
        slot.operator,
        n=len(times_us),
        mean_us=round(float(np.mean(times_us)), 3),
        p50_us=p50,
        p90_us=p50,
        p95_us=p50,
        p99_us=p50,
        std_us=round(float(np.std(times_us)), 3),
        flops=flops,
        bytes=bytes_,
        within="model",
    )


def _met(seen: Sequence[_Seen], parts: Sequence[Sequence[Part]], profile: HardwareProfile) -> list[KernelRow]:
    """Rows of every kernel that was timed alone or met inside a model, with the time that is predicted for it."""
    rows: dict[Kernel, KernelRow] = {}
    for model, own in zip(seen, parts, strict=True):
        for slot, part in zip(model.slots, own, strict=True):
            for index, time_us in enumerate(part.times_us):
                kernel = Kernel(part.family, tuple(part.sizes[index].tolist()))
                if kernel not in rows and time_us > 0:
                    widths = {**model.named(index), Batch.KEY: profile.batch}
                    rows[kernel] = _inside_row(kernel, slot, widths, [time_us])
    fitted = _thinned([replace(row, provenance="fitted") for row in rows.values()])
    timed = {Kernel(row.family, row.sizes) for row in fitted}
    alone = [row for row in profile.kernels if not row.failure and Kernel(row.family, row.sizes) not in timed]
    return [*fitted, *(replace(row, within="model", provenance="fitted") for row in alone)]


def _thinned(rows: Sequence[KernelRow]) -> list[KernelRow]:
    """At most `MOST_ROWS` of a family, spread over its sizes."""
    families: dict[str, list[KernelRow]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    kept: list[KernelRow] = []
    for own in families.values():
        own.sort(key=lambda row: row.sizes)
        places = np.unique(np.linspace(0, len(own) - 1, min(len(own), MOST_ROWS)).round().astype(int))
        kept += [own[place] for place in places]
    return kept


def _corrected(row: KernelRow, composition: Composition, correction: Correction) -> KernelRow:
    sizes = np.array([row.sizes], dtype=np.int64).reshape(1, -1)
    factor = composition.sum_factor * float(correction.factor(row.family, row.operator, sizes)[0])
    names = ("mean_us", "p50_us", "p90_us", "p95_us", "p99_us", "std_us")
    return replace(row, **{name: round(factor * getattr(row, name), 3) for name in names})


def _with_rows(bare: HardwareProfile, rows: Sequence[KernelRow]) -> HardwareProfile:
    """The profile with rows inside models, which then predict."""
    header = bare.header.model_copy(update={"within": "model", "context": _context(bare.kernels, rows)})
    return replace(bare, header=header, kernels=(*bare.kernels, *rows))


def _context(alone: Sequence[KernelRow], inside: Sequence[KernelRow]) -> Mapping[str, float]:
    """For each operator class, how many times longer its kernels take inside models than alone."""
    known = {Kernel(row.family, row.sizes): row.p50_us for row in alone if row.p50_us > 0}
    ratios: dict[str, list[float]] = {}
    for row in inside:
        time_us = known.get(Kernel(row.family, row.sizes))
        if time_us is not None:
            ratios.setdefault(row.operator, []).append(row.p50_us / time_us)
    return {operator: round(float(np.median(own)), 4) for operator, own in sorted(ratios.items())}

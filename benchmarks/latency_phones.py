"""Whole networks on phone GPUs: kernels and composition fitted on 70 of 102 networks, tested on the other 32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.graph.kernel import Kernel
from autoprune.hardware.analytical import AnalyticalModel
from autoprune.hardware.analytical_composition import Totals, fit_whole_models
from autoprune.hardware.analytical_estimate import Estimator
from autoprune.hardware.analytical_fit import fit_analytical
from autoprune.hardware.analytical_shapes import Shapes
from autoprune.hardware.fit import Floats
from autoprune.hardware.kernel_table import KernelRow
from benchmarks.latency_data import PHONES, Networks, median_rows, phone_networks, shape_of

TRAINING, FOLDS = 70, 5
WEIGHTED = ("conv", "pointwise", "depthwise", "grouped", "linear")
ACCEPTED = {"mape": 0.04, "within 10 %": 0.95}


def predicted_us(model: AnalyticalModel, rows: Sequence[KernelRow], kernels: Sequence[Kernel]) -> Floats:
    """Times of kernels: exact where there is a row, else the estimate beside the rows.  # (n,)"""
    estimator = Estimator(model, rows)
    exact = {Kernel(row.family, row.sizes): row.p50_us for row in rows}
    wanted = list(dict.fromkeys(kernel for kernel in kernels if kernel not in exact))
    by_class: dict[str, list[Kernel]] = {}
    for kernel in wanted:
        by_class.setdefault(shape_of(kernel).operator, []).append(kernel)
    for operator, group in by_class.items():
        times = estimator.estimate_us(operator, Shapes.of([shape_of(kernel) for kernel in group]))
        exact.update(zip(group, (float(time) for time in times), strict=True))
    return np.array([exact[kernel] for kernel in kernels])


def totals(networks: Networks, kernel_us: Floats) -> Totals:
    """Of all networks, from their kernels' times."""
    shapes = Shapes.of([shape_of(kernel) for kernel in networks.kernels])
    products = np.array([shape_of(kernel).operator in WEIGHTED for kernel in networks.kernels])
    weights = np.where(products, 4.0 * shapes.batch * shapes.inner * shapes.columns, 0.0)

    def summed(values: Floats) -> Floats:
        return np.bincount(networks.owner, values, len(networks.names)).astype(np.float64)

    return Totals(
        sums_us=summed(kernel_us),
        kernels=summed(np.ones_like(kernel_us)),
        activation_bytes=summed(shapes.bytes - weights),
        weight_bytes=summed(weights),
        flops=summed(shapes.flops),
    )


def left_out_us(networks: Networks, model: AnalyticalModel, training: np.ndarray, seed: int) -> Floats:
    """Times of all kernels as they would be predicted for a new network: training networks left out in turn."""
    random = np.random.default_rng(seed)
    fold = np.full(len(networks.names), -1)
    fold[training] = random.permutation(len(training)) % FOLDS
    times = np.zeros(len(networks.kernels))
    for held in range(-1, FOLDS):
        known = np.isin(networks.owner, training[fold[training] != held])
        wanted = fold[networks.owner] == held
        rows = median_rows([networks.kernels[i] for i in np.flatnonzero(known)], networks.kernel_us[known])
        times[wanted] = predicted_us(model, rows, [networks.kernels[i] for i in np.flatnonzero(wanted)])
    return times


def one_split(networks: Networks, seed: int) -> dict[str, float]:
    """Errors on the networks that were in neither fit."""
    order = np.random.default_rng(seed).permutation(len(networks.names))
    training, test = np.sort(order[:TRAINING]), np.sort(order[TRAINING:])
    known = np.isin(networks.owner, training)
    rows = median_rows([networks.kernels[i] for i in np.flatnonzero(known)], networks.kernel_us[known])
    model = fit_analytical(rows, sliced=True, seed=seed)
    kernel_us = left_out_us(networks, model, training, seed)
    blind, exact = totals(networks, kernel_us), totals(networks, networks.kernel_us)
    fitted = fit_whole_models(exact.at(training), networks.times_us[training], seed, blind.at(training))
    predicted = fitted.predict_us(blind.at(test))
    low, high = fitted.interval_us(blind.at(test))
    measured = networks.times_us[test]
    oracle = fit_whole_models(exact.at(training), networks.times_us[training], seed)
    unseen = ~known
    kernel_error = np.abs(kernel_us[unseen] / networks.kernel_us[unseen] - 1)
    return {
        **errors(predicted, measured),
        "coverage": float(((measured >= low) & (measured <= high)).mean()),
        "interval": float((high / low).mean()),
        "raw sum mape": errors(exact.sums_us[test], measured)["mape"],
        "measured kernels mape": errors(oracle.predict_us(exact.at(test)), measured)["mape"],
        "kernels median": float(np.median(kernel_error)),
        "left-out estimate": fitted.error,
    }


def errors(predicted: Floats, measured: Floats) -> dict[str, float]:
    """Mean absolute relative error, and the share within a tenth."""
    relative = np.abs(predicted / measured - 1)
    return {"mape": float(relative.mean()), "within 10 %": float((relative <= 0.1).mean())}


def width_left_out(networks: Networks, seed: int, most: int = 12) -> dict[str, float]:
    """Kernels of one output width predicted from those of all others, width by width."""
    rows = median_rows(list(networks.kernels), networks.kernel_us)
    chosen = [row for row in rows if row.operator in ("conv", "pointwise", "depthwise", "grouped")]
    widths = np.array([shape_of(Kernel(row.family, row.sizes)).columns * _batch(row) for row in chosen])
    frequent = [width for width in np.unique(widths) if (widths == width).sum() >= 5]
    tried = np.random.default_rng(seed).permutation(frequent)[:most]
    found = []
    for width in tried:
        rest = [row for row, own in zip(chosen, widths, strict=True) if own != width]
        model = fit_analytical(rest, sliced=True, seed=seed)
        held = [row for row, own in zip(chosen, widths, strict=True) if own == width]
        times = predicted_us(model, rest, [Kernel(row.family, row.sizes) for row in held])
        found.append(np.abs(times / np.array([row.p50_us for row in held]) - 1))
    together = np.concatenate(found)
    return {"widths": float(len(tried)), "median": float(np.median(together)), "p90": float(np.quantile(together, 0.9))}


def _batch(row: KernelRow) -> float:
    return shape_of(Kernel(row.family, row.sizes)).batch


def few_kernels(networks: Networks, others: Sequence[Networks], seed: int, count: int = 30) -> dict[str, float]:
    """A phone of which only `count` kernels and ten whole networks are known: alone, and beside phones known well."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(networks.names))
    training, test = order[:TRAINING], order[TRAINING:]
    known = np.flatnonzero(np.isin(networks.owner, training))
    kernels = list(dict.fromkeys(networks.kernels[i] for i in known))
    work = np.array([shape_of(kernel).flops + shape_of(kernel).bytes for kernel in kernels])
    spread = np.argsort(work)[np.linspace(0, len(work) - 1, 8 * count).astype(int)]  # from small to large
    picked = {kernels[i] for i in random.permutation(spread)[:count]}
    own = [i for i in known if networks.kernels[i] in picked]
    rows = median_rows([networks.kernels[i] for i in own], networks.kernel_us[own])
    model = fit_analytical(rows, sliced=True, residuals=False, seed=seed)
    ways = {
        "alone": predicted_us(model, rows, networks.kernels),
        "beside": transferred_us(rows, networks.kernels, [other.kernel_us for other in others]),
    }
    few, held = training[:10], ~np.isin(networks.owner, training)
    found: dict[str, float] = {}
    for way, times in ways.items():
        composed = fit_whole_models(totals(networks, times).at(few), networks.times_us[few], seed)
        whole = errors(composed.predict_us(totals(networks, times).at(test)), networks.times_us[test])
        kernel_error = np.abs(times / networks.kernel_us - 1)[held]
        found |= {f"{way}, {name}": value for name, value in whole.items()}
        found |= {f"{way}, kernels median": float(np.median(kernel_error))}
        found |= {f"{way}, kernels p90": float(np.quantile(kernel_error, 0.9))}
    return found


def transferred_us(rows: Sequence[KernelRow], kernels: Sequence[Kernel], known: Sequence[Floats]) -> Floats:
    """Times of a device of which few kernels are known: those of the known device that it resembles most, scaled.

    Each operator class has a factor of its own, drawn towards that of all.

    Args:
        rows: the device's own kernels.
        kernels: (n,)
        known: times of all kernels on each known device.  # n_devices x (n,)
    """
    places: dict[Kernel, int] = {kernel: index for index, kernel in enumerate(kernels)}
    at = [places[Kernel(row.family, row.sizes)] for row in rows]
    classes = np.array([shape_of(kernel).operator for kernel in kernels])
    measured = np.array([row.p50_us for row in rows])
    best: tuple[float, Floats] | None = None
    for times in known:
        logs = np.log(measured / times[at])
        level = float(np.median(logs))
        factors = {
            name: (logs[classes[at] == name].sum() + 3 * level) / ((classes[at] == name).sum() + 3)
            for name in np.unique(classes)
        }
        shift = np.array([factors[name] for name in classes])
        error = float(np.abs(logs - shift[at]).mean())
        if best is None or error < best[0]:
            best = (error, times * np.exp(shift))
    assert best is not None
    return best[1]


def all_splits(folder: Path, phone: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Every figure of one phone, a value a seed."""
    networks = phone_networks(folder, phone)
    others = [phone_networks(folder, other) for other in PHONES if other != phone]
    return {
        "split": [one_split(networks, seed) for seed in seeds],
        "width left out": [width_left_out(networks, seeds[0])],
        "30 kernels": [few_kernels(networks, others, seed) for seed in seeds],
        "spread of the measurement": [{"runs": float(np.median(networks.spread))}],
    }

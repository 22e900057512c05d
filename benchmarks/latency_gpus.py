"""Matrix products on data-centre GPUs: fitted on a quarter of the shapes, tested on the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoprune.graph.kernel import Kernel
from autoprune.hardware.analytical_estimate import Estimator
from autoprune.hardware.analytical_fit import fit_analytical
from autoprune.hardware.analytical_shapes import Shapes
from autoprune.hardware.fit import Floats
from autoprune.hardware.kernel_table import KernelRow
from benchmarks.latency_data import SMS, gpu_rows, shape_of

SHARE = 0.25
NEAR = 0.9  # logarithm of the largest ratio between the two shapes beside a third
ACCEPTED = {"median": 0.06, "p90": 0.20}


def one_split(rows: Sequence[KernelRow], units: int, seed: int, count: int | None = None) -> dict[str, float]:
    """Errors on the shapes that were not fitted.

    Args:
        rows: of one operation on one GPU.
        units: its multiprocessors.
        seed: of the split.
        count: rows to fit; a quarter of them without it.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    fitted = int(SHARE * len(rows)) if count is None else count
    training, test = [rows[i] for i in order[:fitted]], [rows[i] for i in order[fitted:]]
    model = fit_analytical(training, units=units, seed=seed)
    signed = _signed(Estimator(model, training), test)
    beside, alone = np.abs(np.expm1(-signed)), np.abs(np.expm1(-_signed(Estimator(model), test)))
    low, high = np.quantile(_left_out(training, units, seed), [0.05, 0.95])
    return {
        "median": float(np.median(beside)),
        "p90": float(np.quantile(beside, 0.9)),
        "roofline alone, median": float(np.median(alone)),
        "roofline alone, p90": float(np.quantile(alone, 0.9)),
        "coverage": float(((signed >= low) & (signed <= high)).mean()),
    }


def _left_out(rows: Sequence[KernelRow], units: int, seed: int, folds: int = 4) -> Floats:
    """`log(measured / predicted)` of rows left out in turn, with the scales chosen on all of them."""
    model = fit_analytical(rows, units=units, seed=seed)
    found = []
    for fold in range(folds):
        rest = [row for index, row in enumerate(rows) if index % folds != fold]
        held = [row for index, row in enumerate(rows) if index % folds == fold]
        found.append(_signed(Estimator(model, rest), held))
    return np.concatenate(found)


def _signed(estimator: Estimator, rows: Sequence[KernelRow]) -> Floats:
    shapes = Shapes.of([shape_of(Kernel(row.family, row.sizes)) for row in rows])
    measured = np.array([row.p50_us for row in rows])
    logs: Floats = np.log(measured / estimator.estimate_us(rows[0].operator, shapes))
    return logs


def scatter(rows: Sequence[KernelRow], size: str) -> dict[str, float]:
    """What no model of shapes can predict: how far a time is from the line between its two nearest neighbours'.

    Between shapes that differ in one size by a little, the logarithm of time over work is taken as straight. The
    deviation is that of three measurements; it is scaled to that of one, so that its median is what a model would be
    off by that knew the device perfectly.

    Args:
        rows: of one operation on one GPU.
        size: of `Shapes`, in which neighbours differ: "batch" or "rows".
    """
    shapes = Shapes.of([shape_of(Kernel(row.family, row.sizes)) for row in rows])
    logs = np.log(np.array([row.p50_us for row in rows]) / shapes.flops)
    places = np.log(getattr(shapes, size))
    fixed = [name for name in ("batch", "rows", "inner", "columns") if name != size]
    _, group = np.unique(np.column_stack([getattr(shapes, name) for name in fixed]), axis=0, return_inverse=True)
    order = np.lexsort((places, group.ravel()))
    before, own, after = order[:-2], order[1:-1], order[2:]
    width = places[after] - places[before]
    near = (group[before] == group[after]) & (width > 0) & (width <= NEAR)
    before, own, after, width = before[near], own[near], after[near], width[near]
    share = (places[after] - places[own]) / width
    deviation = logs[own] - share * logs[before] - (1 - share) * logs[after]
    found = np.abs(deviation) / np.sqrt(1 + share**2 + (1 - share) ** 2)
    if not len(found):
        return {"shapes": 0.0}
    return {"shapes": float(len(found)), "median": float(np.median(found)), "p90": float(np.quantile(found, 0.9))}


def all_splits(folder: Path, device: str, operation: str, seeds: Sequence[int]) -> dict[str, list[dict[str, float]]]:
    """Every figure of one operation on one GPU, a value a seed."""
    rows = gpu_rows(folder, device, operation)
    found = {"quarter": [one_split(rows, SMS[device], seed) for seed in seeds]}
    found["near-identical shapes"] = [scatter(rows, "rows" if operation == "linear" else "batch")]
    if len(rows) > 120:
        found["30 kernels"] = [one_split(rows, SMS[device], seed, 30) for seed in seeds]
    return found

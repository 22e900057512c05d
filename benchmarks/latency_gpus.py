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


def all_splits(folder: Path, device: str, operation: str, seeds: Sequence[int]) -> dict[str, list[dict[str, float]]]:
    """Every figure of one operation on one GPU, a value a seed."""
    rows = gpu_rows(folder, device, operation)
    found = {"quarter": [one_split(rows, SMS[device], seed) for seed in seeds]}
    if len(rows) > 120:
        found["30 kernels"] = [one_split(rows, SMS[device], seed, 30) for seed in seeds]
    return found

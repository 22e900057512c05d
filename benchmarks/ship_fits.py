"""Fits of analytical models on published measurements, each with errors on what it was not fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from autoprune.graph.kernel import Kernel
from autoprune.hardware.analytical import ALL, AnalyticalModel, ClassModel, scaled_model
from autoprune.hardware.analytical_estimate import Estimator
from autoprune.hardware.analytical_fit import fit_analytical
from autoprune.hardware.analytical_shapes import Shapes
from autoprune.hardware.composition import compose, fit_composition
from autoprune.hardware.fit import Floats, relative_fit
from autoprune.hardware.importers.layers import Layers
from autoprune.hardware.importers.rows import NORMAL
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.profile import Composition
from benchmarks.latency_data import GPUS, SMS, gpu_rows, median_rows, phone_networks, row_of, shape_of

NEUSIGHT = "sitar-lab/NeuSight @6945927 (MIT), PyTorch 2.1 fp32"
DEEPBENCH = "baidu-research/DeepBench @da81ba7 (Apache-2.0), cuDNN fp32 convolutions"
MOBILE = "qed-usc/mobile-ml-benchmark @40ba833 (MIT), 102 CNNs"
PEAKS = {  # TFLOPS fp32 and GB/s of the data sheets
    "Tesla V100-PCIE-32GB": (14.0, 900.0),
    "Tesla T4": (8.1, 320.0),
    "NVIDIA A100-PCIE-40GB": (19.5, 1555.0),
}
MEASURED_CLASSES = ("linear", "matmul", "elementwise", "reduce")
FOLDS = 5
PER_CLASS = 90  # rows of a class that count in an error, so that large tables do not speak alone
MOST_OVERHEAD_US = 25.0  # of a kernel on a data-centre GPU; few shorter than 50 us were measured
DEPTHWISE_RATE = 0.25  # of a convolution's flops a second; not measured
MED_CLOCK, LARGE_CLOCK, PI_CLOCK = 2.42, 2.84, 2.4  # GHz


@dataclass(frozen=True, eq=False)
class Fit:
    """A model with what is known of its errors.

    Attributes:
        model: coefficients.
        errors: `measured / predicted - 1` of what was not fitted.
        models: whole models among those; 0 where they are kernels.
        source, story, notes: for people.
        composition: from kernels to models, where whole models were measured.
        rows: what it was fitted on.
    """

    model: AnalyticalModel
    errors: Floats
    models: int
    source: str
    story: str
    notes: tuple[str, ...]
    composition: dict[str, Composition] | None = None
    rows: tuple[KernelRow, ...] = ()


def relative_errors(model: AnalyticalModel, rows: Sequence[KernelRow]) -> Floats:
    """`measured / predicted - 1` of kernels.  # (n,)"""
    found = np.zeros(len(rows))
    estimator = Estimator(model)
    operators = np.array([row.operator for row in rows])
    for operator in np.unique(operators):
        chosen = np.flatnonzero(operators == operator).tolist()
        shapes = Shapes.of([shape_of(Kernel(rows[i].family, rows[i].sizes)) for i in chosen])
        measured = np.array([rows[i].p50_us for i in chosen])
        found[chosen] = measured / estimator.estimate_us(str(operator), shapes) - 1
    return found


def _balanced(rows: Sequence[KernelRow]) -> list[KernelRow]:
    """At most `PER_CLASS` rows of each class, evenly through its list."""
    chosen: list[KernelRow] = []
    for operator in sorted({row.operator for row in rows}):
        own = [row for row in rows if row.operator == operator]
        chosen += [own[i] for i in np.linspace(0, len(own) - 1, min(PER_CLASS, len(own))).astype(int)]
    return chosen


# Data-centre GPUs


def deepbench_rows(data: Path, card: str) -> list[KernelRow]:
    """fp32 forward convolutions of cuDNN that a square image describes."""
    table = pd.read_csv(data / "gpu-cudnn" / "conv.csv")
    table = table[(table["precision"] == "Float") & table["file"].str.contains(f"_{card}.")]
    rows = []
    for record in table.to_dict("records"):
        filters, window, stride = int(record["k"]), (int(record["r"]), int(record["s"])), int(record["stride_w"])
        padded = max(int(record["pad_h"]), int(record["pad_w"]))
        if window[0] != window[1] or stride != int(record["stride_h"]) or padded >= max(window[0], 2):
            continue
        sides = tuple(
            (int(record[side]) + 2 * int(record[f"pad_{side}"]) - window[0]) // stride + 1 for side in ("h", "w")
        )
        shape = (int(record["n"]), int(record["c"]), int(record["h"]), int(record["w"]))
        [kernel] = Layers(shape).conv(filters, window[0], (sides[0], sides[1]), stride).kernels()
        rows.append(row_of(kernel, 1e3 * float(record["fwd_ms"])))
    kernels = [Kernel(row.family, row.sizes) for row in rows]
    return median_rows(kernels, np.array([row.p50_us for row in rows]))


def data_centre_fits(data: Path) -> dict[str, Fit]:
    """V100, T4 and A100."""
    tables = {device: _gpu_table(data, device) for device in GPUS}
    found: dict[str, Fit] = {}
    for device, rows in tables.items():
        errors = []
        for fold in range(FOLDS):
            held = _balanced([row for index, row in enumerate(rows) if index % FOLDS == fold])
            rest = [row for index, row in enumerate(rows) if index % FOLDS != fold]
            errors.append(relative_errors(_gpu_model(rest, device, found), held))
        count = len(rows)
        notes: tuple[str, ...] = (
            f"errors are those of {count} single kernels left out in turn; no whole model was measured",
            "tails were not measured: p90 to p99 equal the median",
            "the interval is wider than kernels' errors: sums of kernels miss whole models by -15 to +50 % elsewhere",
            "a kernel is taken to cost at most 25 us beside its work: few that short were measured",
            "depthwise and grouped convolutions, pooling, concatenation and others were not measured",
        )
        convolutions = any(row.operator == "conv" for row in rows)
        if not convolutions:
            notes = (*notes, "convolutions were not measured: the V100's, by the ratio of matrix products")
        found[device] = Fit(
            model=_gpu_model(rows, device, found),
            errors=np.concatenate(errors),
            models=0,
            source=f"{NEUSIGHT}; {DEEPBENCH}" if convolutions else NEUSIGHT,
            story=f"coefficients fitted to {count} published kernels.",
            notes=notes,
            rows=tuple(rows),
        )
    return found


def _gpu_table(data: Path, device: str) -> list[KernelRow]:
    found = [
        row for operation in ("linear", "bmm", "elem", "softmax", "ln") for row in gpu_rows(data, device, operation)
    ]
    rows = median_rows([Kernel(row.family, row.sizes) for row in found], np.array([row.p50_us for row in found]))
    card = next((card for card in ("V100", "T4") if card in device), None)
    return rows + (deepbench_rows(data, card) if card else [])


def _gpu_model(rows: Sequence[KernelRow], device: str, known: Mapping[str, Fit]) -> AnalyticalModel:
    """Fitted classes, and stand-ins for those that nobody measured."""
    classes = dict(fit_analytical(rows, units=SMS[device], residuals=False).classes)
    if "conv" not in classes:
        other = known[GPUS[0]].model
        ratio = classes["linear"].us_per_flop / other.of("linear").us_per_flop
        bandwidth = classes["elementwise"].us_per_byte / other.of("elementwise").us_per_byte
        for name in ("conv", "pointwise"):
            own = other.of(name)
            update = {"us_per_flop": own.us_per_flop * ratio, "us_per_byte": own.us_per_byte * bandwidth}
            classes[name] = own.model_copy(update=update)
    for name, own in classes.items():
        classes[name] = own.model_copy(update={"overhead_us": min(own.overhead_us, MOST_OVERHEAD_US)})
    plain, conv = classes["elementwise"], classes["conv"]
    classes |= dict.fromkeys(("pool", "concat", "other"), plain)
    classes["grouped"] = conv
    classes["depthwise"] = plain.model_copy(update={"us_per_flop": conv.us_per_flop / DEPTHWISE_RATE})
    return AnalyticalModel(units=SMS[device], classes=classes)


def scaled_gpu(base: Fit, known: Mapping[str, Fit], name: str, flops: float, bandwidth: float, units: int) -> Fit:
    """A GPU without figures, by its data sheet; errors are those of guessing GPUs with figures in the same way."""
    errors = []
    for target, fit in known.items():
        for other, given in known.items():
            if other != target:
                ratios = tuple(peak / own for peak, own in zip(PEAKS[target], PEAKS[other], strict=True))
                guessed = scaled_model(given.model, ratios[0], ratios[1], 1.0, SMS[target])
                held = _balanced([row for row in fit.rows if row.operator in MEASURED_CLASSES])
                errors.append(relative_errors(guessed, held))
    return Fit(
        model=scaled_model(base.model, flops, bandwidth, 1.0, units),
        errors=np.concatenate(errors),
        models=0,
        source=f"{base.source}, scaled",
        story=f"the {name}'s fitted coefficients, scaled by the peaks of the data sheets ({flops:.2f}x flops, "
        f"{bandwidth:.2f}x bandwidth).",
        notes=(
            "errors are those of V100, T4 and A100 guessed from each other in the same way, single kernels",
            "tails were not measured: p90 to p99 equal the median",
            "the interval is wider than kernels' errors: sums of kernels miss whole models by -15 to +50 % elsewhere",
            "depthwise and grouped convolutions, pooling, concatenation and others were not measured on any of them",
        ),
    )


# Phones


def gpu_phone_fit(data: Path, phone: str) -> Fit:
    """A phone's GPU: kernels, and a composition from whole networks."""
    networks = phone_networks(data, phone)
    rows = median_rows(list(networks.kernels), networks.kernel_us)
    model = _with_stand_ins(fit_analytical(rows, sliced=True, residuals=False))
    times = {Kernel(row.family, row.sizes): 0.0 for row in rows}
    relative = relative_errors(model, rows)
    for row, error in zip(rows, relative, strict=True):
        times[Kernel(row.family, row.sizes)] = row.p50_us / (1 + error)
    count = len(networks.names)
    predicted_us = np.array([times[kernel] for kernel in networks.kernels])
    sums = np.bincount(networks.owner, predicted_us, count).astype(np.float64)
    kernels = np.bincount(networks.owner, minlength=count).astype(np.float64)
    measured = {name: networks.times_us * (1 + quantile * networks.spread) for name, quantile in NORMAL.items()}
    composition = {p: fit_composition(sums, kernels, times) for p, times in measured.items()}
    errors = np.zeros(count)
    for index in range(count):
        rest = np.arange(count) != index
        fitted = fit_composition(sums[rest], kernels[rest], networks.times_us[rest])
        errors[index] = (
            networks.times_us[index] / compose(fitted, sums[index : index + 1], kernels[index : index + 1])[0] - 1
        )
    return Fit(
        model=model,
        errors=errors,
        models=count,
        source=MOBILE,
        story=f"coefficients fitted to {len(rows)} published kernels, the composition to {count} whole networks.",
        notes=(
            "errors are those of 102 networks, each left out of the composition in turn",
            f"single kernels: {float(np.median(np.abs(relative))):.1%} median error",
            "p90 to p99 from the spread of the runs, taken as normal",
            "element-wise kernels, matrix products and reductions were not measured apart",
        ),
        composition=composition,
    )


def _with_stand_ins(model: AnalyticalModel) -> AnalyticalModel:
    """Classes that were not measured, by those of like work."""
    classes = dict(model.classes)
    moves = (classes[name] for name in ("concat", "depthwise", "pool") if classes[name].us_per_byte > 0)
    moved = next(moves, classes["concat"]).model_copy(update={"us_per_flop": 0.0})
    classes |= {"elementwise": moved, "other": moved, "matmul": classes["pointwise"]}
    classes["reduce"] = classes.get("pool", moved)
    return AnalyticalModel(units=model.units, classes=classes)


def cpu_fit(data: Path, core: str) -> Fit:
    """One core of the Pixel 4, fp32: kernels are not published, so classes are fitted to whole networks."""
    networks = phone_networks(data, "pixel4")
    table = pd.read_csv(data / "phone-gpu-tflite" / "models.csv").set_index("model").loc[list(networks.names)]
    times, std = (table[f"pixel4|{core}|float|{kind}"].to_numpy(float) for kind in ("mean", "std"))
    count = len(times)
    operators = sorted({shape_of(kernel).operator for kernel in networks.kernels})
    matrix = np.zeros((count, 3 * len(operators)))
    for kernel, owner in zip(networks.kernels, networks.owner, strict=True):
        shape = shape_of(kernel)
        first = 3 * operators.index(shape.operator)
        matrix[owner, first : first + 3] += (1.0, shape.flops, shape.bytes)
    errors = np.zeros(count)
    order = np.random.default_rng(0).permutation(count)
    for fold in range(2 * FOLDS):
        held = order[fold :: 2 * FOLDS]
        rest = np.setdiff1d(order, held)
        errors[held] = times[held] / (matrix[held] @ _solved(matrix[rest], times[rest])) - 1
    solution = _solved(matrix, times).reshape(-1, 3)
    classes = {
        name: ClassModel(overhead_us=float(own[0]), us_per_flop=float(own[1]), us_per_byte=float(own[2]))
        for name, own in zip(operators, solution, strict=True)
    }
    classes[ALL] = classes["pointwise"]
    spread = float(np.median(std / times))
    composition = {
        name: Composition(sum_factor=1.0 + quantile * spread, constant_us=0.0, kernel_us=0.0)
        for name, quantile in NORMAL.items()
    }
    return Fit(
        model=_with_stand_ins(AnalyticalModel(classes=classes)),
        errors=errors,
        models=count,
        source=MOBILE,
        story=f"coefficients of classes fitted to {count} whole networks, no kernel alone.",
        notes=(
            "errors are those of 102 networks left out in tenths",
            "p90 to p99 from the spread of the runs, taken as normal",
            "element-wise kernels, matrix products and reductions were not measured apart",
        ),
        composition=composition,
    )


def _solved(matrix: Floats, times: Floats) -> Floats:
    scale = np.maximum(matrix.max(axis=0), 1e-12)
    return relative_fit(matrix / scale, times) / scale


def scaled_pi(data: Path) -> Fit:
    """The Pi's core is that of the Pixel 4's middle ones at another clock, as is the Pixel's fast one."""
    middle, large = cpu_fit(data, "1med"), cpu_fit(data, "1large")
    networks = phone_networks(data, "pixel4")
    guessed = scaled_model(middle.model, LARGE_CLOCK / MED_CLOCK, 1.0, MED_CLOCK / LARGE_CLOCK, 1)
    predicted, wanted = (
        np.bincount(networks.owner, _times(model, networks.kernels), len(networks.names))
        for model in (guessed, large.model)
    )
    return Fit(
        model=scaled_model(middle.model, PI_CLOCK / MED_CLOCK, 1.0, MED_CLOCK / PI_CLOCK, 1),
        errors=(1 + large.errors) * wanted / predicted - 1,
        models=len(networks.names),
        source=f"{MOBILE}, scaled",
        story="coefficients of a Pixel 4's Cortex-A76 core at 2.42 GHz, scaled to the clock of 2.4 GHz.",
        notes=(
            "nothing was measured on a Raspberry Pi",
            "errors are those of the Pixel 4's fast core guessed from its middle one by clock, 102 networks",
            "one core draws less than either memory gives, so memory was not scaled",
        ),
        composition=middle.composition,
    )


def _times(model: AnalyticalModel, kernels: Sequence[Kernel]) -> Floats:
    estimator = Estimator(model)
    operators = np.array([shape_of(kernel).operator for kernel in kernels])
    times = np.zeros(len(kernels))
    for operator in np.unique(operators):
        chosen = np.flatnonzero(operators == operator).tolist()
        times[chosen] = estimator.estimate_us(str(operator), Shapes.of([shape_of(kernels[i]) for i in chosen]))
    return times

"""Published measurements as kernels: the networks of qed-usc/mobile-ml-benchmark, the operators of sitar-lab/NeuSight.

The files are not part of the project; see each folder's licence.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autoprune.graph.kernel import Kernel
from autoprune.hardware.analytical_shapes import Shape
from autoprune.hardware.fit import Floats
from autoprune.hardware.importers.layers import Layers
from autoprune.hardware.kernel_table import KernelRow

PHONES = ("pixel4", "s10", "iphone7")
GPUS = ("Tesla V100-PCIE-32GB", "Tesla T4", "NVIDIA A100-PCIE-40GB")
SMS = {"Tesla V100-PCIE-32GB": 80, "Tesla T4": 40, "NVIDIA A100-PCIE-40GB": 108}
_FUSED = {"relu": "relu", "hard_swish": "hswish", "sigmoid": "sigmoid", "minimum": ""}
shape_of = functools.lru_cache(maxsize=None)(Shape.of)


@dataclass(frozen=True, eq=False)
class Networks:
    """The 102 networks on one phone's GPU.

    Attributes:
        names: (n_models,)
        times_us: end to end, mean.  # (n_models,)
        spread: standard deviation over mean of the runs behind each.  # (n_models,)
        kernels: of all networks, one behind the other.
        owner: index of the network of each.  # (n_kernels,)
        kernel_us: measured time of each.  # (n_kernels,)
    """

    names: tuple[str, ...]
    times_us: Floats
    spread: Floats
    kernels: tuple[Kernel, ...]
    owner: np.ndarray[Any, np.dtype[np.int64]]
    kernel_us: Floats


def phone_networks(folder: Path, phone: str) -> Networks:
    """Networks and kernels of one phone's GPU, fp16, batch 1."""
    kernels, models = _phone_tables(folder)
    names = tuple(sorted(models.index))
    places = {name: index for index, name in enumerate(names)}
    mean, std = (models.loc[list(names), f"{phone}|gpu|float|{kind}"].to_numpy(float) for kind in ("mean", "std"))
    return Networks(
        names=names,
        times_us=mean,
        spread=std / mean,
        kernels=_phone_kernels(folder),
        owner=np.array([places[name] for name in kernels["model"]], dtype=np.int64),
        kernel_us=kernels[f"{phone}_gpu_us"].to_numpy(float),
    )


@functools.cache
def _phone_tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    data = folder / "phone-gpu-tflite"
    return pd.read_csv(data / "kernels.csv"), pd.read_csv(data / "models.csv").set_index("model")


@functools.cache
def _phone_kernels(folder: Path) -> tuple[Kernel, ...]:
    table = _phone_tables(folder)[0]
    records = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    return tuple(_phone_kernel(_fields(record)) for record in records)


def _fields(record: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """What decides the kernel: operator, sizes, and the operations that the graph fuses behind it."""
    names = ("op", "h_in", "h_out", "cin", "cout", "kernel", "stride", "groups")
    tail = tuple(re.findall(r"linked_:_([a-z_]+?)_\d", record["pixel4_gpu_kernel"]))
    return (*((name, None if pd.isna(record[name]) else record[name]) for name in names), ("tail", tail))


@functools.cache
def _phone_kernel(fields: tuple[tuple[str, Any], ...]) -> Kernel:
    row = dict(fields)
    channels, side = int(row["cin"]), int(row["h_in"] or 1)
    network = Layers((1, channels, side, side))
    left = int(row["h_out"] or 1)
    match row["op"]:
        case "CONV_2D" | "CONV_2D_GROUP":
            network.conv(
                int(row["cout"]), int(row["kernel"]), (left, left), int(row["stride"]), int(row["groups"] or 1)
            )
        case "DEPTHWISE_CONV_2D":
            network.conv(channels, int(row["kernel"]), (left, left), int(row["stride"]), channels)
        case "FULLY_CONNECTED":
            network = Layers((1, channels)).linear(int(row["cout"]))
        case "CONCATENATION":
            parts = max(int(row["kernel"]), 2) - 1
            rest = int(row["cout"]) - channels
            network.concat([rest // parts] * (parts - 1) + [rest - rest // parts * (parts - 1)])
        case "MEAN":
            network.global_pool()
        case _:
            kernel, stride = int(row["kernel"]), int(row["stride"] or 1)
            padding = max(0, -(-((left - 1) * stride + kernel - side) // 2))
            network.pool("max" if row["op"].startswith("MAX") else "avg", kernel, stride, min(padding, kernel // 2))
    for name in row["tail"]:
        if name in ("add", "mul"):
            network.add()
        else:
            network.activation(_FUSED[name])
    return network.kernels()[0]


def gpu_rows(folder: Path, device: str, operation: str) -> tuple[KernelRow, ...]:
    """Kernels of one GPU: `linear`, `bmm`, `softmax`, `ln` or element-wise ones, fp32."""
    table = pd.read_csv(folder / "gpu-pytorch-fp32" / f"{operation}.csv")
    table = table[table["Device"] == device]
    return tuple(
        row_of(_gpu_kernel(operation, {str(key): value for key, value in record.items()}), 1e3 * record["Latency"])
        for record in table.to_dict("records")
    )


def _gpu_kernel(operation: str, row: dict[str, Any]) -> Kernel:
    if operation == "linear":
        network = Layers((int(row["B"]) * int(row["M"]), int(row["K"]))).linear(int(row["N"]))
    elif operation == "bmm":
        network = Layers((int(row["B"]), int(row["M"]), int(row["K"]))).matmul(int(row["N"]))
    elif operation == "softmax":
        network = Layers((int(row["B"]), int(row["H"]))).softmax()
    elif operation == "ln":
        network = Layers((int(row["B"]), int(row["H"]))).layer_norm()
    else:
        network = Layers((int(row["B"]), int(row["H"])))
        network = network.add() if row["OPName"] in ("add", "mul", "div") else network.activation("relu")
    return network.kernels()[0]


def row_of(kernel: Kernel, time_us: float) -> KernelRow:
    """A row of the kernel's time; percentiles are not known and equal it."""
    shape = shape_of(kernel)
    return KernelRow(
        family=kernel.family,
        sizes=kernel.sizes,
        operator=shape.operator,
        n=1,
        mean_us=time_us,
        p50_us=time_us,
        p90_us=time_us,
        p95_us=time_us,
        p99_us=time_us,
        std_us=0.0,
        flops=shape.flops,
        bytes=shape.bytes,
        provenance="imported",
    )


def median_rows(kernels: list[Kernel], times_us: Floats) -> list[KernelRow]:
    """One row a kernel, of the median of its times."""
    found: dict[Kernel, list[float]] = {}
    for kernel, time_us in zip(kernels, times_us, strict=True):
        found.setdefault(kernel, []).append(float(time_us))
    return [row_of(kernel, float(np.median(times))) for kernel, times in found.items()]

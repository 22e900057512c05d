"""Any table in CSV, by a column map: a YAML that says which column means what.

operator: op                                  # column with the operator
operators: {CONV_2D: conv, ADD: add, SHAPE: null}   # its texts -> layer; null leaves a row out
time: {column: latency_ms, unit: ms}          # and optionally std, count
columns: {height: h_in, in_channels: cin, out_channels: cout, kernel: ks, stride: stride}
activation: relu                              # behind every convolution and linear layer
repeated: refuse                              # or median: what is measured several times
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from autoprune.core.errors import InputError, shortened
from autoprune.core.files import read_text
from autoprune.core.settings import read_yaml, validated
from autoprune.graph.kernel import Kernel
from autoprune.hardware.importers import Imported, ImportSettings, Timing
from autoprune.hardware.importers.layers import Layers
from autoprune.hardware.importers.reading import MAX_BYTES, csv_records, not_negative, time_us, whole

WHAT = "table"
SCALES = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}
Layer = Literal[
    "conv", "depthwise", "linear", "matmul", "add", "relu", "maxpool", "avgpool", "global_pool", "softmax", "layer_norm"
]
Field = Literal[
    "batch", "rows", "height", "width", "out_height", "in_channels", "out_channels", "kernel", "stride", "groups"
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeColumns(_Model):
    """Where the times are, and in which unit; one unit for the whole table."""

    column: str
    unit: Literal["ns", "us", "ms", "s"]
    std: str | None = None
    count: str | None = None


class ColumnMap(_Model):
    """Which column means what (see the module's docstring)."""

    operator: str
    operators: dict[str, Layer | None]
    time: TimeColumns
    columns: dict[Field, str]
    activation: Literal["", "relu", "relu6", "hswish", "gelu"] = ""
    repeated: Literal["refuse", "median"] = "refuse"


class ColumnTable:
    """A CSV table by a column map."""

    def read(self, path: Path, settings: ImportSettings) -> Imported:
        """The times of every row whose operator the map names."""
        if settings.columns is None:
            raise InputError(f"{WHAT} {path}: expected a column map for a CSV file, got none. Give it with --columns.")
        told = f"column map {settings.columns}"
        mapping = validated(ColumnMap, read_yaml(settings.columns, "column map"), told)
        records = csv_records(read_text(path, WHAT, MAX_BYTES), f"{WHAT} {path}")
        _, header = next(records, (0, []))
        _check_header(path, header, mapping)
        timings = []
        seen: dict[tuple[Kernel, ...], int] = {}
        for line, cells in records:
            place = f"{WHAT} {path}, line {line}"
            if len(cells) != len(header):
                raise InputError(
                    f"{place}: expected {len(header)} fields, got {len(cells)}. Correct or remove the line; the file "
                    "may be cut off."
                )
            timing = _timing(dict(zip(header, cells, strict=True)), mapping, place, settings.batch)
            if timing is None:
                continue
            if mapping.repeated == "refuse" and timing.kernels in seen:
                raise InputError(
                    f"{place}: expected each kernel once, got that of line {seen[timing.kernels]} again. Remove one, "
                    "or set 'repeated: median' in the column map."
                )
            seen[timing.kernels] = line
            timings.append(timing)
        return Imported(tuple(timings))


def _check_header(path: Path, header: list[str], mapping: ColumnMap) -> None:
    named = [mapping.operator, mapping.time.column, mapping.time.std, mapping.time.count, *mapping.columns.values()]
    missing = [name for name in named if name is not None and name not in header]
    twice = [name for name in named if name is not None and header.count(name) > 1]
    for fault, names in (("misses", missing), ("repeats", twice)):
        if names:
            told, has = (shortened(", ".join(listed), 300) for listed in (names, header))
            raise InputError(
                f"{WHAT} {path}: expected the columns of the column map, got a header that {fault} "
                f"{told}. It has: {has}."
            )


def _timing(row: Mapping[str, str], mapping: ColumnMap, place: str, batch: int) -> Timing | None:
    operator = row[mapping.operator]
    if operator not in mapping.operators:
        known = shortened(", ".join(mapping.operators), 300)
        raise InputError(
            f"{place}: expected an operator of the column map ({known}), got '{shortened(operator)}'. "
            "Add it, with null to leave such rows out."
        )
    layer = mapping.operators[operator]
    if layer is None:
        return None
    scale = SCALES[mapping.time.unit]
    std, count = mapping.time.std, mapping.time.count
    return Timing(
        place=place,
        kernels=_kernels(layer, _Fields(row, mapping.columns, place), mapping.activation, batch),
        mean_us=time_us(row[mapping.time.column], f"{place}, column '{mapping.time.column}'", scale),
        std_us=scale * not_negative(row[std], f"{place}, column '{std}'") if std else 0.0,
        n=whole(row[count], f"{place}, column '{count}'", 1, 10**9) if count else 1,
    )


class _Fields:
    """The sizes of a row."""

    def __init__(self, row: Mapping[str, str], columns: Mapping[Field, str], place: str) -> None:
        self._row, self._columns, self._place = row, columns, place

    def __call__(self, name: Field, default: int | None = None) -> int:
        column = self._columns.get(name)
        if column is None or (default is not None and not self._row[column]):
            if default is None:
                raise InputError(f"{self._place}: expected the column map to name a column for '{name}', got none.")
            return default
        return whole(self._row[column], f"{self._place}, column '{column}'")


def _kernels(layer: Layer, size: _Fields, activation: str, batch: int) -> tuple[Kernel, ...]:
    first = size("batch", batch)
    if layer == "linear":
        shape = (first, size("in_channels")) if size("rows", 0) == 0 else (first, size("rows"), size("in_channels"))
        return Layers(shape).linear(size("out_channels")).activation(activation).kernels()
    if layer == "matmul":
        return Layers((first, size("rows"), size("in_channels"))).matmul(size("out_channels")).kernels()
    if layer in ("softmax", "layer_norm"):
        rows = Layers((first, size("rows", 1), size("in_channels")))
        return (rows.softmax() if layer == "softmax" else rows.layer_norm()).kernels()
    height = size("height")
    network = Layers((first, size("in_channels"), height, size("width", height)))
    match layer:
        case "conv" | "depthwise":
            return _convolution(network, layer, size, activation).kernels()
        case "add":
            return network.add().kernels()
        case "relu":
            return network.activation("relu").kernels()
        case "global_pool":
            return network.global_pool().kernels()
        case _:
            return network.pool(layer[:3], size("kernel"), size("stride", 1)).kernels()


def _convolution(network: Layers, layer: Layer, size: _Fields, activation: str) -> Layers:
    channels, stride = network.shape[1], size("stride", 1)
    groups = channels if layer == "depthwise" else size("groups", 1)
    left = tuple(-(-side // stride) for side in network.shape[2:])
    if size("out_height", 0):
        left = tuple(size("out_height") * side // network.shape[2] for side in network.shape[2:])
    out = size("out_channels", channels if layer == "depthwise" else None)
    return network.conv(out, size("kernel"), (left[0], left[1]), stride, groups).activation(activation)

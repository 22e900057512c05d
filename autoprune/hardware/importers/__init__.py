"""Importers: kernel times that others measured, one file format a module.

An importer reads a file into `Timing`s; `autoprune.hardware.importers.profile` makes a profile of them. To add a
format: a class with the method `read`, registered here or under the entry-point group `autoprune.importers`, and
`autoprune.hardware.importers.contract` run over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from autoprune.core.registry import Registry
from autoprune.graph.kernel import Kernel

HERE = "autoprune.hardware.importers"


@dataclass(frozen=True)
class Timing:
    """One time that a file gives.

    Attributes:
        place: where it stands in the file (a key, or a line), for messages.
        kernels: what was timed; several where only their sum was.
        mean_us: mean time.
        std_us: standard deviation, 0 where unknown.
        n: timed runs.
        percentiles_us: "p50", "p90", "p95", "p99" -> time, as far as the file has them.
    """

    place: str
    kernels: tuple[Kernel, ...]
    mean_us: float
    std_us: float = 0.0
    n: int = 1
    percentiles_us: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """What a file holds.

    Attributes:
        timings: in the file's order.
        notes: what could not be used, for people.
    """

    timings: tuple[Timing, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedKernels:
    """The kernels of a model by the names that runtimes report.

    Attributes:
        kernels: the model's kernels, in execution order.
        places: name of an operation -> index of the kernel it is part of.
    """

    kernels: tuple[Kernel, ...]
    places: Mapping[str, int]


@dataclass(frozen=True)
class ImportSettings:
    """What a file does not say.

    Attributes:
        batch: batch size that was measured.
        columns: a YAML column map, for tables whose columns are free.
        model: the model that was measured, for files that only name its operations.
    """

    batch: int = 1
    columns: Path | None = None
    model: NamedKernels | None = None


class Importer(Protocol):
    """Reads one file format; `autoprune.hardware.importers.contract` checks one."""

    def read(self, path: Path, settings: ImportSettings) -> Imported:
        """The times in a file.

        Raises:
            InputError: unreadable, too large, truncated, not of this format, a time that is not a finite number above
                zero, or the same kernel twice; the message names file, place, what was expected and got.
        """


IMPORTERS: Registry[type[Importer]] = Registry(
    "importer",
    "autoprune.importers",
    {
        "csv": f"{HERE}.columns:ColumnTable",
        "litert": f"{HERE}.litert:LiteRt",
        "nn-meter": f"{HERE}.nn_meter:NnMeter",
        "ofa": f"{HERE}.ofa:OnceForAll",
        "onnxruntime": f"{HERE}.onnxruntime:OnnxRuntimeTrace",
        "proxylessnas": f"{HERE}.ofa:ProxylessNas",
        "tensorrt": f"{HERE}.tensorrt:TensorRt",
    },
)

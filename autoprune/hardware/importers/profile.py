"""From an importer's file to a hardware profile."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from autoprune.core.errors import unknown_name
from autoprune.core.files import digest
from autoprune.graph.dimension import Batch
from autoprune.graph.fusion import kernel_slots
from autoprune.hardware.cost import Graph
from autoprune.hardware.importers import IMPORTERS, ImportSettings, NamedKernels
from autoprune.hardware.importers.rows import kernel_rows
from autoprune.hardware.profile import (
    DeviceInfo,
    HardwareProfile,
    ProfileHeader,
    ProtocolInfo,
    RuntimeInfo,
    Validation,
)

KINDS = ("cpu", "gpu", "mobile", "npu", "other")


@dataclass(frozen=True)
class Origin:
    """Where the times come from, as the user tells it.

    Attributes:
        name: of the profile.
        device, kind: what was measured on.
        runtime, runtime_version: what ran it.
        precision, threads: how.
        description: for people; the source belongs here.
    """

    name: str
    device: str
    kind: str = "other"
    runtime: str = "unknown"
    runtime_version: str = "unknown"
    precision: str = "float32"
    threads: int = 1
    description: str = ""


def import_profile(format: str, path: Path, origin: Origin, settings: ImportSettings | None = None) -> HardwareProfile:
    """A profile of provenance `imported` from a file of others.

    No whole model corrects the sum of its kernels, so its predictions carry a wide interval.

    Args:
        format: a registered importer.
        path: the file.
        origin: device and runtime.
        settings: what else the file does not say.

    Raises:
        InputError: an unknown format or kind of device, or a file that its importer refuses.
    """
    checked_kind(origin.kind)
    given = settings or ImportSettings()
    found = IMPORTERS.get(format)().read(path, given)
    rows = kernel_rows(found.timings)
    blocks = sum(len(timing.kernels) > 1 for timing in found.timings)
    split = (f"{blocks} times of several kernels together are split over them in a roofline's proportions",)
    header = ProfileHeader(
        name=origin.name,
        description=origin.description,
        device=DeviceInfo.model_validate({"name": origin.device, "kind": origin.kind}),
        runtime=RuntimeInfo(name=origin.runtime, version=origin.runtime_version),
        precision=origin.precision,
        batch=given.batch,
        threads=origin.threads,
        environment={"imported_from": path.name, "format": format, "sha256": digest(path.read_bytes(), 64)},
        protocol=ProtocolInfo(sessions=0, minimum_runs=0, warmup_runs=0, warmup_us=0.0),
        provenance="imported",
        validation=Validation(notes=(*found.notes, *(split if blocks else ()))),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    )
    return HardwareProfile(header, rows)


def checked_kind(kind: str) -> str:
    """A kind of device as it is.

    Raises:
        InputError: an unknown one.
    """
    if kind not in KINDS:
        raise unknown_name("kind of device", kind, KINDS)
    return kind


def named_kernels(graph: Graph, batch: int = 1) -> NamedKernels:
    """The kernels of a traced model at its dense widths, by its operations' names."""
    slots = kernel_slots(graph.program)
    kernels = tuple(slot.kernel({Batch.KEY: batch}) for slot in slots)
    places = {name: index for index, slot in enumerate(slots) for name in (slot.name, *slot.operations)}
    return NamedKernels(kernels, places)

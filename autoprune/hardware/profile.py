"""Hardware profiles: a folder with `profile.json` and `kernels.csv`, found by name or path.

Listing and loading need neither torch nor any runtime.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoprune.core.data import data_folder
from autoprune.core.errors import InputError, shortened, unknown_name
from autoprune.core.files import canonical_json, digest, read_json, write_json
from autoprune.core.settings import at_most
from autoprune.hardware.analytical import AnalyticalModel
from autoprune.hardware.kernel_table import KernelRow, read_kernels, write_kernels

SCHEMA = "autoprune.profile/1"
PERCENTILES = ("p50", "p90", "p95", "p99")
HEADER_FILE, KERNELS_FILE = "profile.json", "kernels.csv"
FOLDER = "hardware_profiles"
MAX_HEADER_BYTES = 8 * 1024 * 1024

Whole = Annotated[int, Field(le=2**53)]
Microseconds = Annotated[float, Field(ge=0, le=1e12)]
Ratio = Annotated[float, Field(ge=0, le=1e6)]
Texts = Annotated[dict[str, str], at_most(256)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=20_000)


class DeviceInfo(_Model):
    """What was measured on."""

    name: str
    kind: Literal["cpu", "gpu", "mobile", "npu", "other"]
    processor: str = ""
    cores: Whole = Field(default=1, ge=1)
    memory_bytes: Whole = Field(default=0, ge=0)
    features: Annotated[tuple[str, ...], at_most(256)] = ()


class RuntimeInfo(_Model):
    """What ran the models, and how it was set."""

    name: str
    version: str
    flags: Texts = {}


class ProtocolInfo(_Model):
    """How times were taken; counts are per kernel and session."""

    sessions: Whole = Field(ge=0)
    minimum_runs: Whole = Field(ge=0)
    warmup_runs: Whole = Field(ge=0)
    warmup_us: Microseconds
    # What kernels pay when they run alone; already taken off their times.
    empty_run_us: Microseconds = 0.0
    edge_us: Microseconds = 0.0  # a convolution's activation that comes in or goes out ...
    edge_us_per_byte: Microseconds = 0.0  # ... and each byte of it
    seed: Whole = 0
    seconds: float = Field(default=0.0, ge=0)


class Composition(_Model):
    """From kernels to a model: `sum_factor * sum + constant_us + kernel_us * kernels`, for one percentile.

    `sum` is over the kernels' medians whatever the percentile: tails of kernels of ten microseconds are noise.
    """

    sum_factor: float = Field(ge=0, le=1e6)
    constant_us: Microseconds
    kernel_us: Microseconds


class Residuals(_Model):
    """Errors on models left out: `measured / predicted - 1`, their mean size and middle nine tenths."""

    mean_absolute: float = Field(ge=0)
    low: float = Field(ge=-1e6, le=1e6)
    high: float = Field(ge=-1e6, le=1e6)


class KnownModel(_Model):
    """What was learnt from one model that was profiled; policies of that model are predicted by it.

    Its composition, and the errors on policies left out, by percentile.
    """

    models: Whole = Field(ge=0)
    composition: Annotated[dict[str, Composition], at_most(16)]
    residuals: Annotated[dict[str, Residuals], at_most(16)]


class Validation(_Model):
    """How well the profile predicts whole models that it did not see.

    Where several models were profiled, `residuals` are those of models left out with all their policies: what to expect
    of a model that was not profiled.
    """

    models: Whole = Field(default=0, ge=0)
    residuals: Annotated[dict[str, Residuals], at_most(16)] = {}
    # Ways to predict -> mean absolute error at p50 on models left out.
    compared: Annotated[dict[str, float], at_most(256)] = {}
    sentinel_drift: float = Field(default=0.0, ge=0)  # largest deviation of the sentinel kernel from its median
    rank_correlation: float | None = None
    notes: Annotated[tuple[str, ...], at_most(256)] = ()


class ProfileHeader(_Model):
    """`profile.json`: everything about a profile but its kernels."""

    schema_version: Literal["autoprune.profile/1"] = Field(alias="schema", default="autoprune.profile/1")
    name: str = Field(min_length=1, max_length=200)
    description: str = ""
    device: DeviceInfo
    runtime: RuntimeInfo
    precision: str = "float32"
    batch: int = Field(default=1, ge=1, le=1_000_000)
    threads: int = Field(default=1, ge=1, le=1_000_000)
    layout: str = "NCHW"
    environment: Texts = {}
    protocol: ProtocolInfo
    provenance: Literal["measured", "imported", "analytical"]
    within: Literal["alone", "model"] = "alone"  # the rows that predict: those timed alone, or inside models
    # Operator class -> time inside models over time alone, for families met alone only.
    context: Annotated[dict[str, Ratio], at_most(1000)] = {}
    composition: Annotated[dict[str, Composition], at_most(16)] = {}
    known: Annotated[dict[str, KnownModel], at_most(1000)] = {}  # by the digest of a model's kernel families
    analytical: AnalyticalModel | None = None  # for kernels that have no row
    alignment_quantum: int = Field(default=1, ge=1, le=4096)
    validation: Validation = Validation()
    created: str = ""

    model_config = ConfigDict(populate_by_name=True)


@dataclass(frozen=True, eq=False)
class HardwareProfile:
    """What is known of one device under one runtime.

    Attributes:
        header: everything but the kernels.
        kernels: one row a kernel.
    """

    header: ProfileHeader
    kernels: tuple[KernelRow, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """The profile's name, as in `latency_p50@name`."""
        return self.header.name

    @property
    def batch(self) -> int:
        """The batch size its kernels were timed at."""
        return self.header.batch

    @property
    def alignment_quantum(self) -> int:
        """Widths that are multiples of this run best."""
        return self.header.alignment_quantum

    @property
    def id(self) -> str:
        """Its identity: 16 hex digits of the SHA-256 of header and kernels."""
        rows = [[row.family, row.sizes, f"{row.p50_us:.6g}", f"{row.p99_us:.6g}"] for row in self.kernels]
        return digest(canonical_json([header_data(self.header), sorted(rows)]))

    @classmethod
    def load(cls, path: Path | str) -> HardwareProfile:
        """A profile from its folder.

        Raises:
            InputError: a file is missing or wrong; the message says which, where, what was expected and what to do.
        """
        folder = Path(path)
        return cls(read_header(folder), read_kernels(folder / KERNELS_FILE))

    def save(self, path: Path | str) -> None:
        """Write the profile's folder.

        Raises:
            InputError: the folder cannot be written.
        """
        folder = Path(path)
        write_kernels(folder / KERNELS_FILE, self.kernels)
        write_json(folder / HEADER_FILE, header_data(self.header))


def header_data(header: ProfileHeader) -> dict[str, Any]:
    """A header as JSON data."""
    data: dict[str, Any] = header.model_dump(mode="json", by_alias=True)
    for name in ("analytical", "within", "context", "known"):  # profiles without them keep the identity they had
        if getattr(header, name) == ProfileHeader.model_fields[name].default:
            del data[name]
    if not header.validation.compared:
        del data["validation"]["compared"]
    return data


def read_header(folder: Path) -> ProfileHeader:
    """The header of the profile in a folder.

    Raises:
        InputError: missing, of another schema version, or with a wrong field.
    """
    path = folder / HEADER_FILE
    if not os.path.isfile(path):
        raise InputError(
            f"profile {folder}: expected a folder with {HEADER_FILE} and {KERNELS_FILE}, found no {HEADER_FILE}. "
            "Name a profile of `autoprune profile list`, or the path of a profile's folder."
        )
    data = read_json(path, "profile", SCHEMA, MAX_HEADER_BYTES)
    try:
        return ProfileHeader.model_validate(data)
    except ValidationError as error:
        raise InputError(
            f"profile {path}: {_first_fault(error)} Correct the file, or profile the device anew."
        ) from error


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(shortened(str(part)) for part in first["loc"])
    more = f" ({error.error_count() - 1} more.)" if error.error_count() > 1 else ""
    if first["type"] == "missing":
        return f"expected the field '{place}', got a file without it.{more}"
    message, got = str(first["msg"]), shortened(str(first["input"]))
    return f"field '{place}': {message[:1].lower() + message[1:]}, got '{got}'.{more}"


def load_profile(name_or_path: str | Path) -> HardwareProfile:
    """A profile by the name of a shipped one, or by the path of its folder.

    Raises:
        InputError: no such profile (the known ones are listed), or a broken one.
    """
    folder = Path(name_or_path)
    if os.path.isdir(folder):
        return HardwareProfile.load(folder)
    shipped = _shipped()
    name = str(name_or_path)
    if name in shipped:
        return HardwareProfile.load(shipped[name])
    if "/" in name or "\\" in name:
        raise InputError(
            f"profile '{shortened(name, 300)}': expected the path of a profile's folder, got one that does not exist. "
            f"Shipped profiles: {', '.join(sorted(shipped)) or '(none)'}."
        )
    raise unknown_name("hardware profile", name, shipped)


def list_profiles() -> list[dict[str, Any]]:
    """The headers of the shipped profiles as JSON data, by name."""
    return [header_data(read_header(folder)) for _, folder in sorted(_shipped().items())]


def _shipped() -> Mapping[str, Path]:
    root = data_folder(FOLDER)
    if not root.is_dir():
        return {}
    return {folder.name: folder for folder in root.iterdir() if (folder / HEADER_FILE).is_file()}

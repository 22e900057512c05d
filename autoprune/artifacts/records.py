"""What the JSON files of a run say, checked where they are read: `run.json`, `policy.json`, `metrics.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StrictInt, StrictStr

from autoprune.artifacts.layout import METRICS_SCHEMA, RECIPE_SCHEMA, RUN_SCHEMA
from autoprune.core.errors import Failure
from autoprune.core.files import read_json, write_json
from autoprune.core.settings import validated


def _finite(value: JsonValue) -> JsonValue:
    # json.dumps refuses NaN only when told to, and json.loads never does.
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("expected finite numbers, got NaN or infinity") from None
    return value


FiniteFloat = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Cell = StrictInt | FiniteFloat | StrictStr | None
Json = Annotated[JsonValue, AfterValidator(_finite)]
Count = Annotated[int, Field(strict=True, ge=0)]


class Record(BaseModel):
    """A frozen record with a schema name; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    SCHEMA: ClassVar[str]
    WHAT: ClassVar[str]

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """The record in a file.

        Raises:
            InputError: unreadable, of another schema, or with a key that does not fit (each is named).
        """
        data = read_json(path, cls.WHAT, cls.SCHEMA)
        return validated(cls, {key: value for key, value in data.items() if key != "schema"}, f"{cls.WHAT} {path}")

    def write(self, path: Path) -> None:
        """Write it, atomically.

        Raises:
            InputError: the folder cannot be written.
        """
        write_json(path, {"schema": self.SCHEMA} | self.model_dump(mode="json"))


R = TypeVar("R", bound=Record)


class GroupRecord(BaseModel):
    """A dependency group: its id, units in the dense model and what a unit is (`channel`, `head`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    size: Count
    unit: str = ""


class RunRecord(Record):
    """How a run was made. Everything here is shown in the report.

    Attributes:
        name: for people; usually the folder's name.
        metrics: the task's metrics in order, the first is the search's quality; columns of `front.csv`.
        minimize: those of them where lower is better.
        objectives: as asked for (`error`, `latency_p50@phone`), the quality first.
        constraints: as asked for.
        profiles: names of the hardware profiles; with several, latency columns end in `@profile`.
        groups: the prunable groups, in program order; filled by `write_run`.
        seed: of the search.
        versions: package -> version, python and platform among them.
        hashes: of model, data, space and profiles, as the search computed them.
        config: the configuration as resolved.
        notes: warnings and other sentences worth reading beside the results.
    """

    SCHEMA: ClassVar[str] = RUN_SCHEMA
    WHAT: ClassVar[str] = "run record"

    name: str = ""
    metrics: tuple[str, ...] = ("accuracy",)
    minimize: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ("error", "latency_p50")
    constraints: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    groups: tuple[GroupRecord, ...] = ()
    seed: int = 0
    versions: dict[str, str] = Field(default_factory=dict)
    hashes: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Json] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Recipe(Record):
    """How a member comes from the dense model; enough to build it again.

    Attributes:
        member: its name.
        policy: group id -> units kept, every group named.
        kept: group id -> indices of the units kept, ascending; groups not named keep all.
        criterion: that ordered the units.
        compensate, recalibrate: whether consumers were compensated and batch-norm statistics estimated anew.
        source: hashes of what it was made from (`weights`, `program`, ...).
        finetune: settings, empty where there was none.
        versions: of the libraries that made it.
        seed: of the pruning.
    """

    SCHEMA: ClassVar[str] = RECIPE_SCHEMA
    WHAT: ClassVar[str] = "recipe"

    member: str
    policy: dict[str, Count]
    kept: dict[str, tuple[Count, ...]] = Field(default_factory=dict)
    criterion: str = ""
    compensate: bool = True
    recalibrate: bool = True
    source: dict[str, str] = Field(default_factory=dict)
    finetune: dict[str, Json] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    seed: int = 0


class ExportRecord(BaseModel):
    """One published file: its size, and how far it is from the module (`difference` <= `tolerance`, at `batches`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    file: str
    bytes: Count
    sha256: str
    difference: float | None = None
    tolerance: float | None = None
    batches: tuple[int, ...] = ()
    note: str = ""


class FailureRecord(BaseModel):
    """A `Failure` as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, failure: Failure) -> FailureRecord:
        """The record of a failure."""
        return cls(kind=failure.kind, message=failure.message, hint=failure.hint)


class MetricsRecord(Record):
    """A member's row of the front, what was published, and what could not be.

    Attributes:
        member: its name.
        row: as in `front.csv`.
        exports: format -> file.
        failures: format (or another stage) -> why it is not there.
    """

    SCHEMA: ClassVar[str] = METRICS_SCHEMA
    WHAT: ClassVar[str] = "metrics of a member"

    member: str
    row: dict[str, Cell] = Field(default_factory=dict)
    exports: dict[str, ExportRecord] = Field(default_factory=dict)
    failures: dict[str, FailureRecord] = Field(default_factory=dict)

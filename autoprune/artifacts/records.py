"""What the JSON files of a run say, checked where they are read: `run.json`, `policy.json`, `metrics.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, JsonValue, StrictInt, StrictStr

from autoprune.artifacts.layout import METRICS_SCHEMA, RANKING_SCHEMA, RECIPE_SCHEMA, RUN_SCHEMA
from autoprune.core.errors import Failure
from autoprune.core.files import read_json, write_json
from autoprune.core.settings import at_most, validated


def _finite(value: JsonValue) -> JsonValue:
    # json.dumps refuses NaN only when told to, and json.loads never does.
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        raise ValueError("expected finite numbers a few levels deep, got others") from None
    return value


FiniteFloat = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Cell = StrictInt | FiniteFloat | StrictStr | None
Json = Annotated[JsonValue, AfterValidator(_finite)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
MAX_RECORD_BYTES = 16 * 1024 * 1024
MAX_ITEMS, MAX_UNITS, MAX_TEXT = 100_000, 1_000_000, 100_000
Texts = Annotated[tuple[str, ...], at_most(MAX_ITEMS)]
TextsByName = Annotated[dict[str, str], at_most(MAX_ITEMS)]
Units = Annotated[tuple[Count, ...], FailFast(), at_most(MAX_UNITS)]
Settings = Annotated[dict[str, Json], at_most(MAX_ITEMS)]


class Record(BaseModel):
    """A frozen record with a schema name; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=MAX_TEXT)
    SCHEMA: ClassVar[str]
    WHAT: ClassVar[str]

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """The record in a file.

        Raises:
            InputError: unreadable, of another schema, or with a key that does not fit (each is named).
        """
        data = read_json(path, cls.WHAT, cls.SCHEMA, MAX_RECORD_BYTES)
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
    metrics: Annotated[Texts, Field(min_length=1)] = ("accuracy",)
    minimize: Texts = ()
    objectives: Texts = ("error", "latency_p50")
    constraints: Texts = ()
    profiles: Texts = ()
    groups: Annotated[tuple[GroupRecord, ...], at_most(MAX_ITEMS)] = ()
    seed: int = 0
    versions: TextsByName = Field(default_factory=dict)
    hashes: TextsByName = Field(default_factory=dict)
    config: Settings = Field(default_factory=dict)
    notes: Texts = ()


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
    policy: Annotated[dict[str, Count], at_most(MAX_ITEMS)]
    kept: Annotated[dict[str, Units], at_most(MAX_ITEMS)] = Field(default_factory=dict)
    criterion: str = ""
    compensate: bool = True
    recalibrate: bool = True
    source: TextsByName = Field(default_factory=dict)
    finetune: Settings = Field(default_factory=dict)
    versions: TextsByName = Field(default_factory=dict)
    seed: int = 0


class ExportRecord(BaseModel):
    """One published file: its size, and how far it is from the module (`difference` <= `tolerance`, at `batches`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    file: str
    bytes: Count
    sha256: str
    difference: float | None = None
    tolerance: float | None = None
    batches: Annotated[tuple[int, ...], at_most(1000)] = ()
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
    row: Annotated[dict[str, Cell], at_most(MAX_ITEMS)] = Field(default_factory=dict)
    exports: Annotated[dict[str, ExportRecord], at_most(1000)] = Field(default_factory=dict)
    failures: Annotated[dict[str, FailureRecord], at_most(1000)] = Field(default_factory=dict)


class ComparisonRecord(BaseModel):
    """How well one stage ranks models as another does.

    Attributes:
        kind: `fidelity` (two amounts of training), `split` (validation and test), `latency` (predicted and measured) or
            `damage` (damage curves and trials).
        what: the metric or latency compared (`accuracy`, `latency_p50@phone`).
        first, second: the two stages.
        models: how many were compared.
        kendall: Kendall's tau-b; None where one stage does not rank at all.
        spearman: Spearman's rho, likewise.
        error: mean relative error of the first against the second, where both are the same quantity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["fidelity", "split", "latency", "damage"]
    what: str
    first: str
    second: str
    models: Count
    kendall: float | None = None
    spearman: float | None = None
    error: float | None = None


class RankingRecord(Record):
    """How far the cheap stages of a search can be trusted: what they rank against what the dear ones say.

    Attributes:
        comparisons: as they are shown.
    """

    SCHEMA: ClassVar[str] = RANKING_SCHEMA
    WHAT: ClassVar[str] = "ranking"

    comparisons: tuple[ComparisonRecord, ...] = ()

"""`manifest.json`: what is in a kit, file by file, and the order in which it is run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from autoprune.core.errors import InputError, shortened
from autoprune.core.files import canonical_json, digest
from autoprune.core.settings import at_most, validated
from autoprune.graph.kernel import Kernel

SCHEMA = "autoprune.kit/1"
MANIFEST, KIT_ID = "manifest.json", "kit.id"
ORDER, SUMS, ENVIRONMENT = "order.txt", "sums.txt", "environment.txt"
MODELS, LOGS, PROGRAMS = "models", "logs", "programs"
SENTINEL = "sentinel"
MAX_MODELS, MAX_GROUPS, MAX_UNITS = 200_000, 100_000, 2**22

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
File = Annotated[str, StringConstraints(pattern=r"^([a-z0-9_-]+/)?[a-z0-9_-]+\.[a-z.]{1,12}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Role = Literal["kernel", "whole", "sentinel", "empty", "probe", "edge"]
LOG_FILE = re.compile(rf"{LOGS}/([a-z0-9][a-z0-9-]{{0,63}})\.(log|failed)")


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True, str_max_length=20_000
    )


class KitFile(_Model):
    """One file of the kit."""

    sha256: Sha256
    size: int = Field(ge=0, le=2**53)


class KitModel(_Model):
    """One model of the kit.

    Attributes:
        id: names its logs.
        role: a kernel of the plan, a whole pruned model, or what the machine itself is measured by.
        file: of the model.
        kernel: its key; None for whole models.
        operator: its class.
        target, widths: of a whole model: which program, and kept units in the order of its groups.
    """

    id: Name
    role: Role
    file: File
    kernel: str | None = None
    operator: str = ""
    target: int | None = Field(default=None, ge=0, le=10_000)
    widths: Annotated[tuple[int, ...], at_most(MAX_GROUPS)] = ()

    def as_kernel(self) -> Kernel:
        """The kernel of a model that is one.

        Raises:
            InputError: its key is not that of a kernel.
        """
        return Kernel.from_key(self.kernel or "")


class KitTarget(_Model):
    """A model that is profiled: the file of its program, and (name, size) of each of its groups in order."""

    program: File
    groups: Annotated[tuple[tuple[str, Annotated[int, Field(ge=1, le=MAX_UNITS)]], ...], at_most(MAX_GROUPS)]


class KitProtocol(_Model):
    """How the far end times a model; counts are per model and session."""

    sessions: int = Field(default=3, ge=1, le=100)
    minimum_runs: int = Field(default=50, ge=1, le=10**9)
    maximum_runs: int = Field(default=400, ge=1, le=10**9)
    target_us: float = Field(default=20_000.0, ge=0, le=1e12)
    warmup_runs: int = Field(default=10, ge=1, le=10**9)
    warmup_us: float = Field(default=5_000.0, ge=0, le=1e12)
    seed: int = Field(default=0, ge=0, lt=2**63)


class Manifest(_Model):
    """Everything about a kit but its files' contents.

    Attributes:
        id: 16 hex digits over all the rest; every log carries it.
        autoprune: the version that wrote it.
        runtime: whose tool runs it (see `autoprune.hardware.kit.tools`).
        quantum: width multiple that the plan went by.
        planned: kernels that the plan had; the kit holds the coarsest grids of them.
        files: path -> hash and size.
        models: in no particular order.
        targets: the models that are profiled.
        order: (log, model id), as they are run.
        notes: what could not be written.
    """

    schema_version: Literal["autoprune.kit/1"] = Field(alias="schema", default="autoprune.kit/1")
    id: str = ""
    autoprune: str
    runtime: str
    precision: str
    batch: int = Field(ge=1, le=1_000_000)
    threads: int = Field(ge=1, le=1_000_000)
    protocol: KitProtocol
    quantum: int = Field(ge=1, le=4096)
    planned: int = Field(ge=0, le=2**53)
    files: Annotated[dict[File, KitFile], at_most(MAX_MODELS)]
    models: Annotated[tuple[KitModel, ...], at_most(MAX_MODELS)]
    targets: Annotated[tuple[KitTarget, ...], at_most(1000)]
    order: Annotated[tuple[tuple[Name, Name], ...], at_most(100 * MAX_MODELS)]
    notes: Annotated[tuple[str, ...], at_most(1000)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        known = {model.id for model in self.models}
        _once("model", [model.id for model in self.models])
        _once("kernel", [model.kernel for model in self.of("kernel")])
        _once("log", [log for log, _ in self.order])
        for model in self.models:
            if model.file not in self.files:
                raise ValueError(f"the model '{model.id}' is in '{model.file}', which is not among the files")
            if (model.role == "whole") == (model.kernel is not None):
                raise ValueError(f"the model '{model.id}' is neither a kernel nor a whole model")
            if model.role == "whole":
                self._check_whole(model)
        for log, model_id in self.order:
            if model_id not in known:
                raise ValueError(f"the log '{log}' is of '{model_id}', which is not among the models")
        return self

    def _check_whole(self, model: KitModel) -> None:
        if model.target is None or model.target >= len(self.targets):
            raise ValueError(f"the model '{model.id}' is of target {model.target}, which is not there")
        sizes = [size for _, size in self.targets[model.target].groups]
        fitting = len(model.widths) == len(sizes)
        if not fitting or not all(1 <= width <= size for width, size in zip(model.widths, sizes, strict=True)):
            raise ValueError(f"the model '{model.id}' has widths that do not fit its groups")

    def of(self, role: Role) -> list[KitModel]:
        """The models of one role."""
        return [model for model in self.models if model.role == role]

    def data(self) -> dict[str, Any]:
        """As JSON data."""
        return self.model_dump(mode="json", by_alias=True)

    def identified(self) -> Manifest:
        """With its id."""
        return self.model_copy(update={"id": self._identity()})

    def _identity(self) -> str:
        return digest(canonical_json({**self.data(), "id": ""}))


def manifest_of(data: Mapping[str, Any], place: str) -> Manifest:
    """A manifest from its JSON data.

    Raises:
        InputError: of another schema version, with a wrong field, or changed since it was written.
    """
    if data.get("schema") != SCHEMA:
        raise InputError(
            f"{place}: expected schema '{SCHEMA}', got {shortened(repr(data.get('schema')))}. The kit was written by "
            "another version of autoprune; import it with that version, or write and run a new one."
        )
    manifest = validated(Manifest, dict(data), place)
    if manifest.id != manifest._identity():
        raise InputError(
            f"{place}: expected a manifest as it was written (id '{shortened(manifest.id, 32)}'), got one that was "
            "changed since. Copy the kit again."
        )
    return manifest


def _once(what: str, names: list[Any]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the {what} '{shortened(str(name))}' is there twice")
        seen.add(name)

"""`config.yaml` of `autoprune search`: what it may say, checked before any work starts.

Every key has a default where one is sensible. Unknown keys are errors that name the nearest known key. Paths are
relative to the folder of the config file, wherever the command runs.
"""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from autoprune.core.errors import InputError
from autoprune.core.settings import read_yaml, validated
from autoprune.core.units import parse_bytes, parse_seconds
from autoprune.tuning.settings import MemberSettings


def _seconds(value: object) -> object:
    """`30min` or a number of seconds, as seconds."""
    if isinstance(value, str):
        try:
            return parse_seconds(value)
        except InputError as error:
            raise ValueError(str(error).rstrip(".")) from error
    return value


def _bytes(value: object) -> object:
    """`4GB` or a number of bytes, as bytes."""
    if isinstance(value, str):
        try:
            return round(parse_bytes(value))
        except (InputError, OverflowError) as error:
            raise ValueError(str(error).rstrip(".")) from error
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("expected printable characters on one line")
    return value


def _finetune(value: object) -> object:
    """`module:function` as the section that names it."""
    return {"function": value} if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=1e9, allow_inf_nan=False)]
Bytes = Annotated[StrictInt, BeforeValidator(_bytes), Field(gt=0, le=2**60)]
Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_printable)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchSection(_Section):
    """How policies are proposed.

    Attributes:
        sampler: a registered sampler (`surrogate`, `nsga2`, `tpe`, `random`, ...).
        trials: how many policies are evaluated.
        time_budget_s: `time_budget` in the file, such as `30min`: no policy is begun that would end after this long.
        plateau: stop after so many policies that did not raise the front's hypervolume by a thousandth.
        overlap: propose the next policies while the last ones are still evaluated, so that no worker waits.
        batch: policies proposed at a time; the sampler decides when not set. At least as many as workers.
        damage_points: widths of each group whose damage is measured before the search; 0: all are predicted from
            calibration data alone.
        seed: the whole run's seed.
        racing: stop judging a policy once it is surely dominated, where the task's quality metric allows it.
        precision: what policies are judged in: `float32`, `bfloat16`, or `auto`.
        storage: URL of a database for the trials (`postgresql://...`), instead of a journal in the run folder.
    """

    sampler: Text = "surrogate"
    trials: StrictInt = Field(default=200, ge=1, le=1_000_000)
    time_budget_s: Seconds | None = Field(default=None, alias="time_budget")
    plateau: StrictInt | None = Field(default=None, ge=1, le=1_000_000)
    overlap: StrictBool = False
    batch: StrictInt | None = Field(default=None, ge=2, le=100_000)
    damage_points: StrictInt = Field(default=0, ge=0, le=100)
    seed: StrictInt = Field(default=0, ge=0, le=2**31 - 1)
    racing: StrictBool = True
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    storage: Text | None = Field(default=None, repr=False)  # it may hold a password


class ExecutorSection(_Section):
    """Where policies are evaluated.

    Attributes:
        kind: `local` (in process with one worker, else worker processes) or `ray`.
        workers: how many evaluate at the same time; the result does not depend on it.
        threads: of torch in each worker.
        timeout_s: `timeout` in the file: a policy that takes longer fails.
        memory_bytes: `memory` in the file, such as `4GB`: a worker that holds more is replaced, and its policy tried
            once more.
        address: of a running Ray cluster (`auto` finds it); a private local one when not set.
        cpus_per_worker, gpus_per_worker: what each Ray worker reserves; shares of a GPU are allowed.
    """

    kind: Text = "local"
    workers: StrictInt = Field(default=1, ge=1, le=4096)
    threads: StrictInt = Field(default=1, ge=1, le=4096)
    timeout_s: Seconds | None = Field(default=None, alias="timeout")
    memory_bytes: Bytes | None = Field(default=None, alias="memory")
    address: Text | None = None
    cpus_per_worker: float = Field(default=1.0, ge=0, le=4096, allow_inf_nan=False)
    gpus_per_worker: float = Field(default=0.0, ge=0, le=64, allow_inf_nan=False)


class Config(_Section):
    """A search, as written.

    Attributes:
        model: `module:callable` returning a trained `nn.Module`, or the path of a `.pt2` file.
        task: `module:callable` returning an `autoprune.Task`.
        profiles: names of shipped hardware profiles, or folders.
        space: name of a shipped search space, or a YAML file; `auto` is `transformer` where the model has attention
            heads, else `cnn`.
        objectives: `error`, `latency_p50[@profile]`, `size`, `peak_memory`, `macs`, `energy`; all minimised.
        constraints: comparisons such as `latency_p99 <= 8ms`, checked before a policy is evaluated.
        criterion: which units go first.
        finetune: how members are trained, and how many (`MemberSettings`), or `module:function`, a user's own training.
        run: folder of the run; `runs/<name of the config file>` when not set.
    """

    model: Text
    task: Text
    profiles: tuple[Text, ...] = Field(min_length=1, max_length=64)
    space: Text = "auto"
    objectives: tuple[Text, ...] = Field(default=("error", "latency_p50"), min_length=1, max_length=64)
    constraints: tuple[Text, ...] = Field(default=(), max_length=64)
    criterion: Text = "obs"
    search: SearchSection = SearchSection()
    finetune: Annotated[MemberSettings, BeforeValidator(_finetune)] = MemberSettings()
    executor: ExecutorSection = ExecutorSection()
    run: Text | None = None


def load_config(path: Path) -> Config:
    """The config in a YAML file, its paths made absolute.

    Raises:
        InputError: unreadable, larger than the limit, not YAML, with aliases, or a key or value that is not expected.
    """
    config = validated(Config, read_yaml(path, "config"), f"config {path}")
    folder = path.resolve().parent
    return config.model_copy(
        update={
            "model": resolve(config.model, folder) if config.model.endswith(".pt2") else config.model,
            "profiles": tuple(resolve(profile, folder) for profile in config.profiles),
            "space": resolve(config.space, folder),
            "search": _resolved(config.search, folder),
            "run": str(folder / (config.run or f"runs/{path.stem}")),
        }
    )


def _resolved(search: SearchSection, folder: Path) -> SearchSection:
    """The section with the file of an SQLite database made absolute from `folder`."""
    scheme, slashes, path = (search.storage or "").partition(":///")
    if not slashes or scheme.partition("+")[0] != "sqlite" or path[:1] in ("", "/", ":"):
        return search
    return search.model_copy(update={"storage": f"{scheme}:///{folder / path}"})


def resolve(text: str, folder: Path) -> str:
    """A name as it is; a path made absolute from `folder`.

    A path is what holds a separator, ends in `.yaml`, `.yml` or `.pt2`, or exists in `folder`.
    """
    is_path = "/" in text or "\\" in text or text.endswith((".yaml", ".yml", ".pt2")) or os.path.exists(folder / text)
    return str(folder / os.path.expanduser(text)) if is_path else text

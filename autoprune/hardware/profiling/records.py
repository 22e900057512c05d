"""What the lines of a journal say, checked before a measurement goes on from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictInt, StrictStr

from autoprune.core.settings import validated
from autoprune.hardware.measure import Measurement
from autoprune.hardware.profiling.journal import Journal, Seconds, Us

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[StrictStr, Field(max_length=100_000)]


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Checked):
    """A `Measurement` as JSON."""

    p50_us: Annotated[Us, Field(gt=0)]
    p90_us: Us
    p95_us: Us
    p99_us: Us
    mean_us: Us
    std_us: Us
    n: Annotated[StrictInt, Field(ge=1, le=2**53)]
    sessions_us: Annotated[tuple[Us, ...], FailFast()]
    pace: Annotated[float, Field(strict=True, gt=0, le=1e6)]

    def measurement(self) -> Measurement:
        """As the code has it."""
        return Measurement(**dict(self))


class TimedKernel(_Checked):
    """A kernel that was timed."""

    key: Text
    measured: Measured


class FailedKernel(_Checked):
    """A kernel that was refused, and why."""

    key: Text
    why: Text


class TimedModel(_Checked):
    """A whole model that was timed: its target and widths, and its kernels' times inside it where they are known."""

    target: Annotated[StrictInt, Field(ge=0)]
    widths: Annotated[tuple[StrictInt, ...], FailFast()]
    measured: Measured
    nodes: dict[int, Us] | None


class FailedModel(_Checked):
    """A whole model that was refused, and why."""

    target: Annotated[StrictInt, Field(ge=0)]
    widths: Annotated[tuple[StrictInt, ...], FailFast()]
    why: Text


class Line(_Checked):
    """One line: a block that is finished.

    Attributes:
        kind: of block.
        seconds: that the measurement had taken.
        readings: of the sentinel since the last line.
    """

    KIND: ClassVar[str]

    kind: StrictStr
    seconds: Seconds
    readings: Annotated[tuple[Us, ...], FailFast()]


class BaseLine(Line):
    """What every kernel's time is freed of; see `kernels.Base`."""

    KIND: ClassVar[str] = "base"

    sentinel_us: Annotated[Us, Field(gt=0)] | None
    empty_us: Us
    edges: tuple[Finite, Finite]


class KernelsLine(Line):
    """A block of kernels."""

    KIND: ClassVar[str] = "kernels"

    timed: Annotated[tuple[TimedKernel, ...], FailFast()]
    failed: Annotated[tuple[FailedKernel, ...], FailFast()]


class EnergyLine(Line):
    """Energies by kernel, and the counter that they are from."""

    KIND: ClassVar[str] = "energy"

    source: Text
    energies: Annotated[tuple[tuple[Text, Annotated[Finite, Field(ge=0)]], ...], FailFast()]


class ModelsLine(Line):
    """A block of whole models."""

    KIND: ClassVar[str] = "models"

    timed: Annotated[tuple[TimedModel, ...], FailFast()]
    failed: Annotated[tuple[FailedModel, ...], FailFast()]


L = TypeVar("L", bound=Line)


def lines(journal: Journal, kind: type[L]) -> Iterator[L]:
    """The lines of a kind, in order, each checked when it is asked for.

    Raises:
        InputError: one is not as it is written; the message names the line's first field that is wrong.
    """
    for number, record in enumerate(journal.of_kind(kind.KIND), start=1):
        yield validated(kind, record, f"{journal.place}, block {number} of kind '{kind.KIND}'")

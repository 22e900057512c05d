"""What a report shows, read from the run folder alone, so that `autoprune report RUN` can write it at any time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autoprune.artifacts.choice import higher_is_better, number
from autoprune.artifacts.front import load_front
from autoprune.artifacts.layout import DENSE, METRICS, RECIPE, TRIALS, member_folder
from autoprune.artifacts.ranking import PERCENTILES, read_ranking
from autoprune.artifacts.records import ComparisonRecord, MetricsRecord, Recipe, RunRecord
from autoprune.artifacts.table import Row, read_table


@dataclass(frozen=True)
class View:
    """One latency axis: a percentile on a profile.

    Attributes:
        percentile: `p50` ... `p99`.
        profile: its name; empty where the run has one profile, whose columns carry no suffix.
    """

    percentile: str
    profile: str

    @property
    def key(self) -> str:
        """The suffix of its columns, and its key in the page."""
        return self.percentile + (f"@{self.profile}" if self.profile else "")

    @property
    def predicted(self) -> str:
        """The column of predictions."""
        return f"latency_{self.percentile}_us" + (f"@{self.profile}" if self.profile else "")

    @property
    def measured(self) -> str:
        """The column of measurements."""
        return f"measured_{self.predicted}"

    def interval_us(self, row: Row) -> tuple[float, float]:
        """How far the true latency may lie below and above the prediction; NaN where the profile does not say."""
        stem, _, profile = self.predicted.partition("_us")
        predicted = number(row.get(self.predicted))
        low, high = (number(row.get(f"{stem}_{end}_us{profile}")) for end in ("low", "high"))
        return predicted - low, high - predicted

    def latency_us(self, row: Row) -> float:
        """Measured where it was measured, else predicted; NaN where neither is known."""
        measured = number(row.get(self.measured))
        return measured if math.isfinite(measured) else number(row.get(self.predicted))


@dataclass(frozen=True, eq=False)
class ReportData:
    """A run as the report needs it.

    Attributes:
        name: for the title.
        record: how the run was made.
        dense: the dense model's row, if there is one.
        members: one row a member.
        trials: one row an evaluated policy; quality before fine-tuning, latency predicted.
        widths: member -> group -> units kept, for members whose recipe is there.
        details: member -> what was published and what failed, for members whose metrics are there.
        views: latency axes for which there are values.
        ranking: how well cheap stages rank what dear ones decide.
    """

    name: str
    record: RunRecord
    dense: Row | None
    members: tuple[Row, ...]
    trials: tuple[Row, ...]
    widths: dict[str, dict[str, int]]
    details: dict[str, MetricsRecord]
    views: tuple[View, ...]
    ranking: tuple[ComparisonRecord, ...] = ()

    @property
    def group_sizes(self) -> dict[str, int]:
        """Group id -> units in the dense model, in program order; from the recipes where the run does not say."""
        if self.record.groups:
            return {group.id: group.size for group in self.record.groups}
        sizes: dict[str, int] = {}
        for policy in self.widths.values():
            for group, width in policy.items():
                sizes[group] = max(width, sizes.get(group, 0))
        return sizes

    def time_unit(self, view: View) -> tuple[str, float]:
        """The unit that suits a view's latencies, and how many microseconds it is."""
        known = [view.latency_us(row) for row in (*self.members, *([self.dense] if self.dense else []))]
        largest = max((value for value in known if math.isfinite(value)), default=0.0)
        return ("us", 1.0) if largest < 1e3 else ("ms", 1e3) if largest < 1e7 else ("s", 1e6)

    @property
    def metric(self) -> str:
        """The quality metric of the search."""
        return self.record.metrics[0] if self.record.metrics else "accuracy"

    @property
    def as_error(self) -> bool:
        """Whether quality is shown as an error rate in percent (1 - metric)."""
        shares = [number(row.get(self.metric)) for row in (*self.members, *([self.dense] if self.dense else []))]
        return "error" in self.record.objectives and all(
            0.0 <= share <= 1.0 for share in shares if math.isfinite(share)
        )

    @property
    def rising(self) -> bool:
        """Whether more of the quality metric is better."""
        return higher_is_better(self.metric, self.record.metrics, self.record.minimize)

    @property
    def quality_title(self) -> str:
        """The title of the quality axis (not escaped)."""
        if self.as_error:
            return f"error on validation, % (1 - {self.metric})"
        return f"{self.metric} on validation ({'higher' if self.rising else 'lower'} is better)"

    def quality(self, row: Row, column: str | None = None) -> float:
        """The value on the quality axis; NaN where it is not known."""
        value = number(row.get(column or self.metric))
        return 100.0 * (1.0 - value) if self.as_error else value

    def loss(self, row: Row) -> float:
        """The quality metric, signed so that less is better; NaN where it is not known."""
        value = number(row.get(self.metric))
        return -value if self.rising else value


def load_report_data(run: Path) -> ReportData:
    """Read a run folder.

    Raises:
        InputError: no run folder, no front in it, or a file of it that does not fit.
    """
    front = load_front(run)
    trials = read_table(run / TRIALS, "trials") if (run / TRIALS).is_file() else ()
    widths: dict[str, dict[str, int]] = {}
    details: dict[str, MetricsRecord] = {}
    for row in front.rows:
        name = str(row["member"])
        folder = member_folder(run, name)
        if (folder / RECIPE).is_file():
            widths[name] = Recipe.read(folder / RECIPE).policy
        if (folder / METRICS).is_file():
            details[name] = MetricsRecord.read(folder / METRICS)
    members = tuple(row for row in front.rows if row["member"] != DENSE)
    dense = next((row for row in front.rows if row["member"] == DENSE), None)
    return ReportData(
        name=front.record.name or run.resolve().name,
        record=front.record,
        dense=dense,
        members=members,
        trials=trials,
        widths=widths,
        details=details,
        views=_views(front.rows, front.record.profiles),
        ranking=read_ranking(front),
    )


def _views(rows: Iterable[Row], profiles: Iterable[str]) -> tuple[View, ...]:
    present = {name for row in rows for name, cell in row.items() if cell is not None}
    views = [View(percentile, profile) for profile in ("", *profiles) for percentile in PERCENTILES]
    return tuple(view for view in views if view.predicted in present or view.measured in present)

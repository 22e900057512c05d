"""`Front` and `Member`: what a search returns, and what `load_front` reads back from its run folder.

Rows are read at once; models only when they are asked for, so that a front is listed without importing torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from autoprune.artifacts import choice, device
from autoprune.artifacts.layout import DENSE, FRONT, RECIPE, RUN, check_name, check_run, member_folder
from autoprune.artifacts.records import Recipe, RunRecord
from autoprune.artifacts.table import Cell, Row, read_table
from autoprune.core.errors import InputError, unknown_name

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from autoprune.graph.module import TracedModule
    from autoprune.graph.policy import SparsityPolicy


class Member:
    """One model of a front.

    Attributes:
        run: the run folder.
        name: its name; its files lie in `members/<name>`.
        metrics: its row of the front: metrics, costs and measurements by column, read-only.
    """

    def __init__(self, run: Path, row: Mapping[str, Cell], dense_model: nn.Module | None = None) -> None:
        self.run = run
        self.name = check_name(row["member"])
        self.metrics: Mapping[str, Cell] = MappingProxyType(dict(row))
        self._dense_model = dense_model

    def __repr__(self) -> str:
        return f"Member({self.name!r}, {str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return member_folder(self.run, self.name)

    @cached_property
    def recipe(self) -> Recipe:
        """How it comes from the dense model: policy, units kept, criterion, source hashes.

        Raises:
            InputError: the member has no folder, or `policy.json` does not fit.
        """
        return Recipe.read(self.folder / RECIPE)

    @property
    def policy(self) -> SparsityPolicy:
        """Group id -> units kept, every group named."""
        from autoprune.graph.policy import SparsityPolicy

        return SparsityPolicy(self.recipe.policy)

    @cached_property
    def model(self) -> TracedModule:
        """The pruned, fine-tuned model in eval mode; read from the run on first use, then kept.

        Needs neither the user's code nor the dense model.

        Raises:
            InputError: files are missing or do not fit each other.
        """
        from autoprune.artifacts.bundle import load_module

        return load_module(self.run, self.name)

    @cached_property
    def _native(self) -> tuple[nn.Module | None, str]:
        from autoprune.artifacts.native import native_model

        return native_model(self, self._dense_model)

    @property
    def native_model(self) -> nn.Module | None:
        """The user's own class at the pruned sizes where that gives the same outputs; else None (`native_reason`)."""
        return self._native[0]

    @property
    def native_reason(self) -> str:
        """Why `native_model` is None; empty where it is not."""
        return self._native[1]

    def predict(self, inputs: Any) -> Any:
        """The model's outputs, without gradients.

        Args:
            inputs: as for `trace`: a tensor, a tuple of arguments, or a dict of keyword arguments.
        """
        import torch

        model = self.model
        with torch.no_grad():
            if isinstance(inputs, Mapping):
                return model(**inputs)
            return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)

    def export(self, folder: str | Path, formats: Sequence[str] = ("onnx", "pt2")) -> dict[str, Path]:
        """Write the model to `folder` in each format as `<name>.<suffix>`; each file is checked against the model.

        Args:
            folder: made where it does not exist.
            formats: names of exporters: `onnx`, `pt2`, `safetensors`, or any installed under `autoprune.exporters`.

        Returns:
            format -> the file written.

        Raises:
            InputError: unknown format, or the folder cannot be written.
            AutopruneError: a format could not be written, or its outputs differ from the model's.
        """
        from autoprune.artifacts.bundle import export_member

        return export_member(self, Path(folder), formats)


class Front:
    """The Pareto front of a run: pruned, fine-tuned models, and the dense one they come from.

    Attributes:
        run: the run folder.
        record: how the run was made.
        rows: one row a member, as in `front.csv`.
        members: the members, in the order of the rows; the dense model is not among them.
        dense: the dense model as a member; None where the run has no row of it.
    """

    def __init__(
        self, run: Path, record: RunRecord, rows: Sequence[Mapping[str, Cell]], dense_model: nn.Module | None = None
    ) -> None:
        names = [check_name(row.get("member")) for row in rows]
        if len(set(names)) != len(names):
            raise InputError(f"front {run}: expected each member once, got '{_repeated(names)}' twice.")
        self.run = run
        self.record = record
        self.rows: tuple[Row, ...] = tuple(dict(row) for row in rows)
        self._dense_model = dense_model
        everyone = [Member(run, row, dense_model) for row in rows]
        self.members: tuple[Member, ...] = tuple(member for member in everyone if member.name != DENSE)
        self.dense: Member | None = next((member for member in everyone if member.name == DENSE), None)

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def __getitem__(self, name: str) -> Member:
        """A member by name (`dense` too).

        Raises:
            InputError: no such member; the known ones are listed.
        """
        everyone = [*self.members, *([self.dense] if self.dense else [])]
        for member in everyone:
            if member.name == name:
                return member
        raise unknown_name("member", name, [member.name for member in everyone])

    def __repr__(self) -> str:
        return f"Front({str(self.run)!r}, {len(self)} members)"

    def to_frame(self) -> pandas.DataFrame:
        """One row a member and one for the dense model (`dense`), with the columns of `front.csv`."""
        import pandas

        return pandas.DataFrame(list(self.rows))

    def for_profile(self, name: str) -> Front:
        """The front as one device sees it: its members there, and columns, objectives and constraints without suffix.

        Raises:
            InputError: the run has no such profile; the known ones are listed.
        """
        record = self.record
        if name not in record.profiles:
            raise unknown_name("profile", name, record.profiles)
        if len(record.profiles) == 1:
            return self
        seen = device.record_for(record, name)
        return Front(self.run, seen, device.rows_for(self.rows, record, name, seen), self._dense_model)

    def select(
        self,
        where: str | None = None,
        prefer: str | Mapping[str, float] | None = None,
        within: str | float | None = None,
        profile: str | None = None,
    ) -> Member:
        """The member to deploy.

        Args:
            where: a condition such as `latency_p50 <= 5ms and size <= 4MB`. Latencies are the measured ones where
                there are any, else the predicted ones.
            prefer: among those that meet it: `knee` (the best trade), `best` (quality), `fastest`, `smallest`, a column
                (the highest of a metric, the lowest of a cost), or weights of several columns:
                `{"accuracy": 1, "latency_p50": 2}` or `"accuracy + 2*latency_p50"`. By default `knee`, or `fastest`
                with `within`.
            within: how much worse than the dense model its quality may be: `1pt` (a hundredth of an accuracy), `1%` (of
                the dense model's value) or a plain number.
            profile: choose on this device's front, whose columns need no suffix.

        Example: the fastest within one point of the dense model, and the best under 5 ms:

            front.select(within="1pt")
            front.select("latency_p50 <= 5ms", prefer="best")

        Weights: each column is scaled to 0 (the best of the front) .. 1 (the worst), the weighted sum is minimised.

        Raises:
            InputError: no member meets the condition (the nearest is named with its values), a name is no column, or
                weights, margin or profile make no sense.
        """
        if profile is not None:
            return self[self.for_profile(profile).select(where, prefer, within).name]
        if not self.members:
            raise InputError(f"select: expected at least one member in {self.run}, got none.")
        front = [dict(member.metrics) for member in self.members]
        dense = dict(self.dense.metrics) if self.dense else None
        found = list(range(len(front)))
        if where is not None:
            found = choice.matching(front, where, dense, self.record.profiles)
        if within is not None:
            kept = choice.within([front[i] for i in found], within, dense, self.record, front)
            found = [found[i] for i in kept]
        chosen = prefer if prefer is not None else "knee" if within is None else "fastest"
        index = choice.best([front[i] for i in found], chosen, self.record, front)
        return self.members[found[index]]


def load_front(path: str | Path, model: nn.Module | None = None) -> Front:
    """The front of a finished run.

    Args:
        path: the run folder.
        model: the dense model, where it is at hand; only `member.native_model` needs it.

    Raises:
        InputError: no run folder, no front in it yet, or a file of it that does not fit.
    """
    run = check_run(Path(path))
    record = RunRecord.read(run / RUN)
    if not (run / FRONT).is_file():
        raise InputError(
            f"run {run}: expected {FRONT}, got none. The search has not ended; start it again to resume it."
        )
    return Front(run, record, read_table(run / FRONT, "front", required=("member",)), model)


def _repeated(names: Sequence[str]) -> str:
    return next(name for name in names if list(names).count(name) > 1)

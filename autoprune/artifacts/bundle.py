"""The run folder: `write_run` begins it, `write_member` adds models, `write_front` closes it.

A member loads from `program.json`, `policy.json` and `weights.safetensors` alone: no code of the user's, no unpickling.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autoprune.artifacts.exporters import EXPORTERS, publish
from autoprune.artifacts.exporters.parity import resized
from autoprune.artifacts.layout import FRONT, INPUTS, METRICS, RECIPE, RUN, TRIALS, WEIGHTS, check_name, member_folder
from autoprune.artifacts.loading import load_module, member_names, read_inputs
from autoprune.artifacts.program_file import program_hash, write_program
from autoprune.artifacts.records import ExportRecord, FailureRecord, GroupRecord, MetricsRecord, Recipe, RunRecord
from autoprune.artifacts.table import clean_row, write_table
from autoprune.artifacts.weights import state_hash, tensors_of, write_tensors
from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.graph.graph import DependencyGraph
from autoprune.graph.module import TracedModule
from autoprune.graph.policy import UnitOrder

if TYPE_CHECKING:
    from autoprune.artifacts.front import Member

DEFAULT_FORMATS = ("onnx", "pt2")
_INPUT_ROWS = 2
_DECISIVE = ("metrics", "minimize", "objectives", "constraints", "profiles", "groups", "seed")


def write_run(run: str | Path, graph: DependencyGraph, record: RunRecord) -> RunRecord:
    """Begin a run folder, or resume it: `run.json`, `program.json` and two rows of example inputs.

    Args:
        run: the folder; made where it does not exist.
        graph: the traced dense model.
        record: how the run is made; `groups` and the hashes of weights and program are filled in here.

    Returns:
        The record as written.

    Raises:
        InputError: the folder cannot be written, or holds a run of another model, data, space, profiles or objectives;
            the first difference is named.
    """
    folder = Path(run)
    groups = tuple(GroupRecord(id=group.id, size=group.size, unit=group.unit) for group in graph.groups.values())
    known = {"groups": groups, "hashes": source_hashes(graph) | record.hashes}
    full = record.model_copy(update={**known, "name": record.name or folder.resolve().name})
    check_same_run(folder, full)
    write_program(folder, graph.program)
    inputs = resized(graph.program, graph.example_inputs, _INPUT_ROWS)
    write_tensors(folder / INPUTS, {f"{index:03d}": tensor for index, tensor in enumerate(inputs)})
    full.write(folder / RUN)
    return full


def check_same_run(run: Path, record: RunRecord) -> None:
    """Whether a search with this record may go on in a folder: nothing there yet, or a run of the same.

    Raises:
        InputError: what decides the results differs; the first difference is named.
    """
    if not (run / RUN).is_file():
        return
    old = RunRecord.read(run / RUN)
    names = sorted(old.hashes.keys() | record.hashes.keys())
    pairs: list[tuple[str, object, object]] = [(f"{n} (hash)", old.hashes.get(n), record.hashes.get(n)) for n in names]
    pairs += [(name, getattr(old, name), getattr(record, name)) for name in _DECISIVE]
    for what, before, now in pairs:
        if before != now:
            raise InputError(
                f"run {run}: expected {what} as when it began, {_shown(before)}, got {_shown(now)}. "
                "Search into another folder, or give what the run began with."
            )


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def source_hashes(graph: DependencyGraph) -> dict[str, str]:
    """Hashes of what members are made from: the dense weights and the traced program."""
    return {"weights": state_hash(graph.state), "program": program_hash(graph.program)}


def make_recipe(
    name: str,
    graph: DependencyGraph,
    policy: Mapping[str, int],
    orders: Mapping[str, UnitOrder] | None = None,
    **settings: Any,
) -> Recipe:
    """The recipe of one member.

    Args:
        name: the member's.
        graph: the traced dense model.
        policy: widths; groups not named stay dense.
        orders: which units a width keeps (`Pruner.orders`); without them, the first ones.
        settings: other fields of `Recipe`: `criterion`, `compensate`, `recalibrate`, `finetune`, `versions`, `seed`.

    Raises:
        InputError: a policy that does not fit the graph.
    """
    widths = graph.widths(graph.check(policy))
    cut = [group for group, width in widths.items() if width < graph.groups[group].size]
    kept = {
        group: tuple(int(unit) for unit in (orders[group].kept(widths[group]) if orders else range(widths[group])))
        for group in cut
    }
    return Recipe(member=check_name(name), policy=widths, kept=kept, source=source_hashes(graph), **settings)


def write_member(
    run: str | Path,
    recipe: Recipe,
    module: TracedModule,
    row: Mapping[str, object] | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> MetricsRecord:
    """Write a member's folder: recipe, weights, each format that passes its parity check, metrics.

    The folder appears whole or not at all; one of the same name is replaced.

    Args:
        run: a folder that `write_run` began.
        recipe: from `make_recipe`; its `member` is the name.
        module: the pruned, fine-tuned model.
        row: its row of the front as far as it is known; `write_front` writes it again.
        formats: names in `EXPORTERS`.

    Returns:
        What was published (with sizes) and what failed.

    Raises:
        InputError: unknown format, unfit name, widths other than the recipe's, or a folder that cannot be written.
    """
    folder = member_folder(Path(run), recipe.member)
    if dict(module.widths) != dict(recipe.policy):
        raise InputError(f"member {recipe.member}: expected a module of the recipe's widths, got one of others.")
    for kind in formats:
        EXPORTERS.get(kind)
    inputs = read_inputs(Path(run), module.program)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{recipe.member}."))
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror or error}. Choose a folder you may write to."
        ) from error
    try:
        recipe.write(temporary / RECIPE)
        wanted = {*module.program.parameters, *module.program.buffers}
        write_tensors(temporary / WEIGHTS, {k: v for k, v in tensors_of(module).items() if k in wanted})
        exports, failures = _publish_all(module, inputs, temporary, "model", formats)
        record = MetricsRecord(member=recipe.member, row=clean_row(row or {}), exports=exports, failures=failures)
        record.write(temporary / METRICS)
        temporary.chmod(0o755)
        _replace_folder(temporary, folder)
        return record
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish_all(
    module: TracedModule, inputs: tuple[torch.Tensor, ...], folder: Path, stem: str, formats: Sequence[str]
) -> tuple[dict[str, ExportRecord], dict[str, FailureRecord]]:
    exports: dict[str, ExportRecord] = {}
    failures: dict[str, FailureRecord] = {}
    for kind in formats:
        result = publish(kind, module, inputs, folder / f"{stem}.{EXPORTERS.get(kind).suffix}")
        if isinstance(result, Failure):
            failures[kind] = FailureRecord.of(result)
        else:
            exports[kind] = result
    return exports, failures


def _replace_folder(source: Path, target: Path) -> None:
    if target.exists():
        old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
        os.replace(target, old / target.name)
        os.replace(source, target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(source, target)


def write_front(run: str | Path, rows: Sequence[Mapping[str, object]], metrics: Sequence[str] = ("accuracy",)) -> Path:
    """Write `front.csv`, and each row into its member's `metrics.json`.

    Args:
        run: the run folder.
        rows: the dense model's row (`member` is `dense`) and one a member, in the order in which they are to stand.
        metrics: names of the task's metrics, for the order of columns.

    Raises:
        InputError: a row without a fit name, a name twice, or a folder that cannot be written.
    """
    folder = Path(run)
    cleaned = [clean_row(row) for row in rows]
    names = [check_name(row.get("member")) for row in cleaned]
    if len(set(names)) != len(names):
        raise InputError("front: expected each member once, got a name twice.")
    for name, row in zip(names, cleaned, strict=True):
        path = member_folder(folder, name) / METRICS
        if path.is_file():
            MetricsRecord.read(path).model_copy(update={"row": row}).write(path)
    write_table(folder / FRONT, cleaned, metrics)
    return folder / FRONT


def write_trials(run: str | Path, rows: Sequence[Mapping[str, object]], metrics: Sequence[str] = ("accuracy",)) -> Path:
    """Write `trials.csv`: every evaluated policy, in the columns of the front and a few of its own.

    Args:
        run: the run folder.
        rows: `number`, `origin`, `feasible` (0 or 1), metrics, predicted costs, `policy_id`, `policy` (JSON),
            `seconds`, `raced_out` (samples after which judging stopped; 0: judged on all), `failure`.
        metrics: names of the task's metrics, for the order of columns.

    Raises:
        InputError: the folder cannot be written.
    """
    path = Path(run) / TRIALS
    write_table(path, [clean_row(row) for row in rows], metrics)
    return path


def export_member(member: Member, folder: Path, formats: Sequence[str]) -> dict[str, Path]:
    """See `Member.export`."""
    suffixes = {kind: EXPORTERS.get(kind).suffix for kind in formats}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror or error}. Choose a folder you may write to."
        ) from error
    module = member.model
    inputs = read_inputs(member.run, module.program)
    written: dict[str, Path] = {}
    for kind in formats:
        target = folder / f"{member.name}.{suffixes[kind]}"
        result = publish(kind, module, inputs, target)
        if isinstance(result, Failure):
            raise AutopruneError(f"export of '{member.name}': {result}")
        written[kind] = target
    return written


__all__ = [
    "write_run", "write_member", "write_front", "write_trials",
    "make_recipe", "source_hashes", "check_same_run",
    "load_module", "member_names", "read_inputs", "export_member",
]  # fmt: skip

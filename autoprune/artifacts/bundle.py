"""The run folder: `write_run` begins it, `write_member` adds models, `write_front` closes it, `load_module` reads a member.

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
from autoprune.artifacts.layout import (
    FRONT,
    INPUTS,
    MEMBERS,
    METRICS,
    RECIPE,
    RUN,
    TRIALS,
    WEIGHTS,
    check_name,
    member_folder,
)  # fmt: skip
from autoprune.artifacts.program_file import group_sizes, program_hash, read_program, write_program
from autoprune.artifacts.records import ExportRecord, FailureRecord, MetricsRecord, Recipe, RunRecord
from autoprune.artifacts.table import clean_row, write_table
from autoprune.artifacts.weights import (
    expected_shapes,
    read_any_tensors,
    read_tensors,
    state_hash,
    tensors_of,
    write_tensors,
)
from autoprune.core.errors import AutopruneError, Failure, InputError, unknown_name
from autoprune.graph.graph import DependencyGraph
from autoprune.graph.module import TracedModule
from autoprune.graph.policy import UnitOrder
from autoprune.graph.program import Program

if TYPE_CHECKING:
    from autoprune.artifacts.front import Member

DEFAULT_FORMATS = ("onnx", "pt2")
_INPUT_ROWS = 2
_MAX_INPUT_BYTES = 256 * 1024 * 1024


def write_run(run: str | Path, graph: DependencyGraph, record: RunRecord) -> RunRecord:
    """Begin a run folder: `run.json`, `program.json` and two rows of example inputs.

    Args:
        run: the folder; made where it does not exist.
        graph: the traced dense model.
        record: how the run is made; `groups`, `units` and the hashes of weights and program are filled in here.

    Returns:
        The record as written.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(run)
    sizes = {group.id: group.size for group in graph.groups.values()}
    units = {group.id: group.unit for group in graph.groups.values()}
    full = record.model_copy(
        update={
            "groups": sizes,
            "units": units,
            "hashes": source_hashes(graph) | record.hashes,
            "name": record.name or folder.resolve().name,
        }
    )
    write_program(folder, graph.program)
    inputs = resized(graph.program, graph.example_inputs, _INPUT_ROWS)
    write_tensors(folder / INPUTS, {f"{index:03d}": tensor for index, tensor in enumerate(inputs)})
    full.write(folder / RUN)
    return full


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
    """Write `trials.csv`: every evaluated policy, in the columns of the front and `number`, `origin`, `feasible`, `seconds`.

    Raises:
        InputError: the folder cannot be written.
    """
    path = Path(run) / TRIALS
    write_table(path, [clean_row(row) for row in rows], metrics)
    return path


def load_module(run: str | Path, name: str) -> TracedModule:
    """A member of a run as a module in eval mode, from its recipe and weights and the run's program.

    Raises:
        InputError: no such member, or files that do not fit each other; the message names file and key.
    """
    folder = member_folder(Path(run), name)
    if not folder.is_dir():
        raise unknown_name("member", name, member_names(Path(run)))
    program, identity = read_program(Path(run))
    recipe = Recipe.read(folder / RECIPE)
    _check_recipe(folder / RECIPE, recipe, name, program, identity)
    tensors = read_tensors(folder / WEIGHTS, expected_shapes(program, recipe.policy))
    try:
        module = TracedModule.from_sliced(program, recipe.policy, tensors)
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        RuntimeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise InputError(
            f"member {folder}: the program does not fit together: {type(error).__name__}: {error}."
        ) from error
    return module.eval()


def member_names(run: Path) -> tuple[str, ...]:
    """Names of the members that have a folder in a run, sorted."""
    folder = run / MEMBERS
    if not folder.is_dir():
        return ()
    return tuple(sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")))


def _check_recipe(path: Path, recipe: Recipe, name: str, program: Program, identity: str) -> None:
    if recipe.member != name:
        raise InputError(f"recipe {path}: expected member '{name}', got {recipe.member!r}.")
    if recipe.source.get("program", identity) != identity:
        raise InputError(
            f"recipe {path}: expected a member of the program {identity} in this run, got one of {recipe.source['program'][:16]!r}."
        )
    sizes = group_sizes(program)
    if recipe.policy.keys() != sizes.keys():
        odd = sorted(recipe.policy.keys() ^ sizes.keys())[0]
        raise InputError(f"recipe {path}: policy: expected exactly the groups of the program, '{odd[:100]}' differs.")
    for group, width in recipe.policy.items():
        if not 0 <= width <= sizes[group]:
            raise InputError(f"recipe {path}: policy: expected 0 to {sizes[group]} units for '{group}', got {width}.")
    for group, units in recipe.kept.items():
        if group not in sizes:
            raise unknown_name(f"group in {path}: kept:", group, sizes)
        if len(units) != recipe.policy[group] or list(units) != sorted({unit for unit in units if unit < sizes[group]}):
            raise InputError(
                f"recipe {path}: kept: expected {recipe.policy[group]} ascending unit numbers below {sizes[group]} for '{group}'."
            )


def read_inputs(run: Path, program: Program) -> tuple[torch.Tensor, ...]:
    """The example inputs of a run, in the order of `program.inputs`.

    Raises:
        InputError: unreadable, or not as many as the program has inputs, or of other shapes.
    """
    path = run / INPUTS
    found = read_any_tensors(path, _MAX_INPUT_BYTES)
    if len(found) != len(program.inputs):
        raise InputError(f"inputs {path}: expected {len(program.inputs)} tensors, got {len(found)}.")
    tensors = tuple(found[name] for name in sorted(found))
    for name, tensor in zip(program.inputs, tensors, strict=True):
        if tensor.ndim != len(program.values[name].dimensions):
            raise InputError(
                f"inputs {path}: expected '{name}' of {len(program.values[name].dimensions)} dimensions, got {tensor.ndim}."
            )
    return tensors


def rebuild(
    graph: DependencyGraph, recipe: Recipe, calibration: Sequence[tuple[torch.Tensor, ...]] = ()
) -> TracedModule:
    """Build a member again from the dense model and its recipe, as it was before fine-tuning.

    Args:
        graph: the traced dense model that the recipe was made from.
        recipe: of the member.
        calibration: the same inputs as then, where the criterion, compensation or batch norms need them.

    Raises:
        InputError: another dense model, or units other than the recipe's (another calibration set).
    """
    from autoprune.pruning import Pruner

    for what, value in source_hashes(graph).items():
        if recipe.source.get(what, value) != value:
            raise InputError(
                f"recipe of '{recipe.member}': expected {what} {recipe.source[what]}, got {value}: another model."
            )
    pruner = Pruner(
        graph,
        recipe.criterion,
        calibration,
        compensate=recipe.compensate,
        recalibrate=recipe.recalibrate,
        seed=recipe.seed,
    )
    for group, units in recipe.kept.items():
        if tuple(int(unit) for unit in pruner.orders[group].kept(recipe.policy[group])) != units:
            raise InputError(
                f"recipe of '{recipe.member}': the units kept in '{group}' differ. Give the calibration inputs it was made with."
            )
    return pruner.build(recipe.policy)


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

"""Readers of run folders: the front with its members, and what a search keeps to go on from."""

from __future__ import annotations

import fcntl
import functools
import json
import os
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.reader import Files, Reader, changed_in, check_message, lines_changed, sampled, simple
from tests.hardware.importers.files import small_graph


def _write_run(folder: Path) -> None:
    from autoprune.artifacts.bundle import make_recipe, write_front, write_member, write_run, write_trials
    from autoprune.artifacts.records import RunRecord
    from tests.artifacts.samples import row, trials

    graph = small_graph()
    write_run(
        folder, graph, RunRecord(name="sample", profiles=("cpu",), notes=("a note",), constraints=("size <= 1MB",))
    )
    policy = graph.uniform(0.5)
    rows = [row("dense", 1.0), row("half", 0.5)]
    write_member(
        folder, make_recipe("half", graph, policy, criterion="l1"), graph.module(policy).clone_tensors(), rows[1], ()
    )
    write_front(folder, rows)
    write_trials(folder, trials(5))


run_files = sampled(_write_run)
RUN_KINDS = {
    "run.json": "json", "front.csv": "csv", "trials.csv": "csv", "program.json": "json",
    "members/half/policy.json": "json", "members/half/metrics.json": "json",
    "members/half/weights.safetensors": "tensors", "inputs.safetensors": "tensors",
}  # fmt: skip


def _run(folder: Path) -> object:
    """The front shown and selected from, the report's page, and the member's model."""
    from autoprune.artifacts.front import load_front
    from autoprune.artifacts.loading import read_inputs
    from autoprune.artifacts.program_file import read_program
    from autoprune.artifacts.report.data import load_report_data
    from autoprune.artifacts.report.page import render
    from autoprune.core.errors import InputError
    from autoprune.pipeline.software import begun

    begun(folder)
    front = load_front(folder)
    for asked in ({"where": "latency_p50 <= 5s and accuracy >= 0.1"}, {"prefer": "knee"}, {"prefer": "accuracy"}):
        try:
            front.select(**asked)
        except InputError:
            continue
    render(load_report_data(folder)).encode("utf-8")
    model = front["half"].model
    program, _ = read_program(folder)
    return read_inputs(folder, program), model


@functools.cache
def _space_of_small() -> Any:
    from autoprune.search.space import SearchSpace

    return SearchSpace.load("cnn", small_graph())


@functools.cache
def state_files() -> Files:
    """What a search keeps beside its trials."""
    from autoprune.search.damage import DamageCurves

    space = _space_of_small()
    tables = tuple(np.linspace(1.0, 0.0, count) for count in space.levels)
    curves = DamageCurves(tuple(v.name for v in space.variables), tables, tuple((0,) for _ in tables), 0.5)
    return {"damage.json": json.dumps({"schema": "autoprune.damage/1", "curves": curves.to_data()}).encode()}


def _state(folder: Path) -> object:
    from autoprune.core.files import read_json
    from autoprune.search.allocation import allocate
    from autoprune.search.damage import DamageCurves

    data = read_json(folder / "damage.json", "damage curves", "autoprune.damage/1")
    curves = DamageCurves.from_data(data.get("curves", {}), _space_of_small())
    return allocate(curves.tables, lambda choices: choices.sum(axis=1).astype(float), 4, seed=0)


def _write_journal(folder: Path) -> None:
    from autoprune.search.storage import Record, TrialStorage

    with TrialStorage(folder, ("a", "b"), (3, 4), ("error", "latency_p50"), None) as storage:
        storage.settings({"seed": 1})
        for number in range(3):
            storage.add(Record(number, 0, (1, 2), "sampler", (0.1, 5.0), {"size": -1.0}, True, {"accuracy": 0.9}, 0.1))
    (folder / "search.lock").unlink(missing_ok=True)


journal_files = sampled(_write_journal)


def _journal(folder: Path) -> object:
    from autoprune.search.storage import TrialStorage

    with TrialStorage(folder, ("a", "b"), (3, 4), ("error", "latency_p50"), None) as storage:
        return storage.settings({"seed": 1}), storage.load()


# --------------------------------------------------------------------------- what a run is gone on with by


def _write_place(folder: Path) -> None:
    from autoprune.search.storage import TrialStorage

    with TrialStorage(folder, ("a",), (3,), ("error",), f"sqlite:///{folder}/trials.db"):
        pass
    (folder / "search.lock").unlink(missing_ok=True)


place_files = sampled(_write_place)


def _place(folder: Path) -> object:
    """A run whose trials are in a database; without naming it, and naming it."""
    from autoprune.core.errors import InputError
    from autoprune.search.backend import open_study

    with ExitStack() as closing:
        try:
            open_study(folder, ("error",), None, closing)
        except InputError as error:
            check_message("storage record", str(error))
        return open_study(folder, ("error",), f"sqlite:///{folder}/trials.db", closing).study_name


def _finished(folder: Path) -> object:
    """`state.json`, which says that a run has ended."""
    from autoprune.pipeline.explore import is_finished

    return is_finished(folder, "key")


def _ranking(folder: Path) -> object:
    """`ranking.json`, and `prediction.json`, from which a part of it is made."""
    from autoprune.artifacts.front import load_front
    from autoprune.artifacts.ranking import compare_damage, read_ranking, summary

    return summary(read_ranking(load_front(folder))), summary(compare_damage(folder, "accuracy"))


@functools.cache
def ranking_files() -> Files:
    kept = {name: content for name, content in run_files().items() if name in ("run.json", "front.csv", "program.json")}
    comparison = {"kind": "split", "what": "accuracy", "first": "validation", "second": "test", "models": 3,
                  "kendall": 0.5, "spearman": None, "error": None}  # fmt: skip
    ranking = {"schema": "autoprune.ranking/1", "comparisons": [comparison, {**comparison, "kind": "damage"}]}
    prediction = {"schema": "autoprune.prediction/1", "n": 5, "kendall_damage": 0.5, "spearman_damage": 0.5,
                  "kendall_corrected": None, "spearman_corrected": 0.7}  # fmt: skip
    return {
        **kept,
        "ranking.json": json.dumps(ranking).encode(),
        "prediction.json": json.dumps(prediction).encode(),
    }


def _lock(folder: Path) -> object:
    """A lock that somebody holds, whatever its file says of him."""
    from autoprune.core.errors import InputError
    from autoprune.search.lock import FolderLock

    held = os.open(folder / "search.lock", os.O_RDWR)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        FolderLock(folder)
    except InputError as error:
        check_message("lock", str(error))
    finally:
        os.close(held)
    with FolderLock(folder):
        return None


def _write_tuned(folder: Path) -> None:
    from autoprune.pipeline.training import write_tuned
    from autoprune.search.tuned import Tuned

    graph = small_graph()
    policy = graph.check(graph.uniform(0.5))
    state = dict(graph.module(policy).clone_tensors().state_dict())
    write_tuned(folder, Tuned(policy, state, {"accuracy": 0.9}, {"accuracy": 0.5}, (1.0, 0.5), 3.0), "key")


tuned_files = sampled(_write_tuned)


def _tuned(folder: Path) -> object:
    """A fine-tuned member of an interrupted run; one that does not fit is trained again."""
    from autoprune.core.errors import InputError
    from autoprune.pipeline.training import read_tuned

    graph = small_graph()
    policy = graph.check(graph.uniform(0.5))
    found = read_tuned(folder, policy, "key", graph, ("accuracy",))
    if found is None:
        raise InputError("what was fine-tuned does not fit")
    return graph.rebuild(policy, found.state), sum(found.losses) + found.metrics["accuracy"]


def _changed_member(files: Files, random: Random) -> Files:
    kinds = {"json": "json", "safetensors": "tensors"}
    return changed_in({name: kinds[name.rpartition(".")[2]] for name in files})(files, random)


def readers() -> list[Reader]:
    """Those of run folders."""
    state = json.dumps({"schema": "autoprune.state/1", "finished": "key"}).encode()
    holder = b"process 12 on host since 2026-01-01 00:00:00 UTC\n"
    return [
        simple("run folder", run_files, RUN_KINDS, _run),
        simple("ranking", ranking_files, {"ranking.json": "json", "prediction.json": "json"}, _ranking),
        simple("damage curves", state_files, {"damage.json": "json"}, _state),
        Reader("trial journal", lines_changed("journal.log"), _journal, journal_files),
        simple("storage record", place_files, {"storage.json": "json"}, _place),
        simple("run state", lambda: {"state.json": state, "front.csv": b"member\n"}, {"state.json": "json"}, _finished),
        simple("lock", lambda: {"search.lock": holder}, {"search.lock": "text"}, _lock),
        Reader("fine-tuned member", _changed_member, _tuned, tuned_files),
    ]

"""A profile that is killed with SIGKILL again and again, for real, and gone on with."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from autoprune.core.errors import InputError
from autoprune.graph.fusion import kernel_slots
from autoprune.hardware.plan import plan_kernels
from autoprune.hardware.profile import HardwareProfile
from autoprune.hardware.profiling import profile_graph, run
from tests.hardware.profiling import worker
from tests.hardware.samples import dense_of, graph_of

KILLED_AT = (2, 6, 11)  # lines of the journal; the last is among the whole models


@contextmanager
def started(folder: Path) -> Iterator[BaseProcess]:
    """A process of its own that measures; a server that has torch loaded starts it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.hardware.profiling.worker"])
    process = context.Process(target=worker.main, args=(folder,))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def killed_once_it_has(count: int, folder: Path) -> None:
    """Start, wait for so many lines, kill."""
    with started(folder) as process:
        while lines(folder / "journal.jsonl") < count:
            assert process.exitcode is None, "ended before it could be killed"
            time.sleep(0.002)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL


def test_killed_again_and_again_every_kernel_and_model_is_timed_once(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    for count in KILLED_AT:
        killed_once_it_has(count, tmp_path)
        with journal.open("ab") as file:
            file.write(b'{"kind":"kernels","timed":[{"key"')  # torn, as by a kill in the middle of a write
    with started(tmp_path) as process:
        process.join()
        assert process.exitcode == 0
    session, *records = [json.loads(line) for line in journal.read_text().splitlines()]
    assert session["settings"]["whole_models"] == 7
    entries = {
        kind: list(itertools.chain.from_iterable(record["timed"] for record in records if record["kind"] == kind))
        for kind in ("kernels", "models")
    }
    dense = dense_of(worker.MODEL)
    planned = plan_kernels(kernel_slots(graph_of(worker.MODEL).program), worker.widths(), dense, 1)
    assert Counter(entry["key"] for entry in entries["kernels"]) == Counter(item.kernel.key for item in planned)
    assert len({tuple(entry["widths"]) for entry in entries["models"]}) == len(entries["models"]) == 7
    assert sum(record["kind"] == "base" for record in records) == 1  # one reference for old and new times
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)
    profile = HardwareProfile.load(tmp_path / "profile")
    assert profile.header.validation.models == 7
    alone = [(row.family, row.sizes) for row in profile.kernels if row.within == "alone"]
    assert len(alone) == len(set(alone)) == len(planned)


def test_a_finished_journal_needs_no_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, journal = graph_of(worker.MODEL), tmp_path / "journal.jsonl"
    monkeypatch.setattr(run, "probe_quantum", lambda runtime, settings, deadline: 1)
    first = profile_graph(graph, worker.SETTINGS, widths=worker.widths(), journal=journal)
    kept = journal.read_bytes()
    monkeypatch.setattr("autoprune.hardware.profiling.kernels.time_guarded", None)
    monkeypatch.setattr("autoprune.hardware.profiling.models.time_guarded", None)
    again = profile_graph(graph, worker.SETTINGS, widths=worker.widths(), journal=journal)
    assert journal.read_bytes() == kept
    assert [(row.family, row.sizes, row.within, row.n) for row in again.kernels] == [
        (row.family, row.sizes, row.within, row.n) for row in first.kernels
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"threads": 2}, "settings.threads 1, now 2"),
        ({"precision": "float16"}, "settings.precision float32, now float16"),
        ({"whole_models": 5}, "settings.whole_models 7, now 5"),
    ],
)
def test_other_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], expected: str
) -> None:
    monkeypatch.setattr(run, "probe_quantum", lambda runtime, settings, deadline: 1)
    graph, journal = graph_of("Sequential"), tmp_path / "journal.jsonl"
    few = replace(worker.SETTINGS, budget_s=0.0)
    profile_graph(graph, few, widths={}, journal=journal)
    with pytest.raises(InputError, match=expected):
        profile_graph(graph, replace(few, **change), widths={}, journal=journal)  # type: ignore[arg-type]
    profile_graph(graph, replace(few, name="other", description="may differ"), widths={}, journal=journal)
    with pytest.raises(InputError, match="model and space"):
        profile_graph(graph_of("Residual"), few, widths={}, journal=journal)

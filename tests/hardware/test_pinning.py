"""Threads kept on processors and let go of again, for real; the choice of processors from folders made up here."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from autoprune.hardware import pinning
from autoprune.hardware.pinning import choose, pinned

needs_choice = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="one processor, or a system without the call",
)


@needs_choice
def test_a_measurement_stays_on_its_processors_and_lets_go_of_them() -> None:
    before = os.sched_getaffinity(0)
    started, ended = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        ended.wait()

    worker = threading.Thread(target=work)
    try:
        with pinned(1) as cpus:
            assert len(cpus) == 1
            assert os.sched_getaffinity(0) == set(cpus)
            worker.start()
            started.wait()
            assert os.sched_getaffinity(worker.native_id or 0) == set(cpus)
        assert os.sched_getaffinity(0) == before
        assert os.sched_getaffinity(worker.native_id or 0) == before
    finally:
        ended.set()
        worker.join()


@needs_choice
def test_processors_are_let_go_of_after_an_error() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), pinned(1):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == before


def test_all_processors_wanted_is_no_choice() -> None:
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    with pinned(10_000) as cpus:
        assert set(cpus) == before


def test_a_system_without_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pinned(1) as cpus:
        assert cpus == ()


def test_a_call_that_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: int, mask: set[int]) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    monkeypatch.setattr(pinning, "WATCHED_S", 0.0)
    with pinned(1) as cpus:
        assert cpus == (0, 1, 2)


def machine(root: Path, speeds: dict[int, int], siblings: dict[int, str]) -> Path:
    for cpu, speed in speeds.items():
        for name, text in (("cpufreq/cpuinfo_max_freq", str(speed)), ("topology/thread_siblings_list", siblings[cpu])):
            path = root / f"cpu{cpu}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
    return root


def test_fast_cores_first_then_one_of_each_core_then_idle_ones(tmp_path: Path) -> None:
    speeds = dict.fromkeys(range(4), 3_000_000) | dict.fromkeys((4, 5), 2_000_000)
    siblings = {0: "0-1", 1: "0-1", 2: "2,3", 3: "2,3", 4: "4", 5: "5"}
    root = machine(tmp_path, speeds, siblings)
    busy = {0: 0.0, 1: 0.0, 2: 0.9, 3: 0.0, 4: 0.5, 5: 0.1}
    assert choose(set(range(6)), 6, busy, root) == [0, 2, 3, 1, 5, 4]
    assert choose({2, 4, 5}, 2, busy, root) == [2, 5]


def test_nothing_known_of_the_processors(tmp_path: Path) -> None:
    assert choose({0, 1, 2}, 2, {}, tmp_path) == [2, 1]

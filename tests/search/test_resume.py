"""Searches that are interrupted, killed and damaged: nothing finished is lost, nothing is evaluated twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from autoprune.core.errors import InputError
from autoprune.search.backend import JOURNAL, MAX_JOURNAL_BYTES, repair
from autoprune.search.executors import ExecutorSettings, open_executor
from autoprune.search.interrupts import Interrupts
from autoprune.search.lock import LOCK, FolderLock
from autoprune.search.study import Progress, StudySettings, Trial, run_search
from tests.search.synthetic import SyntheticEvaluator, SyntheticProblem, synthetic_problem
from tests.search.test_study import evaluations, search, seeds_of

TRIALS = 40


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, ...]:
    """An uninterrupted run."""
    return search(problem(), tmp_path_factory.mktemp("expected"), trials=TRIALS, batch=8)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def problem(**evaluator: Any) -> SyntheticProblem:
    return synthetic_problem(constraints=("size <= 16",), **evaluator)


class TestInterrupted:
    @pytest.mark.parametrize("seed", range(6))
    def test_an_interrupt_in_an_evaluation(self, tmp_path: Path, expected: tuple[Trial, ...], seed: int) -> None:
        """At random places, again and again, until it is through."""
        log = tmp_path / "log"
        rng = random.Random(seed)
        numbers = sorted(rng.sample([t.number for t in expected if t.evaluated], 3))
        for number in numbers:
            with pytest.raises(KeyboardInterrupt):
                search(problem(interrupts=(number,), log=str(log)), tmp_path / "run", trials=TRIALS, batch=8)
            assert len(evaluations(log)) == sum(t.evaluated and t.number < number for t in expected)
        found = search(problem(log=str(log)), tmp_path / "run", trials=TRIALS, batch=8)
        assert found == expected
        assert len(evaluations(log)) == len(set(evaluations(log))) == TRIALS

    def test_an_interrupt_with_workers_keeps_what_finished(self, tmp_path: Path, expected: tuple[Trial, ...]) -> None:
        """Trials finish out of order; those behind a gap are not evaluated again."""
        log = tmp_path / "log"
        heard: list[Progress] = []

        def stop(progress: Progress) -> None:
            heard.append(progress)
            if progress.done == 13:
                raise KeyboardInterrupt

        slow = problem(log=str(log), nap_s=0.02)
        with open_executor(slow.evaluator, ExecutorSettings("local", workers=3)) as executor:
            with pytest.raises(KeyboardInterrupt):
                search(slow, tmp_path / "run", executor, trials=TRIALS, batch=8, progress=stop)
            started = evaluations(log)
            found = search(slow, tmp_path / "run", executor, trials=TRIALS, batch=8)
        assert found == expected
        finished = {p.trial.number for p in heard if p.trial.evaluated}
        assert len(finished) == 13
        assert not finished & set(numbers(evaluations(log)[len(started) :]))
        assert len(evaluations(log)) <= TRIALS + 3  # those in hand when it was stopped

    def test_ctrl_c_once_finishes_what_is_in_hand(self, tmp_path: Path, expected: tuple[Trial, ...]) -> None:
        log = tmp_path / "log"

        def press(progress: Progress) -> None:
            if progress.done == 5:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            search(problem(log=str(log)), tmp_path / "run", trials=TRIALS, batch=8, progress=press)
        assert len(evaluations(log)) == 5
        assert search(problem(log=str(log)), tmp_path / "run", trials=TRIALS, batch=8) == expected
        assert len(evaluations(log)) == TRIALS

    def test_ctrl_c_twice_stops_now(self, tmp_path: Path) -> None:
        slow = problem(nap_s=60.0)

        def press() -> None:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=press)
        start = time.monotonic()
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            search(slow, tmp_path, trials=4)
        thread.join()
        assert time.monotonic() - start < 30

    def test_a_second_ctrl_c_waits_for_the_record(self) -> None:
        done: list[str] = []

        def write() -> None:
            with Interrupts() as interrupts, interrupts.shield():
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
                done.append("written")

        with pytest.raises(KeyboardInterrupt):
            write()
        assert done == ["written"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_other_handlers_of_ctrl_c_are_left_alone(self) -> None:
        seen: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
        try:
            with Interrupts() as interrupts:
                signal.raise_signal(signal.SIGINT)
                assert not interrupts.asked
            assert seen == [signal.SIGINT]
        finally:
            signal.signal(signal.SIGINT, before)

    def test_in_a_thread(self, tmp_path: Path, expected: tuple[Trial, ...]) -> None:
        found: list[tuple[Trial, ...]] = []
        thread = threading.Thread(target=lambda: found.append(search(problem(), tmp_path, trials=TRIALS, batch=8)))
        thread.start()
        thread.join()
        assert found == [expected]


DRIVER = """
if __name__ == "__main__":  # workers import this file too
    import sys
    from pathlib import Path
    from autoprune.search.executors import ExecutorSettings, open_executor
    from tests.search.test_resume import TRIALS, problem
    from tests.search.test_study import search

    def tell(progress):
        if progress.trial.evaluated:
            print(progress.trial.number, flush=True)

    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    slow = problem(log=str(folder / "log"), nap_s=0.03)
    with open_executor(slow.evaluator, ExecutorSettings("local", workers=workers)) as executor:
        search(slow, folder / "run", executor, trials=TRIALS, batch=8, progress=tell)
"""


class TestKilled:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_the_driver_killed_at_random_moments(
        self, tmp_path: Path, expected: tuple[Trial, ...], workers: int
    ) -> None:
        script = tmp_path / "driver.py"
        script.write_text(DRIVER)
        rng = random.Random(workers)
        log = tmp_path / "log"
        finished: set[int] = set()
        for _ in range(2):
            before = len(evaluations(log))
            told = kill_after(script, tmp_path, workers, rng.randrange(2, 9), rng.random() * 0.05)
            assert not finished & set(numbers(evaluations(log)[before:]))
            finished |= set(told)
        before = len(evaluations(log))
        assert search(problem(log=str(log)), tmp_path / "run", trials=TRIALS, batch=8) == expected
        assert not finished & set(numbers(evaluations(log)[before:]))
        assert len(set(numbers(evaluations(log)))) == TRIALS
        assert len(evaluations(log)) <= TRIALS + 2 * workers  # what was in hand when it was killed


def numbers(lines: Sequence[str]) -> list[int]:
    return [int(line.split()[0]) for line in lines]


def kill_after(script: Path, folder: Path, workers: int, results: int, pause_s: float) -> list[int]:
    """Start the driver, wait for some results and a moment more, and kill it; numbers of the results."""
    command = [sys.executable, str(script), str(folder), str(workers)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as driver:
        assert driver.stdout is not None
        told = [int(driver.stdout.readline()) for _ in range(results)]
        time.sleep(pause_s)
        driver.send_signal(signal.SIGKILL)
    return told


class TestDamaged:
    def test_a_journal_cut_anywhere_in_its_last_records(self, tmp_path: Path) -> None:
        """It opens, loses at most what was being written, and the search ends as if nothing had happened."""
        whole = search(problem(), tmp_path / "whole", trials=10, batch=8)
        data = (tmp_path / "whole" / JOURNAL).read_bytes()
        ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
        rng = random.Random(0)
        cuts = {*ends[-4:], *(end - 1 for end in ends[-4:]), *rng.sample(range(ends[-4], len(data)), 12)}
        for cut in sorted(cuts):
            run = tmp_path / f"cut{cut}"
            run.mkdir()
            (run / JOURNAL).write_bytes(data[:cut])
            log = run / "log"
            assert search(problem(log=str(log)), run, trials=10, batch=8) == whole
            lost = sum(cut < end for end in ends)
            assert len(evaluations(log)) <= lost
            assert (run / JOURNAL).read_bytes().count(b"\n") == len(ends)

    def test_repair_cuts_only_what_is_torn(self, tmp_path: Path) -> None:
        path = tmp_path / JOURNAL
        for data, left in [
            (b"", b""),
            (b'{"a":1}\n', b'{"a":1}\n'),
            (b'{"a":1}\n{"b"', b'{"a":1}\n'),
            (b'{"a":1}\n{"b":2}', b'{"a":1}\n'),
            (b'{"a":1}\n\0\0\0\0\n', b'{"a":1}\n'),
            (b'{"a"', b""),
            (b"\0\0\n", b""),
        ]:
            path.write_bytes(data)
            assert repair(path) == len(data) - len(left)
            assert path.read_bytes() == left

    @pytest.mark.parametrize(
        "content", [b"not json\n{}\n", b"[1,2]\n", b'{"op_code": 99, "worker_id": "x"}\n', b"{}\n"]
    )
    def test_a_file_that_is_no_journal(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / JOURNAL).write_bytes(content)
        with pytest.raises(InputError, match="expected an Optuna storage"):
            search(problem(), tmp_path, trials=5)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"params":{"g0":3.0', '"params":{"g0":9.0'),
            ('"number":0', '"number":-1'),
            ('"number":0', '"nombre":0'),
            ('"number":0', '"number":Infinity'),
            ('"values":[', '"values":[NaN,'),
            ('"values":[0.0,', '"values":[NaN,'),
            ('"values":[0.0,', '"values":[-Infinity,'),
            ('"seconds":', '"seconds":NaN,"x":'),
            ('"origin":"dense"', '"origin":"elsewhere"'),
            ('"metrics":{', '"metrics":5,"x":{'),
            ('"autoprune:settings":{', '"autoprune:settings":5,"x":{'),
            ('"batch":8', '"batch":"eight"'),
        ],
    )
    def test_records_that_are_none(self, tmp_path: Path, old: str, new: str) -> None:
        search(synthetic_problem(), tmp_path, trials=5, batch=8)
        text = (tmp_path / JOURNAL).read_text()
        assert old in text
        (tmp_path / JOURNAL).write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=r"run (storage|folder)"):
            search(synthetic_problem(), tmp_path, trials=5, batch=8)

    def test_a_journal_that_is_too_large(self, tmp_path: Path) -> None:
        search(problem(), tmp_path, trials=5)
        os.truncate(tmp_path / JOURNAL, MAX_JOURNAL_BYTES + 10**7)  # zeros that take no room on the disk
        with pytest.raises(InputError, match=r"expected at most 2 GB, got 2\.01 GB\. For .* a database"):
            search(problem(), tmp_path, trials=5)


FULL = """
import resource, sys
from pathlib import Path
from tests.search.test_resume import problem
from tests.search.test_study import search
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
search(problem(), Path(sys.argv[1]), trials=12, batch=8)
"""


def test_a_full_disk_in_the_middle_of_a_record(tmp_path: Path) -> None:
    """As far as a file-size limit can stand for one: a clear message, and it goes on when there is room."""
    whole = search(problem(), tmp_path / "whole", trials=12, batch=8)
    limit = (tmp_path / "whole" / JOURNAL).stat().st_size // 2
    command = [sys.executable, "-c", FULL, str(tmp_path / "run"), str(limit)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "AutopruneError: cannot store trials: File too large. What was stored before is safe" in done.stderr
    assert (tmp_path / "run" / JOURNAL).stat().st_size == limit  # a torn record
    assert search(problem(), tmp_path / "run", trials=12, batch=8) == whole


class TestFolders:
    def test_one_search_at_a_time(self, tmp_path: Path) -> None:
        lock = FolderLock(tmp_path)
        with pytest.raises(InputError, match=rf"already \(process {os.getpid()} on .*\)\. Wait for it"):
            search(problem(), tmp_path)
        lock.release()
        assert len(search(problem(), tmp_path, trials=3)) >= 3

    def test_locks_left_behind(self, tmp_path: Path) -> None:
        """What a process killed in the middle of a write leaves."""
        search(problem(), tmp_path, trials=3)
        os.symlink(tmp_path / JOURNAL, tmp_path / f"{JOURNAL}.lock")
        (tmp_path / LOCK).write_text("process 1 on elsewhere\n")
        start = time.monotonic()
        search(problem(), tmp_path, trials=6)
        assert time.monotonic() - start < 5
        assert not (tmp_path / f"{JOURNAL}.lock").is_symlink()

    def test_a_relative_folder_and_a_change_of_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        other = tmp_path / "other"
        other.mkdir()
        found = search(problem(), Path("run"), trials=8, progress=lambda progress: os.chdir(other))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "run"]
        assert list(other.iterdir()) == []
        monkeypatch.chdir(tmp_path)
        assert search(problem(), Path("run"), trials=8) == found

    @pytest.mark.skipif(os.geteuid() == 0 and not hasattr(os, "chflags"), reason="root may write anywhere")
    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir(mode=0o500)
        with pytest.raises(InputError, match="expected a folder that can be written"):
            search(problem(), tmp_path / "run")

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("a file")
        with pytest.raises(InputError, match="expected a folder that can be written"):
            search(problem(), tmp_path / "run")


def test_seeds_that_differ_on_resume_cost_nothing_twice(tmp_path: Path) -> None:
    """They should not, but a new version may allocate differently: what is recorded stays, nothing runs twice."""
    log = tmp_path / "log"
    one = problem(interrupts=(6,), log=str(log))
    with pytest.raises(KeyboardInterrupt):
        search(one, tmp_path / "run", trials=20, batch=8)
    again = problem(log=str(log))
    with open_executor(again.evaluator) as executor:
        found = run_search(
            again,
            executor,
            StudySettings(trials=20, batch=8),
            seeds=seeds_of(again)[::-1],
            folder=tmp_path / "run",
            evaluate=SyntheticEvaluator.evaluate,
        )
    assert len({t.policy for t in found}) == len(found)
    assert len(evaluations(log)) == len(set(evaluations(log))) == 20


@pytest.fixture(autouse=True)
def _default_handler() -> Iterator[None]:
    """Whatever a test did to Ctrl-C is undone."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)

"""Where trials lie: a journal cut anywhere, SQLite, a real PostgreSQL, and a real dashboard that shows them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autoprune.config import load_config
from autoprune.core.errors import AutopruneError, InputError
from autoprune.search.backend import JOURNAL, PLACE, repair, shown, writing
from autoprune.search.storage import TrialStorage
from autoprune.search.study import StudySettings
from tests.search.databases import PASSWORD, QUOTED, postgresql
from tests.search.synthetic import SyntheticProblem, synthetic_problem
from tests.search.test_study import evaluations, search

TRIALS = 24


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'trials.db'}"
    return str(request.getfixturevalue("server"))


def problem(**evaluator: Any) -> SyntheticProblem:
    return synthetic_problem(constraints=("size <= 16",), **evaluator)


def recorded(run: Path) -> list[int]:
    given = problem()
    names = tuple(variable.name for variable in given.space.variables)
    with TrialStorage(run, names, given.space.levels, ("error", "latency_p50"), None) as storage:
        return [record.number for record in storage.load()]


def test_a_journal_cut_at_every_byte_of_its_last_three_records(tmp_path: Path) -> None:
    """It opens, and what was written whole is there; benchmarks/survival.py opens it at every single byte."""
    search(problem(), tmp_path / "whole", trials=10, batch=8)
    data = (tmp_path / "whole" / JOURNAL).read_bytes()
    ends = [place + 1 for place, byte in enumerate(data) if byte == ord("\n")]
    numbers = recorded(tmp_path / "whole")
    run = tmp_path / "cut"
    run.mkdir()
    for cut in range(ends[-4], len(data) + 1):
        (run / JOURNAL).write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        repair(run / JOURNAL)
        assert (run / JOURNAL).read_bytes() == data[: ends[whole - 1]], cut
        if cut in ends or cut + 1 in ends or cut % 300 == 0:
            (run / JOURNAL).write_bytes(data[:cut])
            assert len(recorded(run)) == len(numbers) - (len(ends) - whole), cut


class TestDatabase:
    def test_the_same_trials_as_in_a_journal(self, tmp_path: Path, url: str) -> None:
        expected = search(problem(), tmp_path / "journal", trials=TRIALS, batch=8)
        assert search(problem(), tmp_path / "run", trials=TRIALS, batch=8, storage=url) == expected
        assert not (tmp_path / "run" / JOURNAL).exists()

    def test_interrupted_it_goes_on(self, tmp_path: Path, url: str) -> None:
        log = tmp_path / "log"
        expected = search(problem(), tmp_path / "journal", trials=TRIALS, batch=8)
        again: dict[str, Any] = {"trials": TRIALS, "batch": 8, "storage": url}
        number = next(t.number for t in expected[10:] if t.evaluated)
        with pytest.raises(KeyboardInterrupt):
            search(problem(interrupts=(number,), log=str(log)), tmp_path / "run", **again)
        assert search(problem(log=str(log)), tmp_path / "run", **again) == expected
        assert len(evaluations(log)) == len(set(evaluations(log))) == TRIALS

    def test_failures_and_what_tables_exclude_are_read_back(self, tmp_path: Path, url: str) -> None:
        given = problem(fails=(3, 4), nan=(7,))
        found = search(given, tmp_path / "run", trials=TRIALS, batch=8, storage=url)
        assert [t.number for t in found if t.failure] == [3, 4, 7]
        assert any(not t.evaluated for t in found)
        assert search(given, tmp_path / "run", trials=TRIALS, batch=8, storage=url) == found

    def test_runs_share_a_database(self, tmp_path: Path, url: str) -> None:
        other = synthetic_problem(3)
        one = search(problem(), tmp_path / "one" / "run", trials=6, storage=url)
        two = search(other, tmp_path / "two" / "run", trials=8, storage=url)
        assert search(problem(), tmp_path / "one" / "run", trials=6, storage=url) == one
        assert search(other, tmp_path / "two" / "run", trials=8, storage=url) == two

    def test_a_trial_is_one_transaction(self, tmp_path: Path, url: str) -> None:
        import sqlalchemy

        commits: list[object] = []

        def committed(connection: object) -> None:
            commits.append(connection)

        sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", committed)
        try:
            search(problem(), tmp_path / "run", trials=5, storage=url)
            before = len(commits)
            done = len(search(problem(), tmp_path / "run", trials=15, storage=url))
        finally:
            sqlalchemy.event.remove(sqlalchemy.engine.Engine, "commit", committed)
        assert len(commits) - before <= done + 25  # opening and looking up the study; not one a parameter


HOLDER = """
import sys
from pathlib import Path
from autoprune.search.storage import TrialStorage
from tests.search.test_backend import problem
given = problem()
names = tuple(variable.name for variable in given.space.variables)
with TrialStorage(Path(sys.argv[1]), names, given.space.levels, ("error", "latency_p50"), sys.argv[2]):
    print("holds it", flush=True)
    sys.stdin.read()
"""


class TestCopiedFolders:
    """Each has a lock of its own, and both name the same study."""

    def test_one_search_at_a_time(self, tmp_path: Path, url: str) -> None:
        search(problem(), tmp_path / "run", trials=4, storage=url)
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        refused: list[str] = []

        def intrude(progress: object) -> None:
            with pytest.raises(InputError) as caught:
                search(problem(), tmp_path / "copy", trials=8, storage=url)
            refused.append(str(caught.value))

        search(problem(), tmp_path / "run", trials=6, storage=url, progress=intrude)
        assert len(refused) >= 2
        assert f"a search is running in it already (process {os.getpid()} on " in refused[0]
        assert "study 'run-" in refused[0]
        assert QUOTED not in refused[0]
        assert search(problem(), tmp_path / "copy", trials=8, storage=url) == search(
            problem(), tmp_path / "run", trials=8, storage=url
        )

    def test_a_holder_that_was_killed_does_not_count(self, tmp_path: Path, url: str) -> None:
        search(problem(), tmp_path / "run", trials=4, storage=url)
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), url]
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, **pipes) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"holds it\n"
            with pytest.raises(InputError, match=rf"already \(process {holder.pid} on "):
                search(problem(), tmp_path / "copy", trials=8, storage=url)
            holder.send_signal(signal.SIGKILL)
        for _ in range(100):  # the server notices at once, but not before it is its turn
            try:
                assert search(problem(), tmp_path / "copy", trials=8, storage=url)
                break
            except InputError:
                time.sleep(0.05)
        else:
            raise AssertionError("the lock of a killed process is still there")


class TestAnotherStorage:
    def test_a_journal_is_kept_to(self, tmp_path: Path) -> None:
        search(problem(), tmp_path / "run", trials=4)
        with pytest.raises(InputError, match=r"expected its trials in journal\.log.* got sqlite:///.*Leave"):
            search(problem(), tmp_path / "run", trials=4, storage=f"sqlite:///{tmp_path / 'x.db'}")

    def test_a_database_is_kept_to(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'x.db'}"
        search(problem(), tmp_path / "run", trials=4, storage=url)
        with pytest.raises(InputError, match=r"expected the storage that it began with, sqlite:///.*, got none"):
            search(problem(), tmp_path / "run", trials=4)
        with pytest.raises(InputError, match=r"expected its study 'run-.*' in sqlite.*it was in sqlite"):
            search(problem(), tmp_path / "run", trials=4, storage=f"sqlite:///{tmp_path / 'y.db'}")

    def test_a_database_may_move(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'x.db'}"
        found = search(problem(), tmp_path / "run", trials=4, storage=url)
        (tmp_path / "x.db").rename(tmp_path / "y.db")
        assert search(problem(), tmp_path / "run", trials=4, storage=f"sqlite:///{tmp_path / 'y.db'}") == found

    def test_what_names_it_is_damaged(self, tmp_path: Path) -> None:
        (tmp_path / PLACE).write_text('{"schema": "autoprune.storage/1", "study": 5}')
        with pytest.raises(InputError, match="expected a study and a URL"):
            search(problem(), tmp_path, trials=4, storage=f"sqlite:///{tmp_path / 'x.db'}")


class TestRefused:
    def test_no_server(self, tmp_path: Path) -> None:
        pytest.importorskip("psycopg", exc_type=ImportError)
        url = "postgresql+psycopg://me:topsecret@127.0.0.1:1/none?connect_timeout=2"
        with pytest.raises(InputError, match=r"run storage postgresql\+psycopg://me@127\.0\.0\.1:1/none: .*") as caught:
            search(problem(), tmp_path, trials=4, storage=url)
        assert "topsecret" not in str(caught.value)
        assert "Look whether it can be reached" in str(caught.value)

    def test_no_driver(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"expected an installed driver for mysql\+nosuchdriver|Can't load plugin"):
            search(problem(), tmp_path, trials=4, storage="mysql+nosuchdriver://localhost/x")

    def test_no_url(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="expected an Optuna storage"):
            search(problem(), tmp_path, trials=4, storage="nonsense")

    def test_a_wrong_password_is_not_shown(self, tmp_path: Path, server: str) -> None:
        url = server.replace(QUOTED, "n%40t-it")
        with pytest.raises(InputError, match="password authentication failed") as caught:
            search(problem(), tmp_path, trials=4, storage=url)
        for secret in ("n%40t-it", "n@t-it"):
            assert secret not in str(caught.value)

    def test_a_server_that_goes_away(self, tmp_path: Path) -> None:
        """What was stored is safe, and the message says what to do."""
        given = problem()
        with postgresql() as url:
            names = tuple(variable.name for variable in given.space.variables)
            storage = TrialStorage(tmp_path, names, given.space.levels, ("error", "latency_p50"), url)
        with pytest.raises(
            AutopruneError, match=r"cannot store trials in postgresql\+psycopg://tester@127.*: .*mend the"
        ):
            storage.settings({})
        storage.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://me:secret@host:5432/trials", "postgresql://me@host:5432/trials"),
        ("postgresql://me:s@cret@host/trials?password=secret", "postgresql://me@host/trials"),
        ("sqlite:////data/x.db", "sqlite:////data/x.db"),
        ("postgresql://host/trials", "postgresql://host/trials"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_errors_are_shown_without_secrets() -> None:
    import optuna

    def fails() -> None:
        raise optuna.exceptions.StorageInternalError(f"no user me with {PASSWORD} or {QUOTED} at key=word")

    with pytest.raises(AutopruneError) as caught, writing(f"postgresql://me:{QUOTED}@host/x?sslpassword=word"):
        fails()
    assert "no user me with *** or *** at key=***" in str(caught.value)


def test_a_config_names_it(tmp_path: Path) -> None:
    """A file of SQLite is relative to the config; memory is in the units that people write."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: a:b\ntask: a:c\nprofiles: [p]\nsearch: {storage: 'sqlite:///x.db'}\n"
        "executor: {memory: 4GB, timeout: 2min}\n"
    )
    config = load_config(path)
    assert config.search.storage == f"sqlite:///{tmp_path / 'x.db'}"
    assert (config.executor.memory_bytes, config.executor.timeout_s) == (4_000_000_000, 120.0)
    assert "x.db" not in repr(config)
    path.write_text(path.read_text().replace("4GB", "4 elephants"))
    with pytest.raises(InputError, match=r"executor\.memory: expected a size such as '5B'"):
        load_config(path)


def test_settings_do_not_show_it() -> None:
    assert "secret" not in repr(StudySettings(storage="postgresql://me:secret@host/x"))


def test_passwords_are_not_written(tmp_path: Path, server: str) -> None:
    search(problem(), tmp_path / "run", trials=4, storage=server)
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert QUOTED.encode() not in text, path
            assert PASSWORD.encode() not in text, path


# ----------------------------------------------------------------------- the dashboard


@contextmanager
def dashboard(storage: str) -> Iterator[str]:
    """The address of an optuna-dashboard on a storage."""
    pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard: pip install optuna-dashboard")
    program = shutil.which("optuna-dashboard", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    assert program is not None
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--host", "127.0.0.1", "--port", str(port), storage]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGKILL)


def fetched(address: str) -> Any:
    """JSON from a server that may still be starting."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


@pytest.mark.parametrize("kind", ["journal", "postgresql"])
def test_the_dashboard_shows_a_run(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = None if kind == "journal" else str(request.getfixturevalue("server"))
    run = tmp_path / f"seen-on-{kind}"
    found = search(problem(), run, trials=TRIALS, storage=url)
    with dashboard(str(run / JOURNAL) if url is None else url) as address:
        studies = fetched(f"{address}/api/studies")["study_summaries"]
        name = "autoprune" if url is None else json.loads((run / PLACE).read_text())["study"]
        study = next(study for study in studies if study["study_name"] == name)
        assert study["directions"] == ["minimize", "minimize"]
        shown_trials = fetched(f"{address}/api/studies/{study['study_id']}?after=0")["trials"]
    assert len(shown_trials) == len(found)
    assert {trial["state"] for trial in shown_trials} == {"Complete"}

"""The contract of executors, run against this process, worker processes and Ray; then what only some of them can do."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.search.executors import Executor, ExecutorSettings, Job, open_executor, worker
from autoprune.search.executors.pool import MOST_AT_ONCE
from tests.search.jobs import Bench, TorchBench

ELSEWHERE = ["processes", pytest.param("ray", marks=pytest.mark.ray)]
EVERYWHERE = ["inside", *ELSEWHERE]
SETTINGS = {
    "inside": ExecutorSettings("local", workers=1),
    "processes": ExecutorSettings("local", workers=2),
    "ray": ExecutorSettings("ray", workers=1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="class")
def executor(request: pytest.FixtureRequest, folder: Path) -> Iterator[Executor]:
    if request.param == "ray":
        request.getfixturevalue("local_ray")
    with open_executor(Bench(folder), SETTINGS[request.param]) as opened:
        yield opened


def plain(bench: Bench, value: int) -> int:
    return bench.square(value)


def answers(executor: Executor, *jobs: Job) -> dict[int, Any]:
    return dict(executor.run(jobs))


@pytest.mark.parametrize("executor", EVERYWHERE, indirect=True)
class TestContract:
    def test_every_job_is_answered_once(self, executor: Executor) -> None:
        got = list(executor.run(Job(i, Bench.square, (i,)) for i in range(20)))
        assert sorted(got) == [(i, i * i) for i in range(20)]

    def test_no_jobs(self, executor: Executor) -> None:
        assert list(executor.run(iter(()))) == []

    def test_an_exception_is_a_failure(self, executor: Executor) -> None:
        failure = answers(executor, Job(7, Bench.fail, ("no such layer",)))[7]
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.message) == ("ValueError", "no such layer")
        assert "jobs.py" in failure.hint

    def test_jobs_are_read_lazily(self, executor: Executor) -> None:
        taken = []

        def jobs() -> Iterator[Job]:
            for i in range(100):
                taken.append(i)
                yield Job(i, Bench.square, (i,))

        running = executor.run(jobs())
        next(running)
        assert len(taken) <= 4  # one in hand a worker, and one that took the place of the answered
        running.close()  # type: ignore[attr-defined]

    def test_it_can_be_left_early_and_used_again(self, executor: Executor) -> None:
        running = executor.run(Job(i, Bench.square, (i,)) for i in range(5))
        next(running)
        running.close()  # type: ignore[attr-defined]
        assert answers(executor, Job(3, Bench.square, (3,))) == {3: 9}

    def test_plain_functions_are_jobs_too(self, executor: Executor) -> None:
        assert answers(executor, Job(0, plain, (2,))) == {0: 4}

    def test_jobs_may_wait_for_results(self, executor: Executor) -> None:
        """Of which at most two are out."""
        answered: list[int] = []

        def jobs() -> Iterator[Job | None]:
            for i in range(8):
                while len(answered) < i - 1:
                    yield None
                yield Job(i, Bench.square, (i,))

        for number, result in executor.run(jobs()):
            assert result == number * number
            answered.append(number)
        assert sorted(answered) == list(range(8))

    def test_jobs_that_wait_for_nothing_are_a_mistake(self, executor: Executor) -> None:
        with pytest.raises(RuntimeError, match="to wait for a result, and none is under way"):
            list(executor.run(itertools.repeat(None)))


@pytest.mark.parametrize("executor", ELSEWHERE, indirect=True)
class TestElsewhere:
    def test_the_context_is_built_once_a_worker(self, executor: Executor) -> None:
        seen = answers(executor, *[Job(i, Bench.where) for i in range(6)])
        assert os.getpid() not in {pid for pid, _ in seen.values()}
        assert {unpickled for _, unpickled in seen.values()} == {1}

    def test_a_worker_that_dies_costs_one_retry(self, executor: Executor) -> None:
        name = f"once-{os.getpid()}-{time.monotonic_ns()}"
        got = answers(executor, Job(0, Bench.die, (name, 1)), Job(1, Bench.square, (4,)))
        assert got == {0: name, 1: 16}

    def test_a_job_that_kills_again_and_again_is_a_failure(self, executor: Executor) -> None:
        name = f"twice-{os.getpid()}-{time.monotonic_ns()}"
        got = answers(executor, Job(0, Bench.die, (name, 9)), Job(1, Bench.square, (5,)))
        assert got[1] == 25
        assert isinstance(got[0], Failure)
        assert got[0].kind == "worker died"
        assert f"tried {3 if type(executor).__name__ == 'RayExecutor' else 2} times" in got[0].message
        assert answers(executor, Job(2, Bench.square, (6,))) == {2: 36}


def short(*jobs: Job) -> list[Job]:
    """Jobs after some that tell how long they take, so that a worker may get several at once."""
    before = [Job(-1 - i, Bench.nap, (0.01,)) for i in range(20)]
    return [replace(job, followed=99) for job in (*before, *jobs)]


@pytest.mark.parametrize("executor", ELSEWHERE, indirect=True)
class TestShortJobs:
    """Of which a worker may get several at once: that changes nothing."""

    def test_all_are_answered(self, executor: Executor) -> None:
        got = list(executor.run(short(*[Job(i, Bench.square, (i,)) for i in range(30)])))
        assert sorted(got)[20:] == [(i, i * i) for i in range(30)]

    def test_one_kills_its_worker(self, executor: Executor) -> None:
        name = f"short-{os.getpid()}-{time.monotonic_ns()}"
        got = answers(executor, *short(*[Job(i, Bench.square, (i,)) for i in range(5)], Job(9, Bench.die, (name, 99))))
        assert [got[i] for i in range(5)] == [0, 1, 4, 9, 16]
        assert got[9].kind == "worker died"

    def test_one_raises(self, executor: Executor) -> None:
        got = answers(executor, *short(Job(0, Bench.fail, ("no",)), Job(1, Bench.square, (2,))))
        assert (got[0].kind, got[1]) == ("ValueError", 4)

    def test_a_result_that_cannot_be_sent(self, executor: Executor) -> None:
        got = answers(executor, *short(Job(0, Bench.unpicklable), Job(1, Bench.square, (2,))))
        assert isinstance(got[0], Failure)
        assert got[1] == 4


@pytest.mark.parametrize("kind", EVERYWHERE)
def test_threads_are_fixed(kind: str, request: pytest.FixtureRequest) -> None:
    import torch

    if kind == "ray":
        request.getfixturevalue("local_ray")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with open_executor(TorchBench(), SETTINGS[kind]) as executor:
            assert answers(executor, Job(0, TorchBench.threads)) == {0: 1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


LIMITED = [
    pytest.param("local", id="processes"),
    pytest.param("ray", marks=pytest.mark.ray),
]


@pytest.mark.parametrize("kind", LIMITED)
class TestLimits:
    """One worker suffices: what has a limit runs in a process of its own."""

    @pytest.fixture(autouse=True)
    def _ray(self, kind: str, request: pytest.FixtureRequest) -> None:
        if kind == "ray":
            request.getfixturevalue("local_ray")

    def test_an_overdue_job_is_a_failure(self, kind: str) -> None:
        with open_executor(Bench(), ExecutorSettings(kind, workers=1, timeout_s=1.0)) as executor:
            got = answers(executor, Job(0, Bench.nap, (60.0,)), Job(1, Bench.square, (2,)))
        assert got[1] == 4
        assert isinstance(got[0], Failure)
        assert got[0].kind == "overdue"
        assert "no answer within 1 s; tried 2 times" in got[0].message
        assert "timeout" in got[0].hint

    def test_jobs_that_have_no_limit(self, kind: str) -> None:
        with open_executor(Bench(), ExecutorSettings(kind, workers=1, timeout_s=0.5)) as executor:
            assert answers(executor, Job(0, Bench.nap, (1.5,), timed=False)) == {0: 1.5}

    def test_an_overdue_one_of_several_short_jobs(self, kind: str) -> None:
        with open_executor(Bench(), ExecutorSettings(kind, workers=1, timeout_s=1.0)) as executor:
            jobs = [Job(0, Bench.square, (2,)), Job(1, Bench.nap, (60.0,)), Job(2, Bench.square, (3,))]
            got = answers(executor, *short(*jobs))
        assert (got[0], got[2]) == (4, 9)
        assert "no answer within 1 s; tried 2 times" in got[1].message

    def test_one_of_several_short_jobs_holds_too_much_memory(self, kind: str) -> None:
        with open_executor(Bench(), ExecutorSettings(kind, workers=1, memory_bytes=400_000_000)) as executor:
            jobs = [Job(0, Bench.square, (2,)), Job(1, Bench.hold, (600_000_000, 60.0)), Job(2, Bench.square, (3,))]
            got = answers(executor, *short(*jobs))
        assert (got[0], got[2]) == (4, 9)
        assert "400 MB are allowed; tried 2 times" in got[1].message

    def test_a_job_that_holds_too_much_memory(self, kind: str) -> None:
        settings = ExecutorSettings(kind, workers=1, memory_bytes=400_000_000)
        with open_executor(Bench(), settings) as executor:
            got = answers(
                executor,
                Job(0, Bench.hold, (600_000_000, 60.0)),
                Job(1, Bench.hold, (1_000_000, 0.1)),
                Job(2, Bench.fail, ("as ever",)),
            )
        assert got[1] == 1_000_000
        assert (got[2].kind, got[2].message) == ("ValueError", "as ever")
        assert isinstance(got[0], Failure)
        assert got[0].kind == "out of memory"
        assert "400 MB are allowed; tried 2 times" in got[0].message
        assert "executor: {memory: ...}" in got[0].hint

    def test_a_worker_that_dies_under_a_limit(self, kind: str, tmp_path: Path) -> None:
        settings = ExecutorSettings(kind, workers=1, memory_bytes=2_000_000_000)
        with open_executor(Bench(tmp_path), settings) as executor:
            assert answers(executor, Job(0, Bench.die, ("once", 1))) == {0: "once"}


def test_a_worker_that_is_stopped_is_overdue() -> None:
    """It hangs as a whole, so that it could not even say so."""
    with open_executor(Bench(), ExecutorSettings("local", workers=1, timeout_s=0.5)) as executor:
        got = answers(executor, Job(0, Bench.stop), Job(1, Bench.square, (3,)))
    assert got[1] == 9
    assert got[0].kind == "overdue"


def test_jobs_may_start_processes() -> None:
    """As data loaders with workers do."""
    with open_executor(Bench(), SETTINGS["processes"]) as executor:
        assert answers(executor, Job(0, Bench.child)) == {0: 0}


class Slow:
    """Takes long to unpickle."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        time.sleep(60.0)

    def __getstate__(self) -> dict[str, Any]:
        return {"x": 1}


def test_workers_that_never_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "START_TIMEOUT_S", 0.3)
    executor = open_executor(Slow(), ExecutorSettings("local", workers=2))
    with executor, pytest.raises(AutopruneError, match=r"do not start: not started within 0\.3 s, 3 times in a row"):
        answers(executor, Job(0, Bench.square, (1,)))


FORGETFUL = """
from tests.search.jobs import Bench
from autoprune.search.executors import ExecutorSettings, Job, open_executor
if __name__ == "__main__":
    executor = open_executor(Bench(), ExecutorSettings("local", workers=2))
    print(list(executor.run([Job(0, Bench.square, (3,))])), flush=True)
"""


def test_an_executor_that_nobody_closes_ends_with_the_program(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(FORGETFUL)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[(0, 9)]\n", "")


def test_a_result_that_cannot_be_sent() -> None:
    with open_executor(Bench(), SETTINGS["processes"]) as executor:
        failure = answers(executor, Job(0, Bench.unpicklable))[0]
    assert isinstance(failure, Failure)
    assert failure.kind == "result cannot be pickled"


def test_closing_ends_the_processes() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with open_executor(Bench(), SETTINGS["processes"]) as executor:
        pids = {pid for pid, _ in answers(executor, *[Job(i, Bench.where) for i in range(4)]).values()}
        assert pids
        assert not pids & before
    assert not any(psutil.pid_exists(pid) for pid in pids)
    executor.close()


def test_a_context_that_cannot_be_sent() -> None:
    with pytest.raises(InputError, match="no lambdas"):
        open_executor(lambda: None, SETTINGS["processes"])


def test_a_job_that_cannot_be_sent() -> None:
    with open_executor(Bench(), SETTINGS["processes"]) as executor, pytest.raises(InputError, match="job 0"):
        list(executor.run([Job(0, Bench.square, (lambda: None,))]))


class Broken:
    """Unpickles nowhere."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise ImportError("no module named 'elsewhere'")

    def __getstate__(self) -> dict[str, Any]:
        return {"x": 1}


def test_a_context_that_does_not_load_is_named() -> None:
    with open_executor(Broken(), SETTINGS["processes"]) as executor, pytest.raises(AutopruneError, match="elsewhere"):
        list(executor.run([Job(0, Bench.square, (1,))]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": 0}, "workers >= 1"),
        ({"threads": 0}, "threads >= 1"),
        ({"gpus_per_worker": -1.0}, "gpus_per_worker >= 0"),
        ({"timeout_s": 0.0}, "timeout_s above 0"),
        ({"memory_bytes": 0}, "memory_bytes above 0"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExecutorSettings(**change)


def test_unknown_kind_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown executor 'locl'\. Did you mean 'local'\? Known: .*local, ray"):
        open_executor(Bench(), ExecutorSettings("locl"))


DRIVER = """
import sys, time
from tests.search.jobs import Bench
from autoprune.search.executors import ExecutorSettings, Job, open_executor
if __name__ == "__main__":
    executor = open_executor(Bench(), ExecutorSettings("local", workers=2))
    list(executor.run([Job(0, Bench.where), Job(1, Bench.where)]))
    print("ready", flush=True)
    list(executor.run([Job(i, Bench.nap, (600.0,)) for i in range(2)]))
"""


def test_workers_leave_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        workers = psutil.Process(driver.pid).children(recursive=True)
        assert len(workers) >= 2
        driver.send_signal(signal.SIGKILL)
    _gone, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_a_script_without_its_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from tests.search.jobs import Bench\n"
        "from autoprune.search.executors import ExecutorSettings, Job, open_executor\n"
        "with open_executor(Bench(), ExecutorSettings('local', workers=2)) as executor:\n"
        "    list(executor.run([Job(0, Bench.square, (2,))]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "AutopruneError: worker processes do not start" in done.stderr
    assert "needs its own work under `if __name__ == '__main__':`" in done.stderr


@pytest.mark.ray
def test_no_ray_at_the_address() -> None:
    code = (
        "from autoprune.search.executors import *\nopen_executor(None, ExecutorSettings('ray', address='127.0.0.1:1'))"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert "InputError: executor: expected a Ray cluster at '127.0.0.1:1', got [Errno" in done.stderr


@pytest.mark.ray
def test_ray_listens_on_this_machine_only(local_ray: Executor) -> None:
    mine = [p for p in psutil.Process().children(recursive=True) if p.name() in ("raylet", "gcs_server")]
    listening = [c.laddr.ip for p in mine for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


@pytest.mark.ray
def test_a_ray_that_runs_already_is_left_running(local_ray: Executor) -> None:
    import ray

    with open_executor(Bench(), ExecutorSettings("ray", workers=1)) as executor:
        assert answers(executor, Job(0, Bench.square, (3,))) == {0: 9}
    assert ray.is_initialized()


@pytest.mark.ray
def test_an_actor_that_is_restarted_while_nobody_looks(local_ray: Executor) -> None:
    """Ray has another process there before the next job, which has no context yet."""
    with open_executor(Bench(), ExecutorSettings("ray", workers=1)) as executor:
        pid, _ = answers(executor, Job(0, Bench.where))[0]
        psutil.Process(pid).kill()
        for _ in range(600):
            mine = [child.pid for child in psutil.Process().children(recursive=True) if is_actor(child)]
            if mine and pid not in mine:
                break
            time.sleep(0.05)
        time.sleep(1.0)  # until the driver has heard of it, as it may: then the job goes to the new process
        again, unpickled = answers(executor, Job(1, Bench.where))[1]
    assert again != pid
    assert unpickled == 1


def is_actor(process: psutil.Process) -> bool:
    try:
        return any("ray::Actor" in argument for argument in process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.ray
def test_short_jobs_go_to_an_actor_together(local_ray: Executor) -> None:
    """Several are taken at a time, and no more than all workers can get."""
    taken: list[int] = []
    waiting: list[int] = []

    def jobs() -> Iterator[Job]:
        for i in range(60):
            taken.append(i)
            yield Job(i, Bench.nap, (0.005,), followed=59 - i)

    with open_executor(Bench(), ExecutorSettings("ray", workers=1)) as executor:
        for answered, _ in enumerate(executor.run(jobs()), start=1):
            waiting.append(len(taken) - answered)
    assert max(waiting[:10]) == 1  # until it is known how long they take
    assert max(waiting) == 2 * MOST_AT_ONCE - 1  # what was just answered, and what was handed out for it
    assert waiting[-1] == 0


@pytest.mark.ray
def test_a_context_that_does_not_load_on_ray_is_named(local_ray: Executor) -> None:
    executor = open_executor(Broken(), ExecutorSettings("ray", workers=1))
    with executor, pytest.raises(AutopruneError, match="elsewhere"):
        answers(executor, Job(0, Bench.square, (3,)))

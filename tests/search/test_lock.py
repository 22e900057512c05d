"""One writer a run folder: who holds it is named, and whoever is killed lets go."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from autoprune.core.errors import InputError
from autoprune.search.lock import LOCK, FolderLock

HOLDER = """
import os, sys, time
from pathlib import Path
from autoprune.search.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
child = os.fork() if sys.argv[2] == "forks" else 0
if not child:  # the forked one tells of itself, once it has let go
    print(os.getpid() if sys.argv[2] == "forks" else 0, flush=True)
time.sleep(600)
"""


def test_a_second_one_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "run"):
        with pytest.raises(InputError) as caught:
            FolderLock(tmp_path / "run")
        named = rf"\(process {os.getpid()} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d "
        assert re.search(named, str(caught.value))
    FolderLock(tmp_path / "run").release()


@pytest.mark.parametrize("forks", ["alone", "forks"])
def test_whoever_is_killed_lets_go(tmp_path: Path, forks: str) -> None:
    """Also with a child (a data loader's worker) that lives on."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path), forks]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        with pytest.raises(InputError, match=f"process {holder.pid} on"):
            FolderLock(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        try:
            assert not child or psutil.pid_exists(child)
            FolderLock(tmp_path).release()
        finally:
            if child:
                os.kill(child, signal.SIGKILL)


def test_a_holder_that_could_not_write_its_name(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    (tmp_path / LOCK).write_text("")
    with pytest.raises(InputError, match=r"\(another process\)"):
        FolderLock(tmp_path)
    lock.release()


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    member = tmp_path / "members" / "m1"
    member.mkdir(parents=True)
    left = [tmp_path / ".front.csv.a1b2_c3d", member / ".model.onnx.abcdefgh", tmp_path / ".run.json.00000000"]
    kept = [tmp_path / ".env.template", tmp_path / "front.csv", member / ".gitkeep", tmp_path / ".run.json.toolongname"]
    for path in (*left, *kept):
        path.touch()
    with FolderLock(tmp_path) as lock:
        lock.tidy()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)

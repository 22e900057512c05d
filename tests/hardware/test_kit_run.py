"""Kits that run: where there is no autoprune, under every shell, cut off, refused, twice at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import onnxruntime
import pytest

from autoprune.hardware.devices.contract import LOGS_OF_SMALL, small_kit
from autoprune.hardware.devices.local import LocalDevice
from autoprune.hardware.kit import importing, planning
from autoprune.hardware.kit.importing import import_kit
from autoprune.hardware.kit.writing import FAR
from autoprune.hardware.latency import LatencyTable
from tests.hardware.kits import MODEL, run, written
from tests.hardware.samples import graph_of

SHELLS = [shell for shell in ("sh", "dash", "busybox sh") if shutil.which(shell.split()[0])]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that finds onnxruntime and numpy, and nothing else that is installed."""
    folder = tmp_path_factory.mktemp("bare")
    packages = folder / "packages"
    packages.mkdir()
    for module in (numpy, onnxruntime):
        home = Path(str(module.__file__)).parent
        for found in (home, home.with_name(f"{home.name}.libs")):
            if found.is_dir():
                (packages / found.name).symlink_to(found)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return python


def test_a_kit_runs_without_autoprune_and_makes_a_profile(
    bare_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "LOST", float("inf"))  # three runs a model on a busy machine
    for package in ("autoprune", "torch", "onnx"):
        found = subprocess.run([bare_python, "-c", f"import {package}"], capture_output=True, check=False, cwd=tmp_path)
        assert b"ModuleNotFoundError" in found.stderr
    manifest = written(tmp_path / "kit", python=str(bare_python))
    moved = tmp_path / "far away" / "kit of mine"
    moved.parent.mkdir()
    (tmp_path / "kit").rename(moved)
    done = run(moved)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"progress {len(manifest.order)} {len(manifest.order)}"
    assert {path.stem for path in (moved / "logs").iterdir()} == {log for log, _ in manifest.order}
    profile = import_kit(moved)
    header = profile.header
    assert header.provenance == "measured"
    assert header.runtime.version == onnxruntime.__version__
    assert header.device.cores == LocalDevice().describe().cores
    assert header.device.features == LocalDevice().describe().features
    assert header.validation.models == 4
    assert header.protocol.empty_run_us > 0
    assert len(profile.kernels) == 10
    assert all(row.n == 3 and row.p50_us > 0 for row in profile.kernels)
    table = LatencyTable(profile, graph_of(MODEL))
    dense = numpy.array([[group.size for group in graph_of(MODEL).groups.values()]])
    assert table.latency_us(dense)["p50"][0] > 0


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    manifest = written(kit)
    process = subprocess.Popen(["sh", "run.sh"], cwd=kit, stdout=subprocess.DEVNULL, start_new_session=True)
    logs = kit / "logs"
    end = time.monotonic() + 60
    while len(list(logs.glob("*.log"))) < 20 and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in logs.glob("*.log")}
    assert 20 <= len(finished) < len(manifest.order)
    assert (kit / "lock").is_dir()
    done = run(kit)
    assert done.returncode == 0, done.stderr
    assert len(list(logs.glob("*.log"))) == len(manifest.order)
    after = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in logs.glob("*.log")}
    assert {name: after[name] for name in finished} == finished
    assert not (kit / "lock").exists()
    assert not list(logs.glob("*.tmp"))


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_runs_it(shell: str, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    small_kit(kit)
    done = run(kit, shell)
    assert (done.returncode, done.stderr) == (0, "")
    for place, log in enumerate(LOGS_OF_SMALL, start=1):
        text = (kit / "logs" / f"{log}.log").read_text()
        assert text == f"#kit 0123456789abcdef\n#log {log}\n#tool cat 1\n#unit us\n{place}.5\n#end 0\n"
    environment = (kit / "environment.txt").read_text()
    assert "tool: cat 1\n" in environment
    assert "machine: " in environment
    assert (kit / "runs").read_text().count("models/") == 3
    assert run(kit, shell).returncode == 0
    assert (kit / "runs").read_text().count("models/") == 3


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    scripts = [FAR / "run.sh", FAR / "environment.sh", *sorted((FAR / "tools").glob("*.sh"))]
    found = subprocess.run(["shellcheck", "-s", "sh", *scripts], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_a_model_that_the_tool_refuses_is_kept_with_its_words_and_tried_again(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    small_kit(kit)
    assert run(kit, TOOL_REFUSES="models/b.txt").returncode == 0
    assert (kit / "logs" / "s0-b.failed").read_text().endswith("#unit us\n#end 1\n")
    assert not (kit / "logs" / "s0-b.log").exists()
    assert run(kit).returncode == 0
    assert (kit / "logs" / "s0-b.log").is_file()
    assert not (kit / "logs" / "s0-b.failed").exists()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kits without the models that measure the machine itself."""
    monkeypatch.setattr(planning, "_machine_models", lambda batch: [])


@pytest.mark.usefixtures("few")
def test_a_model_that_ends_the_process_does_not_take_others_with_it(tmp_path: Path) -> None:
    """ONNX Runtime's models share processes: what one of them leaves undone is run alone."""
    kit = tmp_path / "kit"
    manifest = written(kit, kernels=4, whole_models=1)
    script = kit / "time_onnx.py"
    death = '    if path.endswith("k00002.onnx"):\n        os._exit(9)\n    options = ort'
    script.write_text(script.read_text().replace("    options = ort", death, 1))
    sums = (kit / "sums.txt").read_text().splitlines(keepends=True)
    (kit / "sums.txt").write_text("".join(line for line in sums if "time_onnx" not in line))
    assert run(kit).returncode == 0
    assert [path.name for path in (kit / "logs").glob("*.failed")] == ["s0-k00002.failed"]
    assert (kit / "logs" / "s0-k00002.failed").read_text().endswith("#end 9\n")
    assert len(list((kit / "logs").glob("*.log"))) == len(manifest.order) - 1


def test_changed_files_are_not_run(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    small_kit(kit)
    (kit / "models" / "b.txt").write_text("7\n")
    done = run(kit)
    assert done.returncode == 1
    assert "files differ from sums.txt" in done.stderr
    assert not list((kit / "logs").iterdir())


@pytest.mark.usefixtures("few")
def test_no_tool_says_what_is_needed(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    written(kit, python="/nowhere/python", kernels=2, whole_models=0)
    done = run(kit)
    assert done.returncode == 1
    assert "expected '/nowhere/python' with the packages onnxruntime and numpy" in done.stderr
    assert run(kit, PYTHON=sys.executable).returncode == 0


def test_times_of_two_versions_of_the_tool_are_not_mixed(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    small_kit(kit)
    assert run(kit).returncode == 0
    done = run(kit, TOOL_TOLD="2")
    assert done.returncode == 1
    assert "logs/ is of cat 1, this is cat 2" in done.stderr


def test_two_runs_at_once_are_refused_and_a_dead_one_is_not_waited_for(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    small_kit(kit)
    (kit / "lock").mkdir()
    (kit / "lock" / "pid").write_text(f"{os.getpid()}\n")
    done = run(kit)
    assert done.returncode == 1
    assert f"got process {os.getpid()} under way" in done.stderr
    dead = subprocess.Popen(["true"])
    dead.wait()
    (kit / "lock" / "pid").write_text(f"{dead.pid}\n")
    assert run(kit).returncode == 0

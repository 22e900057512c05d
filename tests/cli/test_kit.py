"""`autoprune profile kit`, `import` of what comes back, and `run --device ssh:...`, as they are called."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune.cli.app import run
from autoprune.hardware.kit import importing, planning
from autoprune.hardware.profile import load_profile
from tests.hardware.far_ends import needs_sshd, on_path, sshd
from tests.project import Project, make_project

MODULE = "user_project_kit"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A user's model, on the path."""
    made = make_project(tmp_path_factory.mktemp("project"), MODULE)
    sys.path.insert(0, str(made.folder))
    yield made
    sys.path.remove(str(made.folder))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what measures the machine itself; on a busy machine."""
    monkeypatch.setattr(planning, "_machine_models", lambda batch: [])
    monkeypatch.setattr(importing, "LOST", float("inf"))


def written(folder: Path, *arguments: str) -> int:
    """The exit status of `profile kit` for the user's model."""
    what = ["--model", f"{MODULE}:model", "--input", "1,1,16,16", "--output", str(folder)]
    small = ["--kernels", "6", "--whole-models", "4", "--sessions", "1", "--python", sys.executable]
    return run(["profile", "kit", *what, *small, *arguments])


@pytest.mark.usefixtures("project")
def test_a_kit_is_written_run_and_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit = tmp_path / "kit"
    assert written(kit, "--json") == 0
    told = capsys.readouterr()
    facts = json.loads(told.out)
    assert (facts["kernels"], facts["whole_models"], facts["tool"]) == (6, 4, "time_onnx.py")
    assert facts["planned_kernels"] > 6
    assert f"autoprune profile import {kit}" in told.err
    assert run(["profile", "import", str(kit), "--output", str(tmp_path)]) == 2
    assert "expected logs of at least half of its 6 kernels, got 0" in capsys.readouterr().err
    subprocess.run(["sh", "run.sh"], cwd=kit, check=True, stdout=subprocess.DEVNULL)
    shutil.make_archive(str(tmp_path / "back"), "gztar", tmp_path, "kit")
    where = ["--output", str(tmp_path / "profiles")]
    assert run(["profile", "import", str(tmp_path / "back.tar.gz"), "--name", "board", "--json", *where]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["provenance"], shown["kernels"]) == ("measured", 6)
    assert load_profile(tmp_path / "profiles" / "board").header.validation.models == 4
    assert run(["profile", "import", str(kit), "--name", "board", *where]) == 2
    assert "expected a new name, got 'board'" in capsys.readouterr().err
    assert run(["profile", "import", str(kit), "--batch", "8", *where]) == 2
    assert "expected a kit of batch 8, got batch 1" in capsys.readouterr().err
    assert run(["profile", "import", str(kit), "--kind", "toaster", *where]) == 2
    assert "unknown kind of device 'toaster'" in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_a_kit_that_needs_a_converter_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert written(tmp_path / "kit", "--runtime", "litert") == 0
    told = capsys.readouterr()
    assert "6 kernels of " in told.out
    assert f"first, where onnx2tf is: sh {tmp_path}/kit/run.sh convert" in told.err
    assert written(tmp_path / "kit2", "--runtime", "openvino") == 2
    assert "unknown runtime of a kit 'openvino'" in capsys.readouterr().err


def test_a_file_that_is_no_kit_needs_a_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "times.json").write_text("{}")
    assert run(["profile", "import", str(tmp_path / "times.json")]) == 2
    assert "expected --format for" in capsys.readouterr().err
    assert run(["profile", "import", str(tmp_path / "times.json"), "--format", "nn-meter"]) == 2
    assert "expected --name, got none" in capsys.readouterr().err


@needs_sshd
@pytest.mark.usefixtures("project")
def test_a_profile_of_a_machine_behind_ssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planning, "EVERY", 50)
    (tmp_path / "far").mkdir()
    with sshd(tmp_path / "far") as server:
        on_path(tmp_path / "programs", "ssh", f'#!/bin/sh\nexec /usr/bin/ssh -F {server.config} "$@"\n', monkeypatch)
        (tmp_path / "halves.yaml").write_text('rules: [{match: "*", minimum: 0.5, levels: 2}]\n')
        what = ["--model", f"{MODULE}:model", "--input", "1,1,16,16", "--space", str(tmp_path / "halves.yaml")]
        where = ["--device", f"ssh:{server.address}", "--output", str(tmp_path), "--name", "board"]
        assert run(["profile", "run", *what, *where, "--python", sys.executable, "--whole-models", "4"]) == 0
        profile = load_profile(tmp_path / "board")
        assert profile.header.provenance == "measured"
        assert profile.header.validation.models > 0
        assert not (tmp_path / "board.kit").exists()
        where[-1] = "other"
        assert run(["profile", "run", *what, *where, "--python", "/nowhere/python", "--whole-models", "4"]) == 1
        told = capsys.readouterr().err
        assert "expected '/nowhere/python' with the packages onnxruntime and numpy" in told
        assert "The same command again goes on where it was" in told
        assert (tmp_path / "other.kit").is_dir()

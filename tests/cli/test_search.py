"""A search through the command line, from the config to the exported file; interrupted and resumed as well."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from autoprune.cli.app import run
from tests.project import Project, make_project

MODULE = "user_project_searched"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, measured_profile: Path) -> Iterator[Project]:
    """A project whose search has run."""
    project = make_project(tmp_path_factory.mktemp("searched"), MODULE, measured_profile)
    path = list(sys.path)
    assert run(["search", str(project.config())]) == 0
    yield project
    sys.path[:] = path
    sys.modules.pop(MODULE, None)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints to stdout."""
    assert run(list(arguments)) == 0
    return capsys.readouterr().out


def test_the_front_as_a_table_and_as_json(finished: Project, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(finished.folder / "run")
    text = shown(capsys, "front", folder)
    assert "dense" in text
    data = json.loads(shown(capsys, "front", folder, "--json"))
    rows = data["members"]
    assert rows[0]["member"] == "dense"
    assert len(rows) >= 2
    for row in rows:
        assert row["accuracy"] <= 1.0
        assert row["latency_p50_us"] > 0
        assert row["params"] > 0
        assert row["member"] in text


def test_select_and_export(finished: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = str(finished.folder / "run")
    chosen = json.loads(shown(capsys, "select", folder, "--prefer", "params", "--json"))
    assert Path(chosen["folder"]).is_dir()
    assert chosen["member"] in shown(capsys, "select", folder, "--prefer", "params")
    files = json.loads(
        shown(capsys, "export", folder, str(tmp_path), "--member", chosen["member"], "--format", "onnx", "--json")
    )["files"]
    session = onnxruntime.InferenceSession(files["onnx"])
    for batch in (1, 5):
        (output,) = session.run(None, {session.get_inputs()[0].name: np.zeros((batch, 1, 16, 16), np.float32)})
        assert output.shape == (batch, 3)


def test_select_names_the_nearest_when_nothing_fits(finished: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["select", str(finished.folder / "run"), "--where", "latency_p50 <= 1ns"]) == 2
    assert "latency_p50" in capsys.readouterr().err
    assert run(["select", str(finished.folder / "run"), "--where", "latncy <= 1ns"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert run(["export", str(finished.folder / "run"), "x", "--format", "onxx", "--prefer", "params"]) == 2
    assert "onnx" in capsys.readouterr().err


def test_the_report_is_written_anew(finished: Project, capsys: pytest.CaptureFixture[str]) -> None:
    page = finished.folder / "run" / "report.html"
    page.unlink()
    assert shown(capsys, "report", str(finished.folder / "run")).strip() == str(page)
    assert page.stat().st_size > 10_000


def test_the_same_command_again_evaluates_nothing(finished: Project, capsys: pytest.CaptureFixture[str]) -> None:
    before = shown(capsys, "front", str(finished.folder / "run"), "--json")
    again = shown(capsys, "search", str(finished.config()), "--json")
    assert json.loads(again)["members"] == json.loads(before)["members"]


def test_the_next_command_that_a_search_names(finished: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["search", str(finished.config())]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("next: ")]
    status = run(shlex.split(line.removeprefix("next: autoprune ")))
    assert status in (0, 2)  # no member may be twice as fast
    assert "column" not in capsys.readouterr().err


def test_inspect_of_a_model_on_a_profile(finished: Project, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["inspect", "--model", f"{MODULE}:model", "--input", "1,1,16,16"]
    arguments += ["--profile", str(finished.folder / "profile")]
    text = shown(capsys, *arguments)
    assert re.search(r"^stem +channel +8 +[1-8] ", text, re.MULTILINE)
    assert re.search(r"^is an output of the model +2 .* head.weight\[0\]", text, re.MULTILINE)
    assert "head.weight[0] (3): is an output of the model" not in text
    assert "head.weight[0] (3): is an output of the model" in shown(capsys, *arguments, "--all")
    data = json.loads(shown(capsys, *arguments, "--json"))
    assert [group["id"] for group in data["groups"]] == ["stem", "conv"]
    assert data["space"] == "cnn"
    assert data["latency_p50_us"]["profile"]["dense"] > 0
    (finished.folder / "none.yaml").write_text("rules: [{freeze: true}]")
    assert run([*arguments, "--space", str(finished.folder / "none.yaml")]) == 2
    assert "expected at least one group to prune" in capsys.readouterr().err


def test_profile_show(finished: Project, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(finished.folder / "profile")
    assert "onnxruntime" in shown(capsys, "profile", "show", folder)
    assert json.loads(shown(capsys, "profile", "show", folder, "--json"))["kernels"] > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupted_and_started_again(tmp_path: Path, measured_profile: Path, finished: Project) -> None:
    """In a process of its own, then on in this one, beside a run that nobody interrupted."""
    search = {"trials": 60, "sampler": "random"}
    project = make_project(tmp_path, "user_project_interrupted", measured_profile)
    config = project.config(search=search)
    command = [sys.executable, "-m", "autoprune", "search", str(config), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        journal = tmp_path / "run" / "journal.log"
        deadline = time.monotonic() + 120
        while not (journal.is_file() and journal.stat().st_size > 3000):
            assert first.poll() is None, first.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=120)
    assert first.returncode == 130, errors
    assert errors.splitlines()[-1] == "stopped: interrupted; start the same command again to resume"
    assert "Traceback" not in errors
    straight = make_project(tmp_path / "straight", "user_project_straight", measured_profile)
    for path in (config, straight.config(search=search)):
        assert run(["search", str(path), "--json"]) == 0
    assert evaluated(tmp_path / "run") == evaluated(straight.folder / "run")


def evaluated(folder: Path) -> list[dict[str, str]]:
    """Every trial of a run, without how long it took."""
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    assert len({row["policy_id"] for row in rows}) == len(rows), "a policy was evaluated twice"
    return rows

"""`autoprune profile run|check|show|list` as they are called: measured for real, interrupted for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune import api
from autoprune.cli.app import run
from autoprune.demo import Network
from autoprune.hardware.profile import HardwareProfile, load_profile
from tests.hardware.samples import header, row

ROOT = Path(__file__).parents[2]
RUN = ["profile", "run", "--model", "autoprune.demo:Network", "--input", "1,1,28,28", "--whole-models", "2"]
RELU = "x0:(1,c0,4,4);y0:(1,c0,4,4)=relu.default(x0)"


def started(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "autoprune", *arguments], cwd=cwd, env=environment, stdout=-1, stderr=-1, text=True
    )


def test_a_run_that_is_interrupted_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    command = [*RUN, "--budget", "1s", "--name", "mine", "--output", "profiles", "--json"]
    journal = tmp_path / "profiles" / "mine.journal.jsonl"
    with started(*command, cwd=tmp_path) as first:
        while not journal.is_file() or journal.read_bytes().count(b"\n") < 2:
            assert first.poll() is None, first.communicate()
            time.sleep(0.01)
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=120)
    assert (first.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "stopped: interrupted; start the same command again to resume"
    assert not (tmp_path / "profiles" / "mine").exists()
    [session, base, *_] = journal.read_text().splitlines()
    with started(*command, cwd=tmp_path) as second:
        out, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert err.splitlines()[0] == "going on with profiles/mine.journal.jsonl"
    assert err.splitlines()[-1] == "written: profiles/mine"
    shown = json.loads(out)
    loaded = HardwareProfile.load(tmp_path / "profiles" / "mine")
    assert shown["kernels"] == len(loaded.kernels) > 0
    assert shown["protocol"]["empty_run_us"] > 0
    assert json.loads(base)["kind"] == "base"
    assert json.loads(session)["settings"]["whole_models"] == 2
    assert not journal.exists()


def measured(folder: Path, **fields: Any) -> Path:
    """A profile whose times are made up."""
    made = HardwareProfile(header(**fields), tuple(row(RELU, (width,), 1e5) for width in (4, 8, 16)))
    made.save(folder)
    return folder


def test_a_profile_that_does_not_hold_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(measured(tmp_path / "slow"))  # a tenth of a second for a few hundred numbers
    assert run(["profile", "check", folder, "--kernels", "2", "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["holds"], shown["kernels"], shown["within"]) == (False, 2, 0.0)
    assert shown["median_ratio"] < 0.5
    assert shown["differences"]["runtime version"]["profile"] == "1"
    assert run(["profile", "check", folder]) == 1
    text = capsys.readouterr().out
    assert "3 timed again" in text
    assert "does not hold: measure it anew" in text
    assert "runtime version: " in text


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"provenance": "analytical"}, "which is analytical: there is nothing to time again"),
        ({"device": {"name": "Pixel 4", "kind": "mobile"}}, "of a mobile (Pixel 4). Check it on that device"),
        ({"runtime": {"name": "abacus", "version": "1"}}, "unknown runtime 'abacus'"),
    ],
)
def test_profiles_that_cannot_be_checked_are_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], told: str
) -> None:
    assert run(["profile", "check", str(measured(tmp_path / "p", **fields))]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert told in shown.err
    assert shown.err.count("\n") == 1


def test_show_draws_a_picture_beside_its_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(measured(tmp_path / "p", threads=3))
    assert run(["profile", "show", folder, "--picture", str(tmp_path / "out.html"), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["threads"] == 3
    assert shown.err == f"written: {tmp_path / 'out.html'}\n"
    assert (tmp_path / "out.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_list_has_what_tells_profiles_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "list"]) == 0
    shown = capsys.readouterr().out
    for column in ("name", "device", "runtime", "precision", "threads", "batch", "provenance", "error"):
        assert column in shown
    assert "cpu-x86-onnxruntime-1t" in shown
    assert "analytical" in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--name", "taken"], "expected a new name, got 'taken'"),
        (["--name", "a/b"], "expected a name without slashes, got 'a/b'. Say where with --output"),
        (["--name", ".."], "expected a name without slashes"),
        (["--name", "x", "--runtime", "abacus"], "unknown runtime 'abacus'"),
        (["--name", "x", "--precision", "float8"], "float8"),
        (["--name", "x", "--device", "moon"], "unknown device 'moon'"),
        (["--device", "ssh:nobody@nowhere"], "expected --name beside --device ssh:nobody@nowhere"),
        (["--name", "x", "--device", "ssh:nobody@nowhere", "--budget", "1min"], "expected no budget_s"),
    ],
)
def test_runs_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    measured(tmp_path / "taken")
    assert run([*RUN, "--output", str(tmp_path), *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert told in shown.err
    assert shown.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_journal_of_other_settings_is_refused_with_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = tmp_path / "mine.journal.jsonl"
    api.profile_device(
        model=Network(), example_inputs=torch.zeros(1, 1, 28, 28), budget_s=0.0, whole_models=2, journal=journal
    )
    kept = journal.read_bytes()
    capsys.readouterr()
    command = [*RUN, "--output", str(tmp_path), "--name", "mine"]
    assert run([*command, "--threads", "2", "--precision", "float16"]) == 2
    told = capsys.readouterr().err
    assert "settings.precision float32, now float16; settings.threads 1, now 2." in told
    assert "remove the file to begin anew, or measure under another name" in told
    assert journal.read_bytes() == kept
    assert run([*command, "--budget", "0s"]) == 0  # the same settings: all of it is taken over
    assert load_profile(tmp_path / "mine").header.validation.models == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]

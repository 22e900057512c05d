"""A few of each of what `benchmarks/survival.py` does at length."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import survival_files, survival_kills, survival_nodes
from benchmarks.survival_part import Finding, Options

ROOT = Path(__file__).parents[1]


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(kills=3, seconds=0.05, rounds=4, workers=(2,), folder=tmp_path)


def missed(findings: list[Finding]) -> list[Finding]:
    assert findings
    return [finding for finding in findings if not finding.met]


def found(findings: list[Finding], what: str) -> object:
    return next(finding.value for finding in findings if finding.what == what)


@pytest.mark.slow
def test_whole_runs_whose_driver_is_killed(options: Options) -> None:
    findings = survival_kills.driver_kills(options)
    assert missed(findings) == []
    assert found(findings, "killed") == 3


def test_workers_that_are_killed(options: Options) -> None:
    findings = survival_kills.worker_kills(options)
    assert missed(findings) == []
    assert found(findings, "killed") == 3


@pytest.mark.ray
@pytest.mark.slow
def test_actors_that_are_killed(options: Options) -> None:
    findings = survival_kills.ray_kills(options)
    assert missed(findings) == []
    assert found(findings, "killed") == 3


@pytest.mark.ray
@pytest.mark.slow
def test_nodes_that_come_and_go(options: Options) -> None:
    findings = survival_nodes.nodes(options)
    assert missed(findings) == []
    assert found(findings, "nodes removed and added") == 6


def test_a_full_disk(options: Options) -> None:
    assert missed(survival_files.disk_full(options)) == []


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "benchmarks/survival.py", "--parts", "disk-full", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "disk-full: exit status 1: 3 (wanted: 3)" in done.stdout
    data = json.loads(out.read_text())
    assert data["met"]
    assert {row["part"] for row in data["findings"]} == {"disk-full"}

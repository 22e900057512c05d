"""A few of each of what `benchmarks/survival.py` does at length."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import survival_driver, survival_kills, survival_nodes
from benchmarks.survival_part import Finding, Options

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {"trials": 16, "finetune": {"members": 2, "epochs": 2}}


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(kills=2, seconds=0.05, rounds=4, workers=(2,), folder=tmp_path, changes=SMALL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[survival_nodes.Nodes]:
    """Of two nodes beside the driver's."""
    with survival_nodes.cluster(2, 2) as running:
        yield running


def missed(findings: list[Finding]) -> list[Finding]:
    assert findings
    return [finding for finding in findings if not finding.met]


def found(findings: list[Finding], what: str) -> object:
    return next(finding.value for finding in findings if finding.what == what)


@pytest.mark.slow
def test_whole_runs_whose_driver_is_killed(options: Options) -> None:
    begun = time.monotonic()
    expected = survival_driver.run(options.folder / "expected", {"workers": 1}, **SMALL)
    findings = survival_kills.driver_kills(options, 1, expected.run, time.monotonic() - begun)
    assert missed(findings) == []
    assert found(findings, "killed") == 2


def test_workers_that_are_killed(options: Options) -> None:
    findings = survival_kills.worker_kills(options)
    assert missed(findings) == []
    assert found(findings, "killed") == 2


@pytest.mark.ray
@pytest.mark.slow
class TestCluster:
    """One after the other, as each leaves as many nodes as it found."""

    def test_actors_that_are_killed(self, options: Options, cluster: survival_nodes.Nodes) -> None:
        findings = survival_kills.ray_kills(options, cluster.address)
        assert missed(findings) == []
        assert found(findings, "killed") == 2

    def test_nodes_that_come_and_go_during_a_search(self, options: Options, cluster: survival_nodes.Nodes) -> None:
        findings = survival_nodes.searching(options, cluster, 2)
        assert missed(findings) == []
        assert found(findings, "nodes removed and added") == 2

    def test_a_node_that_is_lost_during_fine_tuning(self, options: Options, cluster: survival_nodes.Nodes) -> None:
        assert missed(survival_nodes.finetuning(options, cluster)) == []


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    """Of a full disk, here."""
    out = tmp_path / "out.json"
    command = [sys.executable, "benchmarks/survival.py", "--parts", "disk-full", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "disk-full: exit status 1: 3 (wanted: 3)" in done.stdout
    data = json.loads(out.read_text())
    assert data["met"]
    assert {row["part"] for row in data["findings"]} == {"disk-full"}

"""Wrong input through the command line: status 2, one message that says what to do, no traceback, nothing lost."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprune.cli.app import run
from tests.project import Project, make_project

MODULE = "user_project_with_mistakes"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, measured_profile: Path) -> Iterator[Project]:
    """A project with a profile measured on this machine."""
    path = list(sys.path)
    yield make_project(tmp_path_factory.mktemp("project"), MODULE, measured_profile)
    sys.path[:] = path
    sys.modules.pop(MODULE, None)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    """A search that must be refused: its message. Before any work: the run folder is left without a run."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def search(**changes: Any) -> str:
        folder = Path(changes.setdefault("run", str(tmp_path / "run")))
        before = contents(folder)
        status = run(["search", str(project.config(**changes))])
        assert contents(folder) == before
        shown = capsys.readouterr()
        message = [line for line in shown.err.splitlines() if line.startswith("error: ")]
        assert status == 2, shown.err
        assert len(message) == 1, shown.err
        assert shown.out == ""
        assert "Traceback" not in shown.err
        return message[0]

    return search


def test_unknown_profile_lists_the_known(refused: Any) -> None:
    message = refused(profiles=["nokia-3310"])
    assert "unknown hardware profile 'nokia-3310'" in message
    assert "Known: " in message


def test_unknown_space_lists_the_known(refused: Any) -> None:
    message = refused(space="cn")
    assert "unknown search space 'cn'. Did you mean 'cnn'? Known: cnn" in message


def test_a_typo_in_the_config_names_the_nearest_key(refused: Any) -> None:
    assert "unknown key 'search.trails'. Did you mean 'trials'?" in refused(search={"trails": 10})


def test_unknown_sampler_criterion_and_executor_list_the_known(refused: Any) -> None:
    assert "Known: archive, nsga2, nsga3, random, surrogate, tpe" in refused(search={"trials": 8, "sampler": "nsga"})
    assert "Known: activation, bn_scale, fisher, fpgm, l1, l2, obs, random, taylor" in refused(criterion="l3")
    assert "Known: local, ray" in refused(executor={"kind": "slurm"})


def test_unknown_objective(refused: Any) -> None:
    assert "latency_p50" in refused(objectives=["error", "latency_p5"])


def test_a_model_that_export_refuses_says_where(refused: Any) -> None:
    message = refused(model="branching")
    assert f"{MODULE}.py:25 in forward" in message
    assert "control flow" in message


def test_a_model_in_which_nothing_can_be_pruned_says_why(refused: Any) -> None:
    message = refused(model="nothing_to_prune")
    assert "Nothing in this model can be pruned" in message
    assert "output of the model" in message


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("empty", "validation"),
        ("exhausted", "validation"),
        ("spent", "train"),
        ("not_a_number", "quality"),
        ("raising", "the scorer lost its tables"),
    ],
)
def test_a_task_that_cannot_judge(refused: Any, task: str, told: str) -> None:
    assert told in refused(task=task, objectives=None if task in ("empty", "exhausted", "spent") else ["quality"])


def test_a_constraint_nothing_meets_names_the_nearest_value(refused: Any) -> None:
    message = refused(constraints=["latency_p50 <= 1ns"])
    assert "latency_p50 <= 1ns" in message or "latency_p50" in message
    assert "nearest reachable" in message


def test_a_constraint_that_does_not_parse(refused: Any) -> None:
    assert "latency_p99" in refused(constraints=["latency_p99 less than 8ms"])
    assert "__import__" in refused(constraints=["__import__('os') <= 1"])


@pytest.mark.parametrize("damage", ["column", "number", "header", "schema", "gone"])
def test_a_damaged_profile(refused: Any, project: Project, tmp_path: Path, damage: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(project.folder / "profile", broken)
    kernels, header = broken / "kernels.csv", broken / "profile.json"
    lines = kernels.read_text().splitlines()
    names = lines[0].split(",")
    if damage == "column":
        lines[0] = lines[0].replace("p50_us", "p51_us")
        expected = ["kernels.csv", "p50_us"]
    elif damage == "number":
        cells = lines[1].rsplit(",", len(names) - 1 - names.index("p50_us"))
        cells[0] = cells[0].rpartition(",")[0] + ",fast"
        lines[1] = ",".join(cells)
        expected = ["kernels.csv", "p50_us", "fast", "2"]
    elif damage == "header":
        header.write_text("{")
        expected = ["profile.json", "expected JSON"]
    elif damage == "schema":
        header.write_text(header.read_text().replace("autoprune.profile/1", "autoprune.profile/9"))
        expected = ["profile.json", "autoprune.profile/9"]
    else:
        header.unlink()
        expected = ["profile.json"]
    kernels.write_text("\n".join(lines) + "\n")
    message = refused(profiles=[str(broken)])
    assert all(part in message for part in expected), message


def test_a_run_of_something_else_is_refused_and_left_alone(
    refused: Any, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["search", str(project.config())]) == 0
    capsys.readouterr()
    folder = str(project.folder / "run")
    assert "weights" in refused(run=folder, model="other_model")
    assert "data" in refused(run=folder, task="other_task")
    assert "objectives" in refused(run=folder, objectives=["error", "size"])
    assert "constraints" in refused(run=folder, constraints=["size <= 1MB"])
    assert "seed" in refused(run=folder, search={"trials": 8, "sampler": "random", "seed": 1})
    (project.folder / "halves.yaml").write_text('rules: [{match: "*", minimum: 0.5, levels: 2}]\n')
    assert "space" in refused(run=folder, space="halves.yaml")


def test_a_folder_that_is_no_run(refused: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for command in (["front"], ["select"], ["report"]):
        assert run([*command, str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_a_run_folder_that_cannot_be_written(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    message = refused(run=str(tmp_path / "file" / "run"))
    assert "run folder" in message
    assert str(tmp_path / "file") in message
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_folder_without_permission(refused: Any, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "run folder" in refused(run=str(locked / "run"))


def test_a_profile_that_exists_is_not_overwritten(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    before = contents(project.folder / "profile")
    where = ["--output", str(project.folder), "--name", "profile"]
    assert run(["profile", "run", "--model", f"{MODULE}:model", "--input", "1,1,16,16", *where]) == 2
    assert "expected a new name, got 'profile'" in capsys.readouterr().err
    assert contents(project.folder / "profile") == before

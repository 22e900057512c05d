"""The whole search through the public door: the same wherever it runs, the same again from disk, in another process."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import autoprune as ap
from tests.graph.models import SHAPE, trained

SEARCH: dict[str, Any] = {"trials": 24, "finetune": {"members": 3, "epochs": 1}, "seed": 3, "measure": False}
EXECUTORS: dict[str, dict[str, Any]] = {
    "one": {"kind": "local", "workers": 1},
    "two": {"kind": "local", "workers": 2},
    "ray": {"kind": "ray", "workers": 1},
}


def loader(n: int, seed: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 5
    images = torch.randn(n, *SHAPE, generator=generator) + 0.5 * labels.float().view(-1, 1, 1, 1)
    return DataLoader(TensorDataset(images, labels), batch_size=32)


def task() -> ap.Task:
    return ap.Task.classification(loader(160, 0), loader(160, 1), loader(64, 2))


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This machine, measured in a second or two for the network searched here."""
    measured = ap.profile_device(
        model=trained("Residual"), example_inputs=torch.zeros(1, *SHAPE), budget_s=1.0, whole_models=4, name="here"
    )
    folder = tmp_path_factory.mktemp("profile") / "here"
    measured.save(folder)
    return folder


@pytest.fixture(scope="module")
def fronts(profile: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ap.Front]:
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, executor in EXECUTORS.items():
        found[name] = ap.search(
            trained("Residual"), task(), profiles=[profile], executor=executor, run=folder / name, **SEARCH
        )
    return found


def evaluated(front: ap.Front) -> list[tuple[str, ...]]:
    """Trials of a run, their times left out."""
    with (front.run / "trials.csv").open(encoding="utf-8") as file:
        return [tuple(v for k, v in row.items() if k != "seconds") for row in csv.DictReader(file)]


def test_the_same_policies_and_front_wherever_it_runs(fronts: dict[str, ap.Front]) -> None:
    one, *others = fronts.values()
    assert len(evaluated(one)) >= SEARCH["trials"]
    for other in others:
        assert evaluated(other) == evaluated(one)
        assert (other.run / "front.csv").read_bytes() == (one.run / "front.csv").read_bytes()


def test_no_policy_is_evaluated_twice(fronts: dict[str, ap.Front]) -> None:
    with (fronts["one"].run / "trials.csv").open(encoding="utf-8") as file:
        policies = [row["policy_id"] for row in csv.DictReader(file)]
    assert len(set(policies)) == len(policies)


def test_started_again_nothing_is_done_anew(fronts: dict[str, ap.Front], profile: Path) -> None:
    run = fronts["one"].run
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and "members" in path.parts}
    again = ap.search(trained("Residual"), task(), profiles=[profile], executor=EXECUTORS["one"], run=run, **SEARCH)
    assert again.rows == fronts["one"].rows
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("stage", ["damage curves", "search policies", "fine-tune members", "publish members"])
def test_interrupted_at_any_stage_it_ends_with_the_same_front(
    stage: str, fronts: dict[str, ap.Front], profile: Path, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == stage and 2 * done >= total:
            raise KeyboardInterrupt

    given = (trained("Residual"), task())
    with pytest.raises(KeyboardInterrupt):
        ap.search(*given, profiles=[profile], run=tmp_path / "run", progress=stop, **SEARCH)
    again = ap.search(*given, profiles=[profile], run=tmp_path / "run", **SEARCH)
    assert evaluated(again) == evaluated(fronts["one"])
    assert (again.run / "front.csv").read_bytes() == (fronts["one"].run / "front.csv").read_bytes()


def test_more_trials_go_on_from_those_that_are_there(fronts: dict[str, ap.Front], profile: Path) -> None:
    wanted = {**SEARCH, "trials": 30}
    before = evaluated(fronts["two"])
    ap.search(
        trained("Residual"), task(), profiles=[profile], executor=EXECUTORS["two"], run=fronts["two"].run, **wanted
    )
    after = evaluated(ap.load_front(fronts["two"].run))
    assert after[: len(before)] == before
    assert len(after) >= 30


def test_rows_say_what_the_design_says(fronts: dict[str, ap.Front]) -> None:
    frame = fronts["one"].to_frame()
    wanted = {
        "member", "accuracy", "test_accuracy", "latency_p50_us", "latency_p90_us", "latency_p95_us", "latency_p99_us",
        "speedup", "params", "macs", "size_bytes", "peak_memory_bytes", "policy_id",
    }  # fmt: skip
    assert wanted <= set(frame.columns)
    assert frame["member"].iloc[0] == "dense"
    assert len(frame) >= 2


LOAD = """
import sys, numpy, torch
import autoprune as ap
front = ap.load_front(sys.argv[1])
x = torch.from_numpy(numpy.load(sys.argv[2]))
torch.set_num_threads(1)
numpy.save(sys.argv[3], numpy.stack([member.predict(x).numpy() for member in front]))
"""


def test_members_give_the_same_outputs_in_a_new_process(fronts: dict[str, ap.Front], tmp_path: Path) -> None:
    front = fronts["one"]
    x = torch.randn(7, *SHAPE, generator=torch.Generator().manual_seed(9))
    np.save(tmp_path / "x.npy", x.numpy())
    command = [sys.executable, "-c", LOAD, str(front.run), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run(command, check=True, timeout=120)
    for member, theirs in zip(front, np.load(tmp_path / "y.npy"), strict=True):
        mine = member.predict(x).detach().numpy()
        assert np.abs(mine - theirs).max() <= 1e-5
        session = onnxruntime.InferenceSession(member.folder / "model.onnx", providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for rows in (1, 7):
            (got,) = session.run(None, {name: x[:rows].numpy()})
            assert np.abs(got - mine[:rows]).max() <= 1e-4


def test_native_models_are_the_users_class(fronts: dict[str, ap.Front]) -> None:
    for member in fronts["one"]:
        assert type(member.native_model) is type(trained("Residual")), member.native_reason


def test_inspection_names_what_is_in_reach(profile: Path) -> None:
    found = ap.inspect(trained("Residual"), torch.zeros(1, *SHAPE), profiles=[profile])
    assert "faster" in found.summary()
    assert found.to_data()["groups"][0]["id"] == "stem"
    dense, least = found.latency_us["here"]
    assert 0 < least <= dense

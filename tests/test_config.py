"""`config.yaml`: defaults, paths, and every way it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.config import Config, load_config, resolve
from autoprune.core.errors import InputError
from autoprune.search.executors import ExecutorSettings

MINIMAL = "model: package.models:trained\ntask: package.data:task\nprofiles: [a-phone]\n"


def load(folder: Path, text: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    assert config.space == "auto"
    assert config.objectives == ("error", "latency_p50")
    assert config.constraints == ()
    assert (config.search.sampler, config.search.trials, config.search.time_budget_s) == ("surrogate", 200, None)
    assert (config.finetune.members, config.finetune.epochs, config.finetune.distill) == (8, 2, True)
    assert (config.executor.kind, config.executor.workers) == ("local", 1)
    assert config.run == str(tmp_path / "runs/config")


def test_everything_of_the_readme_is_accepted(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        MINIMAL
        + 'space: transformer\nobjectives: [error, latency_p50, size]\nconstraints: ["latency_p99 <= 8ms"]\n'
        + "search: {sampler: tpe, trials: 20, time_budget: 30min, seed: 3, plateau: 9, damage_points: 2}\n"
        + "finetune: {members: 8, epochs: 2, distill: false}\n"
        + "executor: {kind: ray, address: auto, workers: 16, gpus_per_worker: 0.5}\nrun: runs/resnet\n",
    )
    assert config.search.time_budget_s == 1800.0
    assert (config.search.plateau, config.search.damage_points) == (9, 2)
    assert config.executor.gpus_per_worker == 0.5
    assert ExecutorSettings(**config.executor.model_dump()).kind == "ray"
    assert config.run == str(tmp_path / "runs/resnet")


def test_paths_are_relative_to_the_config(tmp_path: Path) -> None:
    (tmp_path / "phone").mkdir()
    (tmp_path / "a-phone").mkdir()
    config = load(
        tmp_path,
        "model: nets/dense.pt2\ntask: data:task\nprofiles: [phone, ../other, cpu-x86, /opt/p]\nspace: my.yaml\n",
    )
    assert config.model == str(tmp_path / "nets/dense.pt2")
    assert config.task == "data:task"
    assert config.profiles == (str(tmp_path / "phone"), str(tmp_path / "../other"), "cpu-x86", "/opt/p")
    assert config.space == str(tmp_path / "my.yaml")


def test_a_name_stays_a_name(tmp_path: Path) -> None:
    assert resolve("cnn", tmp_path) == "cnn"
    assert resolve("./cnn", tmp_path) == str(tmp_path / "cnn")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MINIMAL + "search: {trails: 5}\n", "unknown key 'search.trails'. Did you mean 'trials'?"),
        (MINIMAL + "objective: [error]\n", "unknown key 'objective'. Did you mean 'objectives'?"),
        (MINIMAL + "executor: {wrkers: 2}\n", "unknown key 'executor.wrkers'. Did you mean 'workers'?"),
        ("task: a:b\nprofiles: [x]\n", "the key 'model' is missing"),
        ("model: a:b\ntask: a:b\nprofiles: []\n", "profiles"),
        (MINIMAL + "search: {trials: 0}\n", "search.trials"),
        (MINIMAL + "search: {plateau: 0}\n", "search.plateau"),
        (MINIMAL + "search: {damage_points: -1}\n", "search.damage_points"),
        (MINIMAL + "search: {trials: 5.5}\n", "search.trials"),
        (MINIMAL + "search: {trials: true}\n", "search.trials"),
        (MINIMAL + "search: {time_budget: soon}\n", "search.time_budget: expected a time"),
        (MINIMAL + "search: {time_budget: 0s}\n", "search.time_budget"),
        (MINIMAL + "search: {time_budget: .nan}\n", "search.time_budget"),
        (MINIMAL + "finetune: {lr: .inf}\n", "finetune.lr"),
        (MINIMAL + "finetune: [1]\n", "finetune"),
        ("- a\n- b\n", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: [1\n", "expected YAML, got a problem at line"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("a: !!python/object/apply:os.system [ls]\n", "expected YAML"),
        (MINIMAL + "model: again:twice\n", "stands twice"),
        ("a: " + "[" * 200 + "]" * 200, "nested deeper"),
        ("a: '" + "x" * 300_000 + "'", "bytes"),
    ],
)
def test_wrong_configs(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert told in str(caught.value)
    assert str(tmp_path / "config.yaml") in str(caught.value)


def test_unreadable_configs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read config"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        load_config(tmp_path / "binary.yaml")

"""What a search's evaluator is made of, and what the run says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.artifacts.bundle import write_run
from autoprune.artifacts.layout import RUN
from autoprune.artifacts.records import RunRecord
from autoprune.cli.start import search_with
from autoprune.config import load_config
from autoprune.core.errors import InputError
from autoprune.graph import trace
from autoprune.pipeline.evaluator import add_notes, evaluation_dtype, make_evaluator
from autoprune.pipeline.problem import SearchSettings
from autoprune.pruning.pruner import Pruner
from autoprune.search.evaluation import Evaluation
from autoprune.search.objectives import parse_objectives
from autoprune.search.space import SearchSpace
from autoprune.tuning.optimizer import autocast_dtype
from autoprune.tuning.task import Task
from tests.search.models import SPACE, Net, example, small_graph, small_task


def problem(task: Task | None = None, objectives: tuple[str, ...] = ("error", "macs"), **changes: Any) -> Any:
    torch.set_num_threads(1)
    graph, task = small_graph(), task or small_task(256)
    torch.manual_seed(0)
    model = Net().eval()
    known: dict[str, Any] = {
        "model": model,
        "task": task,
        "graph": graph,
        "space": SearchSpace.load(SPACE, graph),
        "objectives": parse_objectives(objectives, (task.quality, *task.metrics), []),
        "dense_metrics": task.evaluate(model),
        "noise": {},
    }
    return SimpleNamespace(**{**known, **changes})


def settings(**changes: Any) -> SearchSettings:
    return SearchSettings(**changes)


def test_accuracy_races_without_a_word() -> None:
    evaluator, notes = make_evaluator(problem(), settings())
    assert notes == ()
    assert evaluator.rules is not None
    assert (evaluator.rules.kind, evaluator.rules.total) == ("counts", 256)
    assert make_evaluator(problem(), settings(racing=False))[0].rules is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objectives": ("accuracy", "macs")}, "it needs the objective 'error' and no other that is evaluated"),
        ({"noise": {"accuracy": 0.01}}, "'accuracy' is not the same twice"),
        ({"task": small_task(16)}, "the validation split has only 16 samples"),
    ],
)
def test_why_it_does_not_race(changes: dict[str, Any], reason: str) -> None:
    evaluator, notes = make_evaluator(problem(**changes), settings())
    assert evaluator.rules is None
    assert len(notes) == 1
    assert notes[0].startswith("racing is off, so every policy is judged on the whole validation split: ")
    assert reason in notes[0]


def test_the_loss_of_the_task_is_what_gradients_are_of() -> None:
    """Train batches have labels: taylor by the task's loss, not by how the outputs change."""
    posed = problem()
    evaluator, _ = make_evaluator(posed, settings(criterion="taylor"))
    batches = posed.task.calibration_batches()
    labels = [batch[1] for batch in posed.task.train]

    def loss(outputs: Any, position: int) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, labels[position])

    expected = Pruner(posed.graph, "taylor", batches, loss=loss)
    without = Pruner(posed.graph, "taylor", batches)
    orders = {name: order.order.tolist() for name, order in evaluator.pruner.orders.items()}
    assert orders == {name: order.order.tolist() for name, order in expected.orders.items()}
    assert orders != {name: order.order.tolist() for name, order in without.orders.items()}
    unlabelled = replace(posed.task, calibration=[batch[0] for batch in posed.task.train])
    assert unlabelled.calibration_data().loss is None
    assert make_evaluator(problem(unlabelled), settings(criterion="taylor"))[0].pruner.orders.keys() == orders.keys()


class HalfNormed(nn.Module):
    """One group has a batch norm, the other has none."""

    def __init__(self) -> None:
        super().__init__()
        self.normed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.plain = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.plain(self.normed(x)))


def test_what_the_pruner_says_is_in_the_run(tmp_path: Path) -> None:
    graph = trace(HalfNormed().eval(), example())
    posed = problem(graph=graph, space=SearchSpace.load(SPACE, graph))
    evaluator, notes = make_evaluator(posed, settings(criterion="bn_scale"))
    assert evaluator.pruner.notes
    assert notes == evaluator.pruner.notes
    write_run(tmp_path, posed.graph, RunRecord(notes=("said before",)))
    add_notes(tmp_path, notes)
    add_notes(tmp_path, notes)
    assert RunRecord.read(tmp_path / RUN).notes == ("said before", *notes)


def test_precision_is_decided_by_what_the_device_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    posed = problem()
    assert evaluation_dtype(posed, "float32") == (None, ())
    able = autocast_dtype("auto", torch.device("cpu")) is not None
    assert (evaluation_dtype(posed, "auto")[0] is torch.bfloat16) == able
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    dtype, notes = evaluation_dtype(posed, "auto")
    assert dtype is None
    assert notes == ("candidates are judged in float32: cpu here does not compute in bfloat16",)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})
    assert evaluation_dtype(posed, "auto") == (torch.bfloat16, ("candidates are judged in bfloat16",))
    other = problem(dense_metrics={"accuracy": 0.9999})
    dtype, notes = evaluation_dtype(other, "auto")
    assert dtype is None
    assert "bfloat16 changes 'accuracy' of the dense model from 0.9999 to" in notes[0]
    assert evaluation_dtype(other, "bfloat16")[0] is torch.bfloat16


def test_judged_in_bfloat16() -> None:
    posed = problem()
    evaluator, _ = make_evaluator(posed, settings(precision="bfloat16"))
    seen: list[tuple[torch.dtype, bool]] = []

    def metric(model: nn.Module, batches: Any) -> float:
        for images, _ in batches:
            seen.append((model(images).dtype, next(model.parameters()).is_contiguous()))
        return 0.5

    evaluator.task = replace(posed.task, metrics={"accuracy": metric})
    found = evaluator.evaluate(posed.space.policy(posed.space.uniform(0.5)))
    assert isinstance(found, Evaluation)
    assert seen[0] == (torch.bfloat16, False)


def test_the_config_says_whether_it_races_and_in_what_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    text = "model: m:m\ntask: m:t\nprofiles: [cpu-x86-onnxruntime-1t]\n"
    asked: dict[str, Any] = {}
    monkeypatch.setattr("autoprune.api.search", lambda *given, **named: asked.update(named))
    for loaded in ("load_model", "load_task"):
        monkeypatch.setattr(f"autoprune.cli.start.{loaded}", lambda name, folder: name)
    path.write_text(text)
    search_with(load_config(path), tmp_path)
    assert (asked["racing"], asked["precision"]) == (True, "float32")
    path.write_text(text + "search: {racing: false, precision: auto}\n")
    search_with(load_config(path), tmp_path)
    assert (asked["racing"], asked["precision"]) == (False, "auto")
    path.write_text(text + "search: {racing: maybe}\n")
    with pytest.raises(InputError, match=r"search\.racing"):
        load_config(path)


def test_an_unknown_precision() -> None:
    with pytest.raises(InputError, match=r"unknown precision 'bf16'.*Known: auto, bfloat16, float32"):
        settings(precision="bf16")

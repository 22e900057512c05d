"""A user's own fine-tuning: what it is given, what it may return, and what becomes of its mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autoprune.core.errors import Failure, InputError
from autoprune.tuning import FinetuneResult, FinetuneSettings, Task
from autoprune.tuning.custom import check_trainer, finetune_by, trainer_name
from tests.tuning.problems import network, same, state_of, task

SETTINGS = FinetuneSettings(epochs=2, seed=5)


def descend(model: nn.Module, task: Task, settings: FinetuneSettings, teacher: nn.Module | None) -> None:
    """In place, a few passes of plain descent."""
    assert task.loss is not None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(4 * settings.epochs):
        for batch in task.train:
            optimizer.zero_grad()
            task.loss(model(batch[0]), batch).backward()
            optimizer.step()


def descend_a_copy(model: nn.Module, task: Task, settings: FinetuneSettings, teacher: nn.Module | None) -> nn.Module:
    copy = network()
    copy.load_state_dict(model.state_dict())
    descend(copy, task, settings, teacher)
    return copy


def spoil(model: nn.Module, task: Task, settings: FinetuneSettings, teacher: nn.Module | None) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.0)


def break_down(model: nn.Module, *_: Any) -> None:
    spoil(model, *_)
    raise RuntimeError("the scheduler ran away")


def burst(model: nn.Module, *_: Any) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("inf"))


def give_another(model: nn.Module, *_: Any) -> nn.Module:
    return nn.Linear(3, 3)


def give_metrics(model: nn.Module, *_: Any) -> Any:
    return {"accuracy": 1.0}


@pytest.mark.parametrize("function", [descend, descend_a_copy])
def test_it_trains_in_place_or_returns_the_model(function: Any) -> None:
    model, judged = network(), task()
    before = judged.evaluate(model)
    result = finetune_by(function, model, judged, SETTINGS, None)
    assert isinstance(result, FinetuneResult)
    assert result.metrics["accuracy"] > before["accuracy"] + 0.05
    assert judged.evaluate(model) == result.metrics
    assert [epoch.metrics for epoch in result.history] == [before, result.metrics]
    assert not model.training


def test_the_same_again_wherever_the_generators_stand() -> None:
    first, second = network(), network()
    judged = task()
    finetune_by(descend, first, judged, SETTINGS, None)
    torch.manual_seed(99)
    finetune_by(descend, second, judged, SETTINGS, None)
    assert same(state_of(first), state_of(second))


def test_it_is_given_model_task_settings_and_teacher() -> None:
    given: list[Any] = []
    model, teacher, judged = network(), network(1), task()
    finetune_by(lambda *arguments: given.extend(arguments), model, judged, SETTINGS, teacher)
    assert given[0] is model
    assert given[1] is judged
    assert given[2] is SETTINGS
    assert given[3] is teacher


def test_a_model_left_worse_is_as_it_was() -> None:
    model, judged = network(), task()
    finetune_by(descend, model, judged, SETTINGS, None)
    before = state_of(model)
    result = finetune_by(spoil, model, judged, SETTINGS, None)
    assert isinstance(result, FinetuneResult)
    assert result.best_epoch == 0
    assert result.metrics == result.history[0].metrics
    assert "left the model worse on validation" in result.notes[0]
    assert same(state_of(model), before)


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (break_down, "finetune", r"break_down raised RuntimeError: the scheduler ran away \(at .*test_custom.py:"),
        (give_metrics, "finetune", "expected it to return the model or None, got dict"),
        (
            give_another,
            "finetune",
            r"expected a model of the same tensors, got '0.bias' of shape None instead of \(4,\)",
        ),
        (burst, "diverged", "burst left '0.weight' not finite"),
    ],
)
def test_mistakes_are_failures_and_the_model_is_as_it_was(function: Any, kind: str, message: str) -> None:
    model = network()
    before = state_of(model)
    result = finetune_by(function, model, task(), SETTINGS, None)
    assert isinstance(result, Failure)
    assert result.kind == kind
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(str(result))
    assert same(state_of(model), before)


def test_what_is_no_such_function_is_refused() -> None:
    assert check_trainer(descend, portable=True) is descend
    assert trainer_name(descend) == "tests.tuning.test_custom:descend"
    with pytest.raises(InputError, match=r"finetune: expected a function \(model, task, settings, teacher\), got 3"):
        check_trainer(3, portable=False)
    with pytest.raises(InputError, match=r"<lambda> to take \(model, task, settings, teacher\): too many positional"):
        check_trainer(lambda model: None, portable=False)
    with pytest.raises(InputError, match=r"cannot be sent to worker processes .* Define it at the top level"):
        check_trainer(lambda *arguments: None, portable=True)

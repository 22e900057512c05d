"""Fine-tuning what pruning makes: a traced, sliced module, here and in a worker process."""

from __future__ import annotations

import multiprocessing
from collections import OrderedDict

import pytest
import torch
from torch import nn

from autoprune.graph import trace
from autoprune.tuning import FinetuneResult, FinetuneSettings, finetune
from tests.tuning.problems import CLASSES, same, state_of, task

SETTINGS = FinetuneSettings(epochs=2, mixed_precision="off")


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(1, 8, 3, padding=1),
            norm=nn.BatchNorm2d(8),
            act=nn.ReLU(),
            second=nn.Conv2d(8, 8, 3, padding=1),
            flat=nn.Flatten(),
            drop=nn.Dropout(0.2),
            head=nn.Linear(8 * 36, CLASSES),
        )
    ).eval()


def tune_in_worker(module: nn.Module) -> tuple[dict[str, torch.Tensor], FinetuneResult]:
    torch.set_num_threads(1)
    result = finetune(module, task(), SETTINGS)
    assert isinstance(result, FinetuneResult)
    return state_of(module), result


@pytest.mark.parametrize("precision", ["off", "bf16"])
def test_a_sliced_module_learns_from_the_dense_one(precision: str) -> None:
    model = dense()
    graph = trace(model, torch.zeros(2, 1, 6, 6))
    before = state_of(model)
    small = graph.module(graph.uniform(0.5))
    settings = SETTINGS.model_copy(update={"epochs": 6, "mixed_precision": precision})
    result = finetune(small, task(), settings, teacher=model)
    assert isinstance(result, FinetuneResult)
    assert result.distilled
    assert result.metrics["accuracy"] >= result.history[0].metrics["accuracy"]
    assert small.widths == {name: group.size // 2 for name, group in graph.groups.items()}
    assert same(state_of(model), before)
    assert all(tensor.is_contiguous() for tensor in small.state_dict().values())


def test_a_worker_process_gives_the_same_weights() -> None:
    graph = trace(dense(), torch.zeros(2, 1, 6, 6))
    here = graph.module(graph.uniform(0.5)).clone_tensors()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there, result = pool.apply(tune_in_worker, (here,))
    expected = finetune(here, task(), SETTINGS)
    assert isinstance(expected, FinetuneResult)
    assert same(state_of(here), there)
    assert result.metrics == expected.metrics

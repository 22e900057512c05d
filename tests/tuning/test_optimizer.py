"""Settings, learning rates and precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from autoprune.tuning import FinetuneSettings
from autoprune.tuning.optimizer import autocast_dtype, build_optimizer, peak_rate, rate
from tests.tuning.problems import network


@given(st.integers(1, 60), st.sampled_from(["cosine", "onecycle"]), st.floats(0.0, 1.0), st.floats(1e-6, 10.0))
def test_rates_rise_to_the_peak_and_fall(total: int, schedule: str, warmup: float, peak: float) -> None:
    settings = FinetuneSettings.model_validate({"schedule": schedule, "warmup": warmup})
    rates = [rate(step, total, peak, settings) for step in range(total)]
    top = rates.index(max(rates))
    assert all(0.0 < value <= peak * (1 + 1e-9) for value in rates)
    assert max(rates) == pytest.approx(peak)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_last_steps_are_small() -> None:
    for schedule in ("cosine", "onecycle"):
        settings = FinetuneSettings.model_validate({"schedule": schedule})
        assert rate(999, 1000, 1.0, settings) < 1e-3


def test_default_rates_follow_the_model() -> None:
    transformer = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    assert peak_rate(FinetuneSettings(), network()) > peak_rate(FinetuneSettings(), transformer)
    assert peak_rate(FinetuneSettings(optimizer="sgd"), network()) > peak_rate(FinetuneSettings(), network())
    assert peak_rate(FinetuneSettings(), nn.Linear(4, 4)) < peak_rate(FinetuneSettings(), network())
    assert peak_rate(FinetuneSettings(lr=0.5), transformer) == 0.5


def test_vectors_are_not_decayed_and_frozen_parameters_left_out() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = build_optimizer(model, FinetuneSettings(weight_decay=0.1), 1e-3)
    decayed, plain = optimizer.param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 144)]
    assert [tuple(p.shape) for p in plain["params"]] == [(4,), (4,), (3,)]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert FinetuneSettings().decay == 1e-2
    assert FinetuneSettings(optimizer="sgd").decay == 5e-4


def test_precision() -> None:
    cpu = torch.device("cpu")
    able = torch.cpu.get_capabilities()
    expected = torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else None
    assert autocast_dtype("auto", cpu) is expected
    assert autocast_dtype("off", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16
    assert autocast_dtype("auto", torch.device("meta")) is None


def test_settings_know_themselves() -> None:
    assert FinetuneSettings().id == FinetuneSettings(epochs=2).id
    assert FinetuneSettings().id != FinetuneSettings(epochs=3).id
    with pytest.raises(ValidationError):
        FinetuneSettings().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"lr": 0},
        {"lr": float("inf")},
        {"optimizer": "lion"},
        {"alpha": 1.1},
        {"temperature": 0},
        {"max_batches": 0},
        {"mixed_precision": "fp8"},
        {"epoch": 3},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FinetuneSettings.model_validate(wrong)

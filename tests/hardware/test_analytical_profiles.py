"""The analytical profiles that ship: they say what they are, load, and predict what they promise."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.graph import DependencyGraph, trace
from autoprune.graph.kernel import Kernel
from autoprune.hardware.analytical_estimate import Estimator
from autoprune.hardware.analytical_shapes import Shape, Shapes
from autoprune.hardware.latency import LatencyTable
from autoprune.hardware.profile import HardwareProfile, header_data, list_profiles, load_profile
from tests.hardware.samples import graph_of, header


class Attention(nn.Module):
    """One encoder block with a classifier, as vision transformers have it."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norm, self.mlp_norm = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        x = x + self.down(nn.functional.gelu(self.up(self.mlp_norm(x))))
        y: Tensor = self.head(x.mean(1))
        return y


@functools.cache
def graph(name: str) -> DependencyGraph:
    return trace(Attention().eval(), torch.zeros(2, 49, 64)) if name == "Attention" else graph_of(name)


NAMES = [found["name"] for found in list_profiles() if found["provenance"] == "analytical"]
DEVICES = (
    "V100",
    "T4",
    "A100",
    "H100",
    "L4",
    "Jetson Orin Nano",
    "Pixel 4",
    "Galaxy S10",
    "iPhone 7",
    "Raspberry Pi 5",
)


def test_every_device_is_there() -> None:
    devices = [load_profile(name).header.device.name for name in NAMES]
    assert all(any(wanted in device for device in devices) for wanted in DEVICES)
    assert len(NAMES) == 11


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_and_how_wrong(name: str) -> None:
    profile = load_profile(name)
    header = profile.header
    assert header.description.startswith("Analytical, not measured by autoprune")
    assert {"specification", "source"} <= header.environment.keys()
    assert all(row.provenance == "analytical" and row.n == 0 for row in profile.kernels)
    residual = header.validation.residuals["p50"]
    assert 0.01 < residual.mean_absolute < 0.5
    assert residual.low < 0 < residual.high
    assert any(note.startswith("errors are those of") for note in header.validation.notes)


@pytest.mark.parametrize("name", NAMES)
def test_its_rows_are_what_its_model_says(name: str) -> None:
    profile = load_profile(name)
    assert profile.header.analytical is not None
    estimator = Estimator(profile.header.analytical)
    for row in profile.kernels:
        shape = Shape.of(Kernel(row.family, row.sizes))
        assert (shape.operator, shape.flops, shape.bytes) == (row.operator, row.flops, row.bytes)
        [time_us] = estimator.estimate_us(row.operator, Shapes.of([shape]))
        assert row.p50_us == pytest.approx(time_us, abs=6e-4)
    assert {"conv", "pointwise", "depthwise", "linear", "matmul"} <= {row.operator for row in profile.kernels}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["Residual", "Depthwise", "Attention"])
def test_it_predicts_models(name: str, model: str) -> None:
    table = LatencyTable(load_profile(name), graph(model))
    dense = np.array([[group.size for group in graph(model).groups.values()]])
    half = np.maximum(dense // 2, 1)
    times = table.latency_us(np.concatenate([dense, half]))
    assert np.isfinite(times["p50"]).all()
    assert times["p50"][0] > times["p50"][1] * 0.9
    assert (times["p99"] >= times["p50"]).all()
    low, high = table.interval_us(dense)["p50"]
    assert low[0] < times["p50"][0] < high[0]


def test_faster_devices_are_faster() -> None:
    def total(name: str) -> float:
        return sum(row.p50_us for row in load_profile(name).kernels)

    assert total("gpu-h100-pytorch") < total("gpu-a100-pytorch") < total("gpu-v100-pytorch") < total("gpu-t4-pytorch")
    assert total("mobile-pixel4-gpu-tflite") < total("mobile-pixel4-cpu-tflite-1t")
    assert total("mobile-pixel4-cpu-tflite-1t") < total("cpu-raspberry-pi-5-tflite-1t")


def test_a_profile_without_a_model_keeps_its_identity() -> None:
    assert "analytical" not in header_data(header())
    profile = load_profile(NAMES[0])
    bare = HardwareProfile(profile.header.model_copy(update={"analytical": None}), profile.kernels)
    assert bare.id != profile.id


@pytest.mark.parametrize("name", NAMES)
def test_the_path_of_a_traced_kernel_is_that_of_its_key(name: str) -> None:
    model = load_profile(name).header.analytical
    assert model is not None
    estimator = Estimator(model)
    table = LatencyTable(load_profile(name), graph("Residual"))
    for slot in table.slots:
        kernel = slot.kernel({})
        shape = Shape.of(kernel)
        sizes = np.array([kernel.sizes], dtype=np.int64).reshape(1, -1)
        found = estimator.slot_us(slot, 1, sizes, np.array([shape.flops]), np.array([shape.bytes]))
        assert found == pytest.approx(estimator.estimate_us(slot.operator, Shapes.of([shape])))

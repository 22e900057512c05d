"""The contract of a runtime, run against every registered one, and of the local device."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.graph import trace
from autoprune.hardware.devices import DEVICES
from autoprune.hardware.devices import local as local_module
from autoprune.hardware.profile import RuntimeInfo
from autoprune.hardware.runtimes import RUNTIMES, Runner, RunSettings
from autoprune.hardware.runtimes.contract import check_runtime
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.onnxruntime import OnnxRuntime


def small_model() -> Model:
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(2, 3, 6, 6))
    return Model.of_program(graph.program, {})


@pytest.mark.parametrize("name", ["onnxruntime"])
def test_contract(name: str) -> None:
    check_runtime(name, RUNTIMES.get(name)())


@pytest.mark.parametrize(
    ("fault", "message"),
    [("name", "expected the name 'onnxruntime'"), ("count", "expected 7 times"), ("refusal", "expected a Failure")],
)
def test_contract_says_what_is_broken(fault: str, message: str) -> None:
    class Short:
        def run_us(self, count: int) -> np.ndarray:
            return np.ones(count - 1)

    class Broken(OnnxRuntime):
        def describe(self, settings: RunSettings) -> RuntimeInfo:
            return RuntimeInfo(name="other", version="1") if fault == "name" else super().describe(settings)

        def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
            if fault == "count":
                return Short()
            return super().compile(small_model() if fault == "refusal" else model, settings)

    with pytest.raises(AssertionError, match=message):
        check_runtime("onnxruntime", Broken())


def test_a_model_that_does_not_run_is_refused() -> None:
    model = onnx.load_model_from_string(small_model().onnx())
    model.graph.node[0].op_type = "NoSuchOperator"
    runner = RUNTIMES.get("onnxruntime")().compile(Model.of_onnx(model.SerializeToString()), RunSettings())
    assert isinstance(runner, Failure)


def test_integer_inputs_are_filled() -> None:
    graph = trace(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)), torch.tensor([[1, 2]]))
    runner = RUNTIMES.get("onnxruntime")().compile(Model.of_program(graph.program, {}), RunSettings())
    assert not isinstance(runner, Failure)


def test_unknown_runtime_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown runtime 'onxruntime'. Did you mean 'onnxruntime'\?"):
        RUNTIMES.get("onxruntime")


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(AutopruneError, match="pip install onnxruntime"):
        RUNTIMES.get("onnxruntime")().describe(RunSettings())


def test_local_device() -> None:
    device = DEVICES.get("local")()
    described = device.describe()
    assert described.kind == "cpu"
    assert described.cores >= 1
    assert described.name
    assert device.environment()["python"]


def test_cpu_information_of_an_x86_and_an_arm(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    x86 = {"flags": "fpu avx2 avx512f sse", "model name": "Some CPU"}
    monkeypatch.setattr(local_module, "_cpu_info", lambda: x86)
    described = local_module.LocalDevice().describe()
    assert described.features == ("avx2", "avx512f")
    assert described.processor == "Some CPU"
    monkeypatch.setattr(local_module, "_cpu_info", lambda: {"Features": "fp asimd"})
    assert local_module.LocalDevice().describe().features == ("asimd",)

"""The contract of a runtime, run against every registered one, and of the local device."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from autoprune.hardware.runtimes import RUNTIMES, ComparableRunner, Floats, Runner, RunSettings, Runtime
from autoprune.hardware.runtimes import openvino as openvino_module
from autoprune.hardware.runtimes.contract import check_runtime, models
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.onnxruntime import OnnxRuntime
from autoprune.hardware.runtimes.torch_runner import arrays_of

NEEDS = {"openvino": "openvino", "executorch": "executorch"}  # runtime -> the optional package it is
COMPILED = ("executorch", "torch-compile")  # seconds a model


def small_model() -> Model:
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(2, 3, 6, 6))
    return Model.of_program(graph.program, {})


def made(name: str) -> Runtime:
    """The runtime, where what it needs is here."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{name}'s package is not installed")
    if name == "tensorrt" and shutil.which("trtexec") is None:
        pytest.skip("TensorRT's program trtexec is not on the PATH")
    if name == "torch-compile" and not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler")
    return RUNTIMES.get(name)()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in COMPILED)) for name in RUNTIMES.names()]
)
def test_contract(name: str) -> None:
    check_runtime(name, made(name), device="cuda" if name == "tensorrt" else "cpu")


class Spoilt:
    """ONNX Runtime with one answer changed.

    Args:
        method: of which.
        change: of the answer; it is given the settings as well.
    """

    def __init__(self, method: str, change: Callable[[Any, RunSettings], Any]) -> None:
        self._real, self._method, self._change = OnnxRuntime(), method, change

    def _spoilt(self, method: str, answer: Any, settings: RunSettings) -> Any:
        return self._change(answer, settings) if method == self._method else answer

    def describe(self, settings: RunSettings) -> RuntimeInfo:
        return self._spoilt("describe", self._real.describe(settings), settings)

    def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
        return self._spoilt("compile", self._real.compile(model, settings), settings)

    def node_us(self, model: Model, settings: RunSettings, runs: int) -> Mapping[str, Floats] | Failure:
        return self._spoilt("node_us", self._real.node_us(model, settings, runs), settings)


@dataclass(frozen=True)
class Changed:
    """A runner with its times or its outputs changed."""

    real: Any
    times: Callable[[Floats], Floats] = lambda times: times
    arrays: Callable[[Any], Any] = lambda arrays: arrays

    def run_us(self, count: int) -> Floats:
        return self.times(self.real.run_us(count))

    def outputs(self) -> Any:
        return self.arrays(self.real.outputs())


class Mute:
    def run_us(self, count: int) -> Floats:
        return np.ones(count)


def every(change: Callable[[Any], Any]) -> Callable[[Any, RunSettings], Any]:
    """A change of answers that are no failures."""
    return lambda answer, settings: answer if isinstance(answer, Failure) else change(answer)


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("describe", every(lambda info: info.model_copy(update={"name": "other"})), "expected the name 'onnxruntime'"),
        ("describe", every(lambda info: info.model_copy(update={"version": ""})), "expected a version"),
        ("describe", every(lambda info: info.model_copy(update={"flags": {}})), "expected the flag 'precision'"),
        (
            "compile",
            lambda answer, _: Failure("compile", "no"),
            "runner for one convolution, got compile: no",
        ),
        ("compile", every(lambda real: Changed(real, times=lambda t: t[1:])), "expected 7 times, got shape (6,)"),
        ("compile", every(lambda real: Changed(real, times=lambda t: t.astype(np.float32))), "expected float64"),
        ("compile", every(lambda real: Changed(real, times=lambda t: -t)), "expected times above zero"),
        ("compile", every(lambda _: Mute()), "expected a runner that shows its outputs"),
        (
            "compile",
            every(lambda real: Changed(real, arrays=lambda a: a * 2)),
            "those of one convolution, got shapes",
        ),
        ("compile", every(lambda real: Changed(real, arrays=lambda a: (1.5 * a[0],))), "one convolution within 0.001"),
        ("node_us", lambda answer, _: Failure("run", "no"), "kind 'unsupported', got run: no"),
        ("node_us", every(lambda found: {**found, "strange": found[""]}), "['strange']"),
        ("node_us", every(lambda found: {name: own[1:] for name, own in found.items()}), "expected 20 times of"),
        ("node_us", every(lambda found: {name: own - 1e6 for name, own in found.items()}), "no times below zero"),
        (
            "node_us",
            every(lambda found: {name: 50 * own for name, own in found.items()}),
            "half to twice a run",
        ),
        ("compile", lambda answer, _: answer if not isinstance(answer, Failure) else Mute(), "bytes that are no model"),
        ("node_us", lambda answer, _: {} if isinstance(answer, Failure) else answer, "bytes that are no model"),
        (
            "compile",
            lambda a, _: Failure("compile", "?") if isinstance(a, Failure) else a,
            "got '?'",
        ),
        ("compile", lambda a, s: Mute() if s.precision == "float3" else a, "a precision that no runtime has"),
        ("compile", lambda a, s: Failure("compile", "x") if s.precision == "float3" else a, "lists the precisions"),
    ],
)
def test_contract_says_what_is_broken(method: str, change: Callable[[Any, RunSettings], Any], message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_runtime("onnxruntime", Spoilt(method, change))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (RunSettings(precision="bfloat16"), "expected a precision among float32, float16, int8, got 'bfloat16'"),
        (RunSettings(layout="channels_last"), "expected a layout among contiguous, got 'channels_last'"),
        (RunSettings(device="cuda"), "expected a device among cpu, got 'cuda'"),
    ],
)
def test_what_a_runtime_has_not_is_refused_with_what_it_has(settings: RunSettings, message: str) -> None:
    for found in (OnnxRuntime().compile(small_model(), settings), OnnxRuntime().node_us(small_model(), settings, 1)):
        assert found == Failure("unsupported", f"onnxruntime: {message}")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("precision", "off"), [("float16", 2e-3), ("int8", 0.2)])
def test_other_precisions_compute_nearly_the_same(name: str, precision: str, off: float) -> None:
    runtime = made(name)
    settings = RunSettings(batch=2, precision=precision)
    assert runtime.describe(settings).flags["precision"] == precision
    for model in models().values():
        runner = runtime.compile(model, settings)
        if isinstance(runner, Failure):  # not every processor has it
            assert f"got '{precision}'" in runner.message
            assert precision != "int8"
            return
        assert isinstance(runner, ComparableRunner)
        [expected], [got] = arrays_of(model.module()(*model.inputs(2))), runner.outputs()
        error = float(np.abs(got - expected).max() / np.abs(expected).max())
        assert 0 < error < off  # another precision, and not another model
        nodes = runtime.node_us(model, settings, 3)
        assert not isinstance(nodes, Failure)
        assert set(nodes) >= set(model.parts.names)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "pytorch"])
def test_every_kernel_has_its_time_inside_a_model(name: str) -> None:
    model = models()["a residual network"]
    found = made(name).node_us(model, RunSettings(batch=2), 5)
    assert not isinstance(found, Failure)
    busy = {model.parts.places[operation] for operation, times in found.items() if operation and times.min() > 0}
    convolutions = {place for place, name in enumerate(model.parts.names) if name.startswith("conv2d")}
    assert len(convolutions) == 4
    assert convolutions <= busy  # fused into each other's additions or not


def test_a_profile_leaves_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert not isinstance(OnnxRuntime().node_us(small_model(), RunSettings(precision="int8"), 2), Failure)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_nothing_but_views_has_no_profile() -> None:
    nothing = Model.of_onnx(onnx.helper.make_model(onnx.helper.make_graph([], "none", [], [])).SerializeToString())
    found = OnnxRuntime().node_us(nothing, RunSettings(), 1)
    assert isinstance(found, Failure)
    assert found.kind in ("unsupported", "compile")


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


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [("onnxruntime", "onnxruntime", "pip install onnxruntime"), ("openvino", "openvino", "autoprune[openvino]")],
)
def test_missing_package_says_what_to_install(
    name: str, package: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = RUNTIMES.get(name)()
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(openvino_module, "_core", openvino_module._core.__wrapped__)
    for call in (lambda: runtime.describe(RunSettings()), lambda: runtime.compile(small_model(), RunSettings())):
        with pytest.raises(AutopruneError, match=re.escape(install)):
            call()


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

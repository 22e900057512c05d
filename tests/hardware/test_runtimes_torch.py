"""PyTorch's runtimes: settings that hold for a run and are set back, refusals, and the time of every operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.errors import Failure
from autoprune.graph import trace
from autoprune.graph.kernel import Kernel
from autoprune.hardware.runtimes import Runner, RunSettings
from autoprune.hardware.runtimes import torch_runner as torch_runner_module
from autoprune.hardware.runtimes.contract import models
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.pytorch import PyTorch
from autoprune.hardware.runtimes.torch_compile import TorchCompile
from autoprune.hardware.runtimes.torch_runner import CudaRunner, Prepared, arrays_of, prepare, runner


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


def compiled(model: Model, settings: RunSettings) -> Any:
    found = PyTorch().compile(model, settings)
    assert not isinstance(found, Failure), found
    return found


def seen_by(settings: RunSettings, watch: Callable[[tuple[torch.Tensor, ...]], Any], model: Model) -> Any:
    """What is true while a runner of the model runs."""
    prepared = prepare("pytorch", model, settings)
    assert not isinstance(prepared, Failure)
    found = []

    def build(ready: Prepared) -> Callable[..., Any]:
        def call(*inputs: torch.Tensor) -> Any:
            found.append(watch(inputs))
            return ready.module(*inputs)

        return call

    made = runner("pytorch", prepared, build)
    assert not isinstance(made, Failure), made
    made.run_us(2)
    assert len(found) == 3
    assert len(set(found)) == 1
    return found[0]


def test_threads_are_a_runs_own() -> None:
    torch.set_num_threads(1)
    for threads in (2, 1):
        watch = lambda inputs: (torch.get_num_threads(), torch.is_inference_mode_enabled())  # noqa: E731
        assert seen_by(RunSettings(threads, batch=2), watch, models()["one convolution"]) == (threads, True)


def test_runners_of_different_threads_take_turns() -> None:
    model = models()["a residual network"]
    both = [compiled(model, RunSettings(threads, batch=2)) for threads in (1, 2)]
    for one in both * 2:
        assert one.run_us(3).shape == (3,)


def test_threads_are_set_back_where_a_run_fails() -> None:
    prepared = prepare("pytorch", models()["one convolution"], RunSettings(threads=2, batch=2))
    assert not isinstance(prepared, Failure)

    def build(_: Prepared) -> Callable[..., Any]:
        raise RuntimeError("no compiler\n  here")

    found = runner("pytorch", prepared, build, "install one")
    assert found == Failure("compile", "pytorch refused the model: no compiler here", "install one")


def test_out_of_memory_is_a_failure_of_its_own() -> None:
    prepared = prepare("pytorch", models()["one convolution"], RunSettings(batch=2))
    assert not isinstance(prepared, Failure)

    def build(_: Prepared) -> Callable[..., Any]:
        raise torch.OutOfMemoryError("tried to allocate too much")

    found = runner("pytorch", prepared, build)
    assert isinstance(found, Failure)
    assert found.kind == "memory"


def test_channels_last_is_how_inputs_and_weights_lie() -> None:
    settings = RunSettings(batch=2, layout="channels_last")
    model = models()["a residual network"]
    watch = lambda inputs: inputs[0].is_contiguous(memory_format=torch.channels_last)  # noqa: E731
    assert seen_by(settings, watch, model) is True
    prepared = prepare("pytorch", model, settings)
    assert not isinstance(prepared, Failure)
    assert prepared.module.state_dict()["first.weight"].is_contiguous(memory_format=torch.channels_last)
    [expected] = arrays_of(model.module()(*model.inputs(2)))
    np.testing.assert_allclose(compiled(model, settings).outputs()[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("precision", "off"), [("bfloat16", 0.05), ("float16", 0.005)])
def test_halves_compute_nearly_the_same(precision: str, off: float) -> None:
    model = models()["an attention block"]
    settings = RunSettings(batch=2, precision=precision)
    assert seen_by(settings, lambda inputs: str(inputs[0].dtype), model) == f"torch.{precision}"
    [expected], [got] = arrays_of(model.module()(*model.inputs(2))), compiled(model, settings).outputs()
    assert got.dtype == np.float32
    assert 0 < float(np.abs(got - expected).max() / np.abs(expected).max()) < off


@pytest.mark.parametrize("runtime", [PyTorch(), TorchCompile()])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (RunSettings(precision="int8"), "expected a precision among float32, bfloat16, float16, got 'int8'"),
        (RunSettings(layout="blocked"), "expected a layout among contiguous, channels_last, got 'blocked'"),
        (RunSettings(device="tpu"), "expected a device among cpu"),
    ],
)
def test_what_pytorch_has_not(runtime: PyTorch | TorchCompile, settings: RunSettings, message: str) -> None:
    found = runtime.compile(models()["one convolution"], settings)
    assert isinstance(found, Failure)
    assert message in found.message


def test_an_onnx_file_is_refused_with_where_it_runs() -> None:
    for runtime in (PyTorch(), TorchCompile()):
        found = runtime.compile(Model.of_onnx(b"anything"), RunSettings())
        assert isinstance(found, Failure)
        assert found.kind == "unsupported"
        assert "onnxruntime" in found.message


def test_a_model_that_casts_for_itself_is_refused_in_halves() -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear((x > 0).float())

    model = Model.of_module(trace(Casting().eval(), torch.randn(2, 4)).module())
    found = PyTorch().compile(model, RunSettings(precision="bfloat16"))
    assert isinstance(found, Failure)
    assert found.hint == "try precision float32 and layout contiguous"


def test_every_operation_is_timed_and_views_belong_to_what_reads_them() -> None:
    model = models()["an attention block"]
    found = PyTorch().node_us(model, RunSettings(batch=2), 6)
    assert not isinstance(found, Failure)
    assert set(found) == {*model.parts.names, ""}
    assert all(times.shape == (6,) for times in found.values())
    assert all(times.min() > 0 for name, times in found.items() if name)


def test_operations_on_a_gpu_are_not_timed_one_by_one() -> None:
    found = PyTorch().node_us(models()["one convolution"], RunSettings(device="cuda"), 1)
    assert isinstance(found, Failure)
    assert found.kind == "unsupported"


def test_a_gpus_times_are_those_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls, with stand-ins for what needs the device: it cannot show that they work on one."""
    calls: list[str] = []

    class Event:
        made = 0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.place, Event.made = Event.made, Event.made + 1

        def record(self) -> None:
            calls.append("record")

        def elapsed_time(self, other: Event) -> float:
            return 0.25 * (other.place - self.place)

    class Graph:
        def replay(self) -> None:
            calls.append("replay")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    made = CudaRunner.__new__(CudaRunner)
    made._graph = Graph()  # type: ignore[assignment]
    assert made.run_us(2).tolist() == [250.0, 250.0]
    assert calls == ["record", "replay", "record", "replay", "record", "wait"]


@pytest.mark.slow
def test_compiled_models_keep_to_their_threads_and_give_the_same() -> None:
    model = models()["one convolution"]
    found: Runner | Failure = TorchCompile().compile(model, RunSettings(threads=2, batch=2))
    assert isinstance(found, torch_runner_module.CpuRunner)
    [expected] = arrays_of(model.module()(*model.inputs(2)))
    np.testing.assert_allclose(found.outputs()[0], expected, rtol=1e-4, atol=1e-5)


def test_without_a_compiler_there_is_a_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    never_seen = Kernel("x0:(2,c0);y0:(2,c0)=exp.default(x0);y1:(2,c0)=tanh.default(y0)", (37,))  # not in any cache
    found = TorchCompile().compile(Model.of_kernel(never_seen), RunSettings(batch=2))
    assert isinstance(found, Failure)
    assert "C++ compiler" in found.hint

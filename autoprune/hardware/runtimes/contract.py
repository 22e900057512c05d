"""The contract of runtimes, for those built in and for those that other packages add.

from autoprune.hardware.runtimes.contract import check_runtime

def test_my_runtime() -> None:
    check_runtime("mine", MyRuntime())
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from autoprune.core.errors import Failure
from autoprune.graph import trace
from autoprune.graph.kernel import Kernel
from autoprune.hardware.runtimes import ComparableRunner, RunSettings, Runtime
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.nodes import NOBODY
from autoprune.hardware.runtimes.torch_runner import arrays_of

BATCH = 2
RUNS = 20
TOLERANCE = 1e-3  # relative to the largest number; runtimes add up in another order, and approximate exp
CONVOLUTION = Kernel("x0:(2,c0,6,6);y0:(2,c1,4,4)=conv2d.default(x0,w(c1,c0,3,3),w(c1,),(1,1),(0,0),(1,1),1)", (3, 4))


class Residual(nn.Module):
    """A convolution, a block with a shortcut of its own, a pool and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first, self.norm = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.shortcut = nn.Conv2d(16, 32, 1, stride=2)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32, 32) to (n, 10)."""
        x = F.relu(self.stem(x))
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))) + self.shortcut(x))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """One pre-norm block of four heads with its MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(64), nn.Linear(64, 192), nn.Linear(64, 64)
        self.second_norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 48, 64) to the same."""
        q, k, v = (part.unflatten(-1, (4, 16)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second_norm(x))))


@functools.cache
def models() -> Mapping[str, Model]:
    """What the contract compiles: a kernel, a small residual CNN and an attention block, at batch `BATCH`."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        residual = trace(Residual().eval(), torch.randn(BATCH, 3, 32, 32))
        attention = trace(Attention().eval(), torch.randn(BATCH, 48, 64))
    return {
        "one convolution": Model.of_kernel(CONVOLUTION),
        "a residual network": Model.of_module(residual.module()),
        "an attention block": Model.of_module(attention.module()),
    }


def check_runtime(name: str, runtime: Runtime, device: str = "cpu") -> None:
    """Raise AssertionError, saying what, where a runtime breaks its contract.

    Args:
        name: it is registered as.
        runtime: an instance.
        device: to run on.
    """
    settings = RunSettings(threads=1, batch=BATCH, device=device)
    described = runtime.describe(settings)
    assert described.name == name, f"describe: expected the name '{name}', got '{described.name}'"
    assert described.version, "describe: expected a version"
    for flag, value in settings.flags().items():
        assert described.flags.get(flag) == value, f"describe: expected the flag '{flag}' to be '{value}'"
    threads = torch.get_num_threads()
    for what, model in models().items():
        _check_runner(runtime, what, model, settings)
        _check_nodes(runtime, what, model, settings)
    _check_refusals(name, runtime, settings)
    assert torch.get_num_threads() == threads, "threads: expected PyTorch's to be as they were before"


def _check_runner(runtime: Runtime, what: str, model: Model, settings: RunSettings) -> None:
    runner = runtime.compile(model, settings)
    assert not isinstance(runner, Failure), f"compile: expected a runner for {what}, got {runner}"
    times = runner.run_us(7)
    assert times.shape == (7,), f"run_us: expected 7 times, got shape {times.shape}"
    assert times.dtype == np.float64, f"run_us: expected float64, got {times.dtype}"
    assert bool((times > 0).all()), "run_us: expected times above zero"
    assert isinstance(runner, ComparableRunner), "outputs: expected a runner that shows its outputs, to compare them"
    with torch.inference_mode():
        expected = arrays_of(model.module()(*model.inputs(settings.batch)))
    got = runner.outputs()
    shapes = [array.shape for array in got]
    assert shapes == [array.shape for array in expected], f"outputs: expected those of {what}, got shapes {shapes}"
    for ours, theirs in zip(expected, got, strict=True):
        error = float(np.abs(theirs - ours).max() / np.abs(ours).max())
        assert error <= TOLERANCE, f"outputs: expected those of {what} within {TOLERANCE:g}, got {error:g}"


def _check_nodes(runtime: Runtime, what: str, model: Model, settings: RunSettings) -> None:
    """Times by operation, where the runtime has them, are those of the whole run."""
    found = runtime.node_us(model, settings, RUNS)
    if isinstance(found, Failure):
        assert found.kind == "unsupported", f"node_us: expected times or a Failure of kind 'unsupported', got {found}"
        return
    strange = found.keys() - model.parts.places.keys() - {NOBODY}
    assert not strange, f"node_us: expected operations of {what}, got {sorted(strange)}"
    for operation, times in found.items():
        assert times.shape == (RUNS,), f"node_us: expected {RUNS} times of '{operation}', got shape {times.shape}"
        assert bool((times >= 0).all()), f"node_us: expected no times below zero, got some of '{operation}'"
    runner = runtime.compile(model, settings)
    assert not isinstance(runner, Failure), f"compile: expected a second runner for {what}, got {runner}"
    runner.run_us(RUNS)
    # A machine that is busy with something else meanwhile disagrees with itself: the nearest of several is taken.
    whole = sum(float(np.median(times)) for times in found.values())
    near = _within_twice(whole, lambda: float(np.median(runner.run_us(RUNS))))
    assert near, f"node_us: expected times of {what} that add up to half to twice a run, got {whole:.0f} us"


def _within_twice(whole: float, run_us: Callable[[], float], tries: int = 10) -> bool:
    return any(0.5 <= whole / run_us() <= 2.0 for _ in range(tries))


def _check_refusals(name: str, runtime: Runtime, settings: RunSettings) -> None:
    garbage = Model.of_onnx(b"not a model")
    for refused in (runtime.compile(garbage, settings), runtime.node_us(garbage, settings, RUNS)):
        assert isinstance(refused, Failure), "compile: expected a Failure for bytes that are no model"
        assert name in refused.message, f"compile: expected a message that names '{name}', got '{refused.message}'"
    odd = RunSettings(batch=settings.batch, precision="float3", device=settings.device)
    unknown = runtime.compile(Model.of_kernel(CONVOLUTION), odd)
    assert isinstance(unknown, Failure), "compile: expected a Failure for a precision that no runtime has"
    listed = "float32" in unknown.message and "float3'" in unknown.message
    assert listed, f"compile: expected a message that lists the precisions there are, got '{unknown.message}'"

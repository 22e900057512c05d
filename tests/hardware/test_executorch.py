"""ExecuTorch with XNNPACK: what is delegated, that it computes the same, and that a process survives it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoprune.core.errors import Failure, InputError
from autoprune.graph import trace
from autoprune.hardware.runtimes import Runner, RunSettings, executorch_program
from autoprune.hardware.runtimes.batch_norms import fold_batch_norms
from autoprune.hardware.runtimes.executorch import ExecuTorch
from autoprune.hardware.runtimes.executorch_profile import _aligned
from autoprune.hardware.runtimes.executorch_program import Lowered, Step, lower, package_version
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.nodes import NOBODY

try:
    package_version()
except InputError as missing:
    pytest.skip(str(missing), allow_module_level=True)


class Block(nn.Module):
    """Attention over (n, 6, 16) in two heads, with a mask where one is given."""

    def __init__(self, mask: torch.Tensor | None = None, causal: bool = False) -> None:
        super().__init__()
        self.qkv, self.out, self.causal = nn.Linear(16, 48), nn.Linear(16, 16), causal
        self.mask: torch.Tensor | None
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, self.mask, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Pools(nn.Module):
    """Two max pools, of which XNNPACK takes the first alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.max_pool2d(x, 2), 2, ceil_mode=True)


class Portable(nn.Module):
    """Operators that XNNPACK does not have, around one that it has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(F.relu(x * 2 + 1), -1).erf()


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Hardsigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


IMAGE, TOKENS = (1, 3, 12, 12), (1, 6, 16)
LATER = torch.ones(6, 6, dtype=torch.bool).tril()


def model_of(module: nn.Module, shape: tuple[int, ...]) -> Model:
    torch.manual_seed(0)
    return Model.of_module(trace(module.eval(), torch.randn(*shape)).module())


def lowered(model: Model) -> Lowered:
    return lower(fold_batch_norms(model.module()), model.inputs(1))


def compiled(model: Model, **settings: object) -> Runner:
    runner = ExecuTorch().compile(model, RunSettings(**settings))  # type: ignore[arg-type]
    assert not isinstance(runner, Failure), str(runner)
    return runner


def outputs(runner: Runner) -> np.ndarray:
    [found] = runner.outputs()  # type: ignore[attr-defined]
    return np.asarray(found)


def expected(model: Model) -> np.ndarray:
    with torch.no_grad():
        [found] = model.module()(*model.inputs(1))
    return np.asarray(found.numpy())


@pytest.mark.parametrize(
    ("module", "shape", "portable"),
    [
        (convolutions(), IMAGE, set()),
        (Block(), TOKENS, set()),
        (Block(LATER), TOKENS, set()),
        (Block(torch.randn(6, 6)), TOKENS, set()),
        (Portable(), TOKENS, {"aten.cumsum.default", "aten.erf.default"}),
    ],
    ids=["convolutions", "attention", "masked by booleans", "masked by numbers", "left to portable kernels"],
)
def test_nearly_everything_is_delegated(module: nn.Module, shape: tuple[int, ...], portable: set[str]) -> None:
    model = model_of(module, shape)
    found = lowered(model)
    copies = {"aten.select_copy.int", "aten.split_with_sizes_copy.default", "aten.split_copy.Tensor"}
    assert set(found.portable) - copies == portable
    runner = compiled(model)
    np.testing.assert_allclose(outputs(runner), expected(model), rtol=1e-4, atol=1e-5)
    runner.run_us(20)  # an input that the first run overwrote would show
    np.testing.assert_allclose(outputs(runner), expected(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [(Block(causal=True), TOKENS), (Block(torch.zeros(6, 6, dtype=torch.bool)), TOKENS), (Pools(), IMAGE)],
    ids=["causal attention", "a mask that hides all", "calls that are taken and calls that are not"],
)
def test_what_has_no_short_way_takes_the_long_one(module: nn.Module, shape: tuple[int, ...]) -> None:
    model = model_of(module, shape)
    np.testing.assert_allclose(outputs(compiled(model)), expected(model), rtol=1e-4, atol=1e-5)


def test_without_the_inner_part_of_torch_executorch_decomposes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executorch_program, "decomposed", lambda program, kept: program)
    model = model_of(convolutions(), IMAGE)
    assert [call.delegated for call in lowered(model).calls].count(True) == 1
    np.testing.assert_allclose(outputs(compiled(model)), expected(model), rtol=1e-4, atol=1e-5)


def test_runners_of_one_and_two_threads_live_in_one_process() -> None:
    model = model_of(convolutions(), IMAGE)
    one, two = compiled(model, threads=1), compiled(model, threads=2)
    for _ in range(3):
        for runner in (one, two, two, one):
            assert runner.run_us(3).shape == (3,)
    np.testing.assert_array_equal(outputs(one), outputs(two))


@pytest.mark.parametrize(("module", "shape"), [(convolutions(), IMAGE), (Block(LATER), TOKENS), (Portable(), TOKENS)])
def test_every_kernel_has_its_time_inside_the_model(module: nn.Module, shape: tuple[int, ...]) -> None:
    model = model_of(module, shape)
    found = ExecuTorch().node_us(model, RunSettings(), 12)
    assert not isinstance(found, Failure), str(found)
    places = model.parts.places
    assert {places[name] for name in found if name != NOBODY} == set(range(len(model.parts.names)))
    assert all(times.shape == (12,) and (times >= 0).all() for times in found.values())


def test_operators_of_a_part_are_found_among_its_nodes() -> None:
    nodes = [Step(f"XNN{kind}", kind) for kind in ("StaticReshape", "Conv2d", "Add", "StaticReshape", "Concatenate2")]
    names = ["Convolution (NHWC, F32) IGEMM #1", "Static Reshape (NC) #1", "Copy (NC, X32) #1", "Copy (NC, X32) #2"]
    found = [step.source for step in _aligned(names, nodes)]
    assert found == ["Conv2d", "StaticReshape", "Concatenate2", "Concatenate2"]
    assert [step.source for step in _aligned(["Add (ND) #1"], ())] == [""]


def test_settings() -> None:
    model = model_of(convolutions(), IMAGE)
    np.testing.assert_allclose(outputs(compiled(model, layout="channels_last")), expected(model), rtol=1e-4, atol=1e-5)
    half = outputs(compiled(model, precision="float16"))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, expected(model), rtol=1e-2, atol=1e-2)
    eighth = compiled(model, precision="int8")
    np.testing.assert_allclose(outputs(eighth), expected(model), atol=0.05 * float(np.abs(expected(model)).max()))
    assert not isinstance(ExecuTorch().node_us(model, RunSettings(precision="int8"), 5), Failure)
    refusal = ExecuTorch().compile(model, RunSettings(precision="bfloat16"))
    assert isinstance(refusal, Failure)
    assert "expected a precision among float32, float16, int8, got 'bfloat16'" in refusal.message
    described = ExecuTorch().describe(RunSettings(threads=2))
    assert (described.flags["delegate"], described.flags["threads"]) == ("xnnpack", "2")


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch.version", None)
    with pytest.raises(InputError, match=r"pip install 'autoprune\[executorch\]'"):
        ExecuTorch().describe(RunSettings())


QUIETLY = """
import logging
from autoprune.hardware.runtimes import RunSettings
from autoprune.hardware.runtimes.contract import CONVOLUTION
from autoprune.hardware.runtimes.executorch import ExecuTorch
from autoprune.hardware.runtimes.model import Model
runner = ExecuTorch().compile(Model.of_kernel(CONVOLUTION), RunSettings(threads=2))
print(type(runner).__name__, logging.getLogger().handlers, logging.root.manager.disable)
"""


def test_nothing_reaches_the_terminal() -> None:
    run = subprocess.run([sys.executable, "-W", "error", "-c", QUIETLY], capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert run.stdout == "_Method [] 0\n"

"""The contract of runtimes, for those built in and for those that other packages add.

from autoprune.hardware.runtimes.contract import check_runtime

def test_my_runtime() -> None:
    check_runtime("mine", MyRuntime())
"""

from __future__ import annotations

import numpy as np

from autoprune.core.errors import Failure
from autoprune.graph.kernel import Kernel
from autoprune.hardware.runtimes import RunSettings, Runtime
from autoprune.hardware.runtimes.model import Model

MODEL = Kernel("x0:(2,c0,6,6);y0:(2,c1,4,4)=conv2d.default(x0,w(c1,c0,3,3),w(c1,),(1,1),(0,0),(1,1),1)", (3, 4))


def check_runtime(name: str, runtime: Runtime) -> None:
    """Raise AssertionError, saying what, where a runtime breaks its contract.

    Args:
        name: it is registered as.
        runtime: an instance.
    """
    settings = RunSettings(threads=1, batch=2)
    described = runtime.describe(settings)
    assert described.name == name, f"describe: expected the name '{name}', got '{described.name}'"
    assert described.version, "describe: expected a version"
    runner = runtime.compile(Model.of_kernel(MODEL), settings)
    assert not isinstance(runner, Failure), f"compile: expected a runner for one convolution, got {runner}"
    times = runner.run_us(7)
    assert times.shape == (7,), f"run_us: expected 7 times, got shape {times.shape}"
    assert times.dtype == np.float64, f"run_us: expected float64, got {times.dtype}"
    assert bool((times > 0).all()), "run_us: expected times above zero"
    refused = runtime.compile(Model.of_onnx(b"not a model"), settings)
    assert isinstance(refused, Failure), "compile: expected a Failure for bytes that are no model"
    assert name in refused.message, f"compile: expected a message that names '{name}', got '{refused.message}'"

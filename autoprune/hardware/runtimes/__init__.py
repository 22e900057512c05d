"""Runtimes: what runs a model on a device, one adapter a file.

A runtime turns a `Model` into a `Runner`; refusing one is a `Failure`, not an exception.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import Failure
from autoprune.core.registry import Registry
from autoprune.hardware.profile import RuntimeInfo
from autoprune.hardware.runtimes.model import Model

HERE = "autoprune.hardware.runtimes"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RunSettings:
    """How a model is run.

    Attributes:
        threads: threads within an operation.
        batch: size of the free dimension "batch".
        precision: "float32", "bfloat16", "float16" or "int8", where the runtime has it.
        layout: "contiguous" or "channels_last", where the runtime has it.
        device: "cpu", "cuda", or what the runtime names.
    """

    threads: int = 1
    batch: int = 1
    precision: str = "float32"
    layout: str = "contiguous"
    device: str = "cpu"

    def flags(self) -> dict[str, str]:
        """What every runtime's description says of them."""
        return {"precision": self.precision, "layout": self.layout, "device": self.device}


class Runner(Protocol):
    """A compiled model with its inputs in place."""

    def run_us(self, count: int) -> Floats:
        """Run `count` times, one after the other; the time of each.  # (count,)"""


@runtime_checkable
class ComparableRunner(Runner, Protocol):
    """A runner that shows what it computes, so that the contract sees the right thing timed."""

    def outputs(self) -> tuple[npt.NDArray[np.generic], ...]:
        """The model's outputs of the inputs in place, in order."""


class Runtime(Protocol):
    """What runs models; `autoprune.hardware.runtimes.contract` checks one."""

    def describe(self, settings: RunSettings) -> RuntimeInfo:
        """Name, version and flags."""

    def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
        """A runner for the model; a `Failure` where the runtime refuses it, or has not what the settings ask."""

    def node_us(self, model: Model, settings: RunSettings, runs: int) -> Mapping[str, Floats] | Failure:
        """The runtime's own profile of a whole model, node by node.

        Args:
            model: which.
            settings: how it is run.
            runs: how often, after a warm-up.

        Returns:
            Operation of the model, by the name it has in the program -> its time in each run.  # (runs,), microseconds
            A kernel's time stands under one of its operations, zeros where another one took it up; what belongs to
            no operation stands under "", so that the sum is the whole's time. A `Failure` of kind "unsupported" where
            the runtime has no such profile.
        """


def refused(
    name: str,
    settings: RunSettings,
    precisions: Collection[str],
    layouts: Collection[str] = ("contiguous",),
    devices: Collection[str] = ("cpu",),
) -> Failure | None:
    """A `Failure` that lists what a runtime has, where settings ask for something else; None where it has it all."""
    asked = (
        ("precision", settings.precision, precisions),
        ("layout", settings.layout, layouts),
        ("device", settings.device, devices),
    )
    for what, value, known in asked:
        if value not in known:
            listed = ", ".join(known)
            return Failure("unsupported", f"{name}: expected a {what} among {listed}, got '{value}'")
    return None


RUNTIMES: Registry[type[Runtime]] = Registry(
    "runtime",
    "autoprune.runtimes",
    {
        "executorch": f"{HERE}.executorch:ExecuTorch",
        "onnxruntime": f"{HERE}.onnxruntime:OnnxRuntime",
        "openvino": f"{HERE}.openvino:OpenVino",
        "pytorch": f"{HERE}.pytorch:PyTorch",
        "tensorrt": f"{HERE}.tensorrt:TensorRt",
        "torch-compile": f"{HERE}.torch_compile:TorchCompile",
    },
)

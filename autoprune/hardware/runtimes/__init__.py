"""Runtimes: what runs a model on a device, one adapter a file.

A runtime turns an ONNX model into a `Runner`; refusing one is a `Failure`, not an exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import Failure
from autoprune.core.registry import Registry
from autoprune.hardware.profile import RuntimeInfo


@dataclass(frozen=True)
class RunSettings:
    """How a model is run.

    Attributes:
        threads: threads within an operation.
        batch: size of the free dimension "batch".
    """

    threads: int = 1
    batch: int = 1


class Runner(Protocol):
    """A compiled model with its inputs in place."""

    def run_us(self, count: int) -> npt.NDArray[np.float64]:
        """Run `count` times, one after the other; the time of each.  # (count,)"""


class Runtime(Protocol):
    """What runs models; `autoprune.hardware.runtimes.contract` checks one."""

    def describe(self, settings: RunSettings) -> RuntimeInfo:
        """Name, version and flags."""

    def compile(self, model: bytes, settings: RunSettings) -> Runner | Failure:
        """A runner for an ONNX model; a `Failure` where the runtime refuses it."""


RUNTIMES: Registry[type[Runtime]] = Registry(
    "runtime", "autoprune.runtimes", {"onnxruntime": "autoprune.hardware.runtimes.onnxruntime:OnnxRuntime"}
)

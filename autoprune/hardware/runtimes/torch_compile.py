"""`torch.compile` with its default compiler, Inductor."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autoprune.core.errors import Failure
from autoprune.hardware.profile import RuntimeInfo
from autoprune.hardware.runtimes import Floats, Runner, RunSettings
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.torch_runner import Prepared, prepare, runner

NAME = "torch-compile"
HINT = "it needs a C++ compiler (g++ or clang++) on the PATH"
OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    "freezing": True
}  # weights are constants: folded, and laid out once


class TorchCompile:
    """The model exported at the batch's size and compiled with frozen weights; needs a C++ compiler at hand.

    On CUDA devices as a CUDA graph, timed by events (not run there yet).
    """

    def describe(self, settings: RunSettings) -> RuntimeInfo:
        """Name, version and flags."""
        flags = {
            "backend": "inductor",
            **{name: str(value).lower() for name, value in OPTIONS.items()},
            "dynamic": "false",
            "mode": "inference",
            "threads": str(settings.threads),
            **settings.flags(),
        }
        return RuntimeInfo(name=NAME, version=str(torch.__version__), flags=flags)

    def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
        """The compiled model, run once; seconds each."""
        prepared = prepare(NAME, model, settings)
        if isinstance(prepared, Failure):
            return prepared
        return runner(NAME, prepared, _compiled, HINT)

    def node_us(self, model: Model, settings: RunSettings, runs: int) -> Mapping[str, Floats] | Failure:
        """None: what Inductor fuses does not keep the operations' names."""
        return Failure("unsupported", f"{NAME}: it has no profile by operations of the model")


def _compiled(prepared: Prepared) -> Callable[..., Any]:
    """The module without its Python, so that one graph is all there is to compile; called once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own packages use what others deprecate
        exported = torch.export.export(prepared.module, prepared.inputs, strict=False).module()
        compiled: Callable[..., Any] = torch.compile(exported, dynamic=False, fullgraph=True, options=OPTIONS)
        compiled(*prepared.inputs)
    return compiled

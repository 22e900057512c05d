"""What PyTorch's runtimes share: a module at a precision, a layout and a place, and the timing of its calls."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from autoprune.core.errors import Failure
from autoprune.graph.module import TracedModule
from autoprune.hardware.runtimes import Floats, RunSettings, refused
from autoprune.hardware.runtimes.model import Model, module_of

PRECISIONS = ("float32", "bfloat16", "float16")
LAYOUTS = ("contiguous", "channels_last")
HINT = "try precision float32 and layout contiguous"
GRAPH_WARM_RUNS = 3  # before a CUDA graph is captured


@dataclass(frozen=True, eq=False)
class Prepared:
    """A module and its inputs, ready to be called.

    Attributes:
        module: in eval mode, its tensors at the settings' precision, layout and device.
        inputs: likewise.
        settings: those.
    """

    module: TracedModule
    inputs: tuple[torch.Tensor, ...]
    settings: RunSettings


def prepare(name: str, model: Model, settings: RunSettings) -> Prepared | Failure:
    """The module of a model under settings.

    Args:
        name: of the runtime, for messages.
        model: which.
        settings: how it is to run.
    """
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    if (failure := refused(name, settings, PRECISIONS, LAYOUTS, devices)) is not None:
        return failure
    module = module_of(model)
    if isinstance(module, Failure):
        return Failure(module.kind, f"{name}: {module.message}", module.hint)
    dtype = getattr(torch, settings.precision)
    module.to(device=settings.device, dtype=dtype)
    inputs = [x.to(settings.device, dtype if x.is_floating_point() else x.dtype) for x in model.inputs(settings.batch)]
    if settings.layout == "channels_last":
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks it
        inputs = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    return Prepared(module, tuple(inputs), settings)


@contextlib.contextmanager
def threads_of(settings: RunSettings) -> Iterator[None]:
    """PyTorch has one number of threads a process: it is set while something runs, and then set back."""
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Build = Callable[[Prepared], Callable[..., Any]]


def runner(name: str, prepared: Prepared, build: Build, hint: str = HINT) -> CpuRunner | CudaRunner | Failure:
    """A runner of what is built of a module; a `Failure` where that is refused, or does not run once.

    Args:
        name: of the runtime, for messages.
        prepared: the module and its inputs.
        build: makes a call that takes the inputs.
        hint: what to do where it is refused.
    """
    try:
        with torch.inference_mode(), threads_of(prepared.settings):
            call = build(prepared)
        return (CudaRunner if prepared.settings.device == "cuda" else CpuRunner)(call, prepared)
    except (MemoryError, torch.OutOfMemoryError) as error:
        return Failure("memory", f"{name}: out of memory ({error})", "profile smaller widths")
    except Exception as error:  # operators and compilers raise classes of many packages
        text = " ".join(str(error).split())[:300] or type(error).__name__
        return Failure("compile", f"{name} refused the model: {text}", hint)


class CpuRunner:
    """Calls timed by the clock, in inference mode.

    Args:
        call: takes the inputs.
        prepared: what has the inputs.
    """

    def __init__(self, call: Callable[..., Any], prepared: Prepared) -> None:
        self._call = call
        self._inputs = prepared.inputs
        self._settings = prepared.settings
        self.outputs()

    def outputs(self) -> tuple[npt.NDArray[Any], ...]:
        """The outputs of the inputs in place; halves as float32."""
        with torch.inference_mode(), threads_of(self._settings):
            return arrays_of(self._call(*self._inputs))

    def run_us(self, count: int) -> Floats:
        """Run `count` times; the time of each.  # (count,)"""
        call, inputs, clock = self._call, self._inputs, time.perf_counter_ns
        marks = [0] * (count + 1)
        with torch.inference_mode(), threads_of(self._settings):
            marks[0] = clock()
            for index in range(1, count + 1):
                call(*inputs)
                marks[index] = clock()
        return np.diff(np.array(marks, dtype=np.int64)).astype(np.float64) / 1e3


class CudaRunner:
    """Replays of a CUDA graph, timed by events on its stream. It has not been run on such a device yet.

    Args:
        call: takes the inputs.
        prepared: what has the inputs.
    """

    def __init__(self, call: Callable[..., Any], prepared: Prepared) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._inputs = prepared.inputs  # their memory is what the graph reads
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode():
            with torch.cuda.stream(aside):  # libraries choose kernels and allocate before the capture
                for _ in range(GRAPH_WARM_RUNS):
                    call(*self._inputs)
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(self._graph):
                self._outputs = call(*self._inputs)

    def outputs(self) -> tuple[npt.NDArray[Any], ...]:
        """The outputs of the inputs in place; halves as float32."""
        self._graph.replay()
        torch.cuda.synchronize()
        return arrays_of(self._outputs)

    def run_us(self, count: int) -> Floats:
        """Run `count` times; the time of each.  # (count,)"""
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        marks[0].record()
        for mark in marks[1:]:
            self._graph.replay()
            mark.record()
        torch.cuda.synchronize()
        return np.array([1e3 * a.elapsed_time(b) for a, b in itertools.pairwise(marks)], dtype=np.float64)


def arrays_of(result: Any) -> tuple[npt.NDArray[Any], ...]:
    """The tensors of a result as arrays, in order; halves as float32, which NumPy can hold."""
    tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    halves = (torch.bfloat16, torch.float16)
    return tuple((leaf.float() if leaf.dtype in halves else leaf).cpu().numpy() for leaf in tensors)

"""ExecuTorch with XNNPACK, the runtime of phones, on this machine's CPU."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from autoprune.core.errors import Failure
from autoprune.graph.program import Program
from autoprune.hardware.profile import RuntimeInfo
from autoprune.hardware.runtimes import Floats, Runner, RunSettings, refused
from autoprune.hardware.runtimes.batch_norms import fold_batch_norms
from autoprune.hardware.runtimes.executorch_profile import Traced, operation_times
from autoprune.hardware.runtimes.executorch_program import Lowered, lower, package_version, quiet
from autoprune.hardware.runtimes.model import Model, module_of
from autoprune.hardware.runtimes.nodes import NOBODY, in_turn, without_overhead

NAME = "executorch"
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "int8": torch.float32}  # of what is lowered
WARM_RUNS = 10
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class ExecuTorch:
    """Lowered in this process, delegated to XNNPACK, run by the package's own runtime with inputs in place."""

    def describe(self, settings: RunSettings) -> RuntimeInfo:
        """Name, version and flags."""
        flags = {
            "delegate": "xnnpack",
            "threads": str(settings.threads),
            "batch": str(settings.batch),
            "inputs": "in place",
            **settings.flags(),
        }
        return RuntimeInfo(name=NAME, version=package_version(), flags=flags)

    def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
        """A loaded method for the model, its inputs in place; weights are packed here, not in the first run."""
        prepared = _prepared(model, settings)
        if isinstance(prepared, Failure):
            return prepared
        lowered, inputs, _ = prepared
        return _attempt(lambda: _Method(lowered.data, inputs, settings.threads))

    def node_us(self, model: Model, settings: RunSettings, runs: int) -> Mapping[str, Floats] | Failure:
        """From the event trace, which has XNNPACK's operators one by one; the cost of tracing is taken off."""
        prepared = _prepared(model, settings)
        if isinstance(prepared, Failure):
            return prepared
        lowered, inputs, program = prepared

        def measured() -> dict[str, Floats]:
            plain = _Method(lowered.data, inputs, settings.threads)  # makes the thread pool
            traced = Traced(_bindings(), lowered.data, inputs)
            whole_us = float(np.median(in_turn(traced, plain, WARM_RUNS, runs)))
            found = operation_times(lowered, traced.events()[-runs:], program, model.parts.places)
            times = without_overhead(found, whole_us)
            left_us = whole_us - sum(float(np.median(own)) for own in times.values())
            return {**times, NOBODY: np.full(runs, max(left_us, 0.0))}  # the call itself, among others

        return _attempt(measured)


Prepared = tuple[Lowered, tuple[torch.Tensor, ...], Program]
Made = TypeVar("Made")
# Lowering takes seconds, and a model that is timed is often profiled as well.
_LOWERED: weakref.WeakKeyDictionary[Model, tuple[RunSettings, Prepared]] = weakref.WeakKeyDictionary()


def _prepared(model: Model, settings: RunSettings) -> Prepared | Failure:
    """The lowered model, its inputs, and what was lowered: the program without the norms that are folded."""
    if (failure := refused(NAME, settings, PRECISIONS, LAYOUTS)) is not None:
        return failure
    package_version()
    kept = _LOWERED.get(model)
    if kept is not None and kept[0] == settings:
        return kept[1]
    module = module_of(model)
    if isinstance(module, Failure):
        return Failure(module.kind, f"{NAME}: {module.message}", module.hint)

    def made() -> Prepared:
        inputs = tuple(_placed(x, settings) for x in model.inputs(settings.batch))
        folded = fold_batch_norms(module)
        lowered = lower(folded.to(PRECISIONS[settings.precision]), inputs, settings.precision == "int8")
        return lowered, inputs, folded.program

    prepared = _attempt(made)
    if not isinstance(prepared, Failure):
        _LOWERED[model] = settings, prepared
    return prepared


def _attempt(make: Callable[[], Made]) -> Made | Failure:
    """What `make` gives; exporter and runtime raise classes of many packages."""
    try:
        return make()
    except MemoryError as error:
        return Failure("memory", f"{NAME}: out of memory ({error})", "profile smaller widths")
    except Exception as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        return Failure("compile", f"{NAME} refused the model: {text}", "see its list of operators")


def _placed(tensor: torch.Tensor, settings: RunSettings) -> torch.Tensor:
    """An input as the settings ask. Inside a model, images are channels-last: XNNPACK has no other convolutions."""
    if tensor.is_floating_point():
        tensor = tensor.to(PRECISIONS[settings.precision])
    return tensor.contiguous(memory_format=LAYOUTS[settings.layout]) if tensor.dim() == 4 else tensor


@functools.cache
def _bindings() -> Any:
    from executorch.extension.pybindings import portable_lib

    return portable_lib


class _ThreadPool:
    """The process's one pool of XNNPACK threads.

    A loaded method keeps the pool it was loaded with, and resetting destroys that: to run such a method would end the
    process. `generation` tells methods that they have to be loaded anew.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.threads = 0

    def resize(self, threads: int) -> None:
        """Make it of so many threads, the calling one among them; a new generation where it was not."""
        if self.threads != threads:
            _bindings()._unsafe_reset_threadpool(threads)
            self.threads = threads
            self.generation += 1


_POOL = _ThreadPool()


class _Method:
    """A program's one method, loaded when it runs with another pool than before."""

    def __init__(self, data: bytes, inputs: tuple[torch.Tensor, ...], threads: int) -> None:
        self._data, self._inputs, self._threads = data, inputs, threads
        self._generation = 0
        self._ready().execute()  # what cannot run is refused here

    def _ready(self) -> Any:
        if self._generation != _POOL.generation or self._threads != _POOL.threads:
            with quiet():
                _POOL.resize(self._threads)
                self._generation = _POOL.generation
                self._program = _bindings()._load_program_from_buffer(self._data)  # the method does not keep it
                self._method = self._program.load_method("forward")
                self._method.set_inputs(self._inputs)  # by address: they stay where they are
        return self._method

    def outputs(self) -> tuple[npt.NDArray[Any], ...]:
        """The outputs of the inputs in place."""
        method = self._ready()
        method.execute()
        return tuple(output.numpy() for output in method.get_outputs())

    def run_us(self, count: int) -> Floats:
        """Run `count` times; the time of each.  # (count,)"""
        execute, clock = self._ready().execute, time.perf_counter_ns
        marks = [0] * (count + 1)
        marks[0] = clock()
        for index in range(1, count + 1):
            execute()
            marks[index] = clock()
        return np.diff(np.array(marks, dtype=np.int64)).astype(np.float64) / 1e3

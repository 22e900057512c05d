"""OpenVINO on the CPU."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import Failure, InputError
from autoprune.hardware.profile import RuntimeInfo
from autoprune.hardware.runtimes import Floats, Runner, RunSettings, refused
from autoprune.hardware.runtimes.model import Model, onnx_of
from autoprune.hardware.runtimes.nodes import Node, by_operation, in_turn
from autoprune.hardware.runtimes.onnx_precision import in_int8

NAME = "openvino"
DEVICE = "CPU"
HINTS = {"float32": "f32", "int8": "f32", "bfloat16": "bf16", "float16": "f16"}  # in int8, of what is not quantised
CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}  # not every processor has them
WARM_RUNS = 10  # before the runs that are profiled
CUT_OFF = 0.5  # what a time loses on average where it is cut off to whole microseconds
LEAST_US = 0.1
JUMP = 1.5  # times what a run may add to a sum
NOT_RUN = ("Const", "Input", "Output")


@functools.cache
def _core() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise InputError("the runtime 'openvino' needs its package: pip install 'autoprune[openvino]'.") from error
    return openvino.Core()


class OpenVino:
    """One stream, the latency hint, sizes fixed, inputs set once.

    Threads are not pinned: they stay where the process may run. "int8" is a model quantised as for ONNX Runtime.
    """

    def describe(self, settings: RunSettings) -> RuntimeInfo:
        """Name, version and flags."""
        _core()
        import openvino

        flags = {name.lower(): str(value).lower() for name, value in _properties(settings).items()}
        return RuntimeInfo(name=NAME, version=str(openvino.__version__), flags={**flags, **settings.flags()})

    def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
        """A request for the model, its inputs in place."""
        return self._request(model, settings, {})

    def node_us(self, model: Model, settings: RunSettings, runs: int) -> Mapping[str, Floats] | Failure:
        """OpenVINO's own counters; they are means, so every run is given the same time."""
        request = self._request(model, settings, {"PERF_COUNT": True})
        plain = self._request(model, settings, {})
        if isinstance(request, Failure):
            return request
        if isinstance(plain, Failure):
            return plain
        whole_us = float(np.median(in_turn(request, plain, WARM_RUNS, runs)))
        own = typical_us(np.array(request.counters_us), request.runs - runs)
        run = {name: time for name, time in zip(request.names, own.tolist(), strict=True) if time > 0}
        share = min(1.0, whole_us / max(sum(run.values()), 1e-9))
        times = {name: np.full(runs, share * time) for name, time in run.items()}
        return by_operation(times, request.nodes(frozenset(run)), model.parts, whole_us)

    def _request(self, model: Model, settings: RunSettings, extra: Mapping[str, Any]) -> _Request | Failure:
        core = _core()
        present = core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        precisions = [name for name in HINTS if CAPABILITIES.get(name) in (None, *present)]
        if (failure := refused(NAME, settings, precisions)) is not None:
            return failure
        data = onnx_of(model)
        if isinstance(data, Failure):
            return data
        try:
            inputs = [tensor.numpy() for tensor in model.inputs(settings.batch)]
            if settings.precision == "int8":
                data = in_int8(data, dict(zip(model.input_names, inputs, strict=True)), settings.batch)
            read = core.read_model(model=data)
            read.reshape({port: list(array.shape) for port, array in zip(read.inputs, inputs, strict=True)})
            return _Request(core.compile_model(read, DEVICE, {**_properties(settings), **extra}), inputs)
        except MemoryError as error:
            return Failure("memory", f"{NAME}: out of memory ({error})", "profile smaller widths")
        except Exception as error:  # every refusal is a bare RuntimeError of its own, or of the quantisation
            text = " ".join(str(error).split())
            return Failure("compile", f"{NAME} refused the model: {text[:300]}", "see its release notes")


def typical_us(counters: Floats, warm: int) -> Floats:
    """Each node's time, from means over all runs so far that are cut off to whole microseconds.  # (n_nodes,)

    A mean keeps an interruption for ever, so runs in which a sum jumps are left out.

    Args:
        counters: as read after each run.  # (n_runs, n_nodes)
        warm: runs at the beginning that do not count.
    """
    run = np.arange(1, len(counters) + 1)[:, None]
    own = np.diff(run * (counters + CUT_OFF), axis=0)[warm - 1 :]  # each run's, off by as much as `run`
    calm = own <= JUMP * (counters[warm:].min(axis=0) + run[warm:])
    typical = np.where(calm, own, 0.0).sum(axis=0) / np.maximum(calm.sum(axis=0), 1)
    shown = counters[-1] > 0  # a node of less than a microsecond is not told from one that does not run
    return np.where(shown, np.maximum(typical + CUT_OFF, LEAST_US), 0.0)


def _properties(settings: RunSettings) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": settings.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS.get(settings.precision, settings.precision),
        "ENABLE_CPU_PINNING": False,
    }


class _Request:
    """One compiled model with its inputs set.

    Attributes:
        names: of the nodes, where it is profiled.
        counters_us: mean time of each node of all runs so far, as read after each run.
    """

    def __init__(self, compiled: Any, inputs: list[npt.NDArray[Any]]) -> None:
        import openvino

        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._held = inputs  # their memory is what the request reads
        self._profiled = bool(compiled.get_property("PERF_COUNT"))
        for port, array in zip(compiled.inputs, inputs, strict=True):
            self._request.set_tensor(port, openvino.Tensor(array, shared_memory=True))
        self.counters_us: list[list[float]] = []
        self.run_us(1)
        self.names = [item.node_name for item in self._request.profiling_info] if self._profiled else []

    @property
    def runs(self) -> int:
        """How often it has run, where it is profiled."""
        return len(self.counters_us)

    def outputs(self) -> tuple[npt.NDArray[Any], ...]:
        """The outputs of the inputs in place."""
        self.run_us(1)
        return tuple(np.array(self._request.get_tensor(port).data) for port in self._compiled.outputs)

    def run_us(self, count: int) -> Floats:
        """Run `count` times; the time of each.  # (count,)"""
        run, clock = self._request.infer, time.perf_counter_ns
        marks = [0] * (count + 1)
        marks[0] = clock()
        for index in range(1, count + 1):
            run(share_outputs=True)
            marks[index] = clock()
            if self._profiled:
                self._read()
        return np.diff(np.array(marks, dtype=np.int64)).astype(np.float64) / 1e3

    def _read(self) -> None:
        self.counters_us.append([item.real_time.total_seconds() * 1e6 for item in self._request.profiling_info])

    def nodes(self, executed: frozenset[str]) -> list[Node]:
        """The nodes of the graph that it runs.

        Args:
            executed: those that ran; the others are views, or run as a part of one that did.
        """
        found = []
        for operation in self._compiled.get_runtime_model().get_ordered_ops():
            facts, name = operation.get_rt_info(), str(operation.get_friendly_name())
            kind, names = (facts[key].astype(str) for key in ("layerType", "originalLayersNames"))
            if kind in NOT_RUN:
                continue
            inputs = tuple(port.get_source_output().get_node().get_friendly_name() for port in operation.inputs())
            labels = (names, name)
            moves = kind == "Reorder" or name not in executed
            found.append(Node(name, () if kind == "Reorder" else labels, inputs, (name,), moves))
        return found

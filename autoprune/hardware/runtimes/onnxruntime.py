"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.hardware.importers.onnxruntime import node_times
from autoprune.hardware.profile import RuntimeInfo
from autoprune.hardware.runtimes import Floats, Runner, RunSettings, refused
from autoprune.hardware.runtimes.model import Model, onnx_of
from autoprune.hardware.runtimes.nodes import Node, by_operation, in_turn, without_overhead
from autoprune.hardware.runtimes.onnx_precision import in_float16, in_int8

NAME = "onnxruntime"
PROVIDER = "CPUExecutionProvider"
PRECISIONS = ("float32", "float16", "int8")
SILENT = 4  # refusals come back as failures; nothing else is worth a line
CAST_PREFIX = "InsertedPrecisionFreeCast_"  # what it names nodes that run in float32 in place of float16
WARM_RUNS = 10  # before the runs that are profiled


def _package() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise AutopruneError("the runtime 'onnxruntime' needs its package: pip install onnxruntime.") from error
    return onnxruntime


class OnnxRuntime:
    """Sequential execution, all graph optimisations, one thread pool; inputs and outputs bound once.

    "float16" and "int8" convert the model: int8 is static quantisation of weights and activations, calibrated on the
    inputs that are timed (`autoprune.hardware.runtimes.onnx_precision`).
    """

    def describe(self, settings: RunSettings) -> RuntimeInfo:
        """Name, version and flags."""
        flags = {
            "provider": PROVIDER,
            "execution_mode": "sequential",
            "graph_optimization": "all",
            "intra_op_threads": str(settings.threads),
            "inter_op_threads": "1",
            "io_binding": "true",
            "free_dimension_override": f"batch={settings.batch}",
            **settings.flags(),
        }
        return RuntimeInfo(name=NAME, version=str(_package().__version__), flags=flags)

    def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
        """A session for the model, its inputs in place."""
        return self._session(model, settings, _package().SessionOptions())

    def node_us(self, model: Model, settings: RunSettings, runs: int) -> Mapping[str, Floats] | Failure:
        """ONNX Runtime's own profile, which counts whole microseconds.

        What it takes to write an event down is part of each reported time, and taken off: runs with and without the
        profile take turns, and the nodes are to add up to a run without.
        """
        with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
            options = _package().SessionOptions()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            session = self._session(model, settings, options)
            if isinstance(session, Failure):
                return session
            plain = self.compile(model, settings)
            if isinstance(plain, Failure):
                return plain
            whole_us = float(np.median(in_turn(session, plain, WARM_RUNS, runs)))
            trace = json.loads(Path(session.end_profiling()).read_bytes())
            graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
        try:
            found = node_times(trace, f"{NAME}'s profile")
        except InputError:  # a model without operations
            return Failure("unsupported", f"{NAME}: no node of the model is run")
        # Nodes of one name ran in turn: as many times of it a run.
        counted = {name: np.array(own).reshape(-1, len(own) // session.runs) for name, own in found.items()}
        times = {name: own.sum(axis=1)[-runs:] for name, own in counted.items()}
        return by_operation(without_overhead(times, whole_us), _nodes(graph, found), model.parts, whole_us)

    def _session(self, model: Model, settings: RunSettings, options: Any) -> _Session | Failure:
        if (failure := refused(NAME, settings, PRECISIONS)) is not None:
            return failure
        data = onnx_of(model)
        if isinstance(data, Failure):
            return data
        ort = _package()
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = SILENT
        options.add_free_dimension_override_by_name("batch", settings.batch)
        try:
            inputs = [tensor.numpy() for tensor in model.inputs(settings.batch)]
            converted = _at_precision(data, settings, model, inputs)
            session = ort.InferenceSession(converted, options, providers=[PROVIDER])
            return _Session(session, inputs)
        except MemoryError as error:
            return Failure("memory", f"{NAME}: out of memory ({error})", "profile smaller widths")
        except Exception as error:  # the package raises classes of its own compiled module
            return Failure("compile", f"{NAME} refused the model: {str(error)[:300]}", "see its release notes")


class _Session:
    """One session with bound inputs and outputs.

    Attributes:
        runs: how often it has run.
    """

    def __init__(self, session: Any, inputs: list[npt.NDArray[Any]]) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._inputs = {item.name: array for item, array in zip(session.get_inputs(), inputs, strict=True)}
        outputs = session.run(None, self._inputs)
        self.runs = 1
        self._outputs = dict(zip([item.name for item in session.get_outputs()], outputs, strict=True))
        for name, array in self._inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in self._outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def outputs(self) -> tuple[npt.NDArray[Any], ...]:
        """The outputs of the inputs in place."""
        self.run_us(1)
        return tuple(self._outputs.values())

    def run_us(self, count: int) -> Floats:
        """Run `count` times; the time of each.  # (count,)"""
        run, binding, clock = self._session.run_with_iobinding, self._binding, time.perf_counter_ns
        marks = [0] * (count + 1)
        marks[0] = clock()
        for index in range(1, count + 1):
            run(binding)
            marks[index] = clock()
        self.runs += count
        return np.diff(np.array(marks, dtype=np.int64)).astype(np.float64) / 1e3

    def end_profiling(self) -> str:
        """The file that the profile was written to."""
        return str(self._session.end_profiling())


def _at_precision(data: bytes, settings: RunSettings, model: Model, inputs: list[npt.NDArray[Any]]) -> bytes:
    if settings.precision == "float16":
        return in_float16(data)
    if settings.precision == "int8":
        return in_int8(data, dict(zip(model.input_names, inputs, strict=True)), settings.batch)
    return data


def _nodes(graph: onnx.GraphProto, reported: Iterable[str]) -> list[Node]:
    """The nodes of an optimised graph, by the names that a profile of it has.

    A fused node may have a name of its own; what it puts out then tells whose it is. A change of layout puts out what
    a convolution made, but is there for what consumes it. Nodes without a name are reported as `Mul_120`, in order.
    """
    named = {node.name for node in graph.node}
    nameless: dict[str, list[str]] = {}
    for name in reported:
        if name not in named:
            nameless.setdefault(name.rpartition("_")[0], []).append(name)
    found = []
    for node in graph.node:
        waiting = nameless.get(node.op_type)
        name = node.name or (waiting.pop(0) if waiting else "")
        moves = node.op_type.startswith("Reorder") or node.op_type == "Cast"
        labels = (node.name,) if moves else (node.name, *node.output)
        plain = tuple(label.removeprefix(CAST_PREFIX) for label in labels)
        found.append(Node(name, plain, tuple(node.input), tuple(node.output), moves))
    return found

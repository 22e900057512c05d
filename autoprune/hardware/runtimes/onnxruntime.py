"""ONNX Runtime on the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import AutopruneError, Failure
from autoprune.hardware.profile import RuntimeInfo
from autoprune.hardware.runtimes import Floats, Runner, RunSettings, refused
from autoprune.hardware.runtimes.model import Model, onnx_of

PROVIDER = "CPUExecutionProvider"
SILENT = 4  # refusals come back as failures; nothing else is worth a line
NAME = "onnxruntime"
PRECISIONS = ("float32",)


def _package() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise AutopruneError("the runtime 'onnxruntime' needs its package: pip install onnxruntime.") from error
    return onnxruntime


class OnnxRuntime:
    """Sequential execution, all graph optimisations, one thread pool; inputs and outputs bound once."""

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
        if (failure := refused(NAME, settings, PRECISIONS)) is not None:
            return failure
        data = onnx_of(model)
        if isinstance(data, Failure):
            return data
        ort = _package()
        options = ort.SessionOptions()
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = SILENT
        options.add_free_dimension_override_by_name("batch", settings.batch)
        try:
            session = ort.InferenceSession(data, options, providers=[PROVIDER])
            return _Session(session, [tensor.numpy() for tensor in model.inputs(settings.batch)])
        except MemoryError as error:
            return Failure("memory", f"onnxruntime: out of memory ({error})", "profile smaller widths")
        except Exception as error:  # the package raises classes of its own compiled module
            return Failure("compile", f"onnxruntime refused the model: {str(error)[:300]}", "see its release notes")

    def node_us(self, model: Model, settings: RunSettings, runs: int) -> Mapping[str, Floats] | Failure:
        """Not written yet."""
        return Failure("unsupported", f"{NAME}: no per-node profile")


class _Session:
    """One session with bound inputs and outputs."""

    def __init__(self, session: Any, inputs: list[npt.NDArray[Any]]) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._inputs = {item.name: array for item, array in zip(session.get_inputs(), inputs, strict=True)}
        outputs = session.run(None, self._inputs)
        self._outputs = dict(zip([item.name for item in session.get_outputs()], outputs, strict=True))
        for name, array in self._inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in self._outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def outputs(self) -> tuple[npt.NDArray[Any], ...]:
        """The outputs of the inputs in place."""
        self._session.run_with_iobinding(self._binding)
        return tuple(self._outputs.values())

    def run_us(self, count: int) -> Floats:
        """Run `count` times; the time of each.  # (count,)"""
        run, binding, clock = self._session.run_with_iobinding, self._binding, time.perf_counter_ns
        marks = [0] * (count + 1)
        marks[0] = clock()
        for index in range(1, count + 1):
            run(binding)
            marks[index] = clock()
        return np.diff(np.array(marks, dtype=np.int64)).astype(np.float64) / 1e3

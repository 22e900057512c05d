"""ONNX Runtime on the CPU."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import AutopruneError, Failure
from autoprune.hardware.profile import RuntimeInfo
from autoprune.hardware.runtimes import Runner, RunSettings

PROVIDER = "CPUExecutionProvider"
SILENT = 4  # refusals come back as failures; nothing else is worth a line
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


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
        }
        return RuntimeInfo(name="onnxruntime", version=str(_package().__version__), flags=flags)

    def compile(self, model: bytes, settings: RunSettings) -> Runner | Failure:
        """A session for the model, with its inputs filled from a fixed seed."""
        ort = _package()
        options = ort.SessionOptions()
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = SILENT
        options.add_free_dimension_override_by_name("batch", settings.batch)
        try:
            session = ort.InferenceSession(model, options, providers=[PROVIDER])
            return _Session(session, settings.batch)
        except MemoryError as error:
            return Failure("memory", f"onnxruntime: out of memory ({error})", "profile smaller widths")
        except Exception as error:  # the package raises classes of its own compiled module
            return Failure("compile", f"onnxruntime refused the model: {str(error)[:300]}", "see its release notes")


class _Session:
    """One session with bound inputs and outputs."""

    def __init__(self, session: Any, batch: int) -> None:
        self._session = session
        self._binding = session.io_binding()
        random = np.random.default_rng(0)
        self._inputs = {item.name: _sample(item, batch, random) for item in session.get_inputs()}
        outputs = session.run(None, self._inputs)
        self._outputs = dict(zip([item.name for item in session.get_outputs()], outputs, strict=True))
        for name, array in self._inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in self._outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run_us(self, count: int) -> npt.NDArray[np.float64]:
        """Run `count` times; the time of each.  # (count,)"""
        run, binding, clock = self._session.run_with_iobinding, self._binding, time.perf_counter_ns
        marks = [0] * (count + 1)
        marks[0] = clock()
        for index in range(1, count + 1):
            run(binding)
            marks[index] = clock()
        return np.diff(np.array(marks, dtype=np.int64)).astype(np.float64) / 1e3


def _sample(item: Any, batch: int, random: np.random.Generator) -> npt.NDArray[Any]:
    """Numbers of an input's shape and type; free dimensions are the batch."""
    shape = tuple(size if isinstance(size, int) and size > 0 else batch for size in item.shape)
    dtype = _TYPES.get(item.type, np.float32)
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype=dtype)

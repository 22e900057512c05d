"""TensorRT, through its program `trtexec`. It has not been run on such a device yet: only with a stand-in."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.hardware.importers.named import Report
from autoprune.hardware.importers.reading import not_negative, read_json_file
from autoprune.hardware.importers.tensorrt import layer_reports
from autoprune.hardware.profile import RuntimeInfo
from autoprune.hardware.runtimes import Floats, Runner, RunSettings, refused
from autoprune.hardware.runtimes.model import Model, onnx_of
from autoprune.hardware.runtimes.nodes import Node, by_operation
from autoprune.hardware.runtimes.onnx_precision import in_float16, in_int8

NAME = "tensorrt"
PROGRAM = "trtexec"
PRECISIONS = ("float32", "float16", "int8")
HINT = f"install TensorRT and put its program '{PROGRAM}' on the PATH"
TIMES = "trtexec times"
WARM_MS = 200
LONGEST_S = 1800.0  # of one call: building an engine tries many kernels
VERSION = re.compile(r"\[TensorRT v(\d+)\]")


class TensorRt:
    """An engine built of the ONNX model, replayed as a CUDA graph without transfers.

    Types are those of the model ("strongly typed"), as TensorRT 11 has it alone: "float16" and "int8" convert the model
    as for ONNX Runtime, float32 may use TF32. `device` is "cuda".
    """

    def describe(self, settings: RunSettings) -> RuntimeInfo:
        """Name, version and flags.

        Raises:
            InputError: the program is not there.
        """
        if shutil.which(PROGRAM) is None:
            raise InputError(f"the runtime '{NAME}' needs a program: {HINT}.")
        found = VERSION.search(_call("--help"))
        flags = {"program": PROGRAM, "strongly_typed": "true", "cuda_graph": "true", "data_transfers": "false"}
        return RuntimeInfo(name=NAME, version=found[1] if found else "unknown", flags={**flags, **settings.flags()})

    def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
        """An engine in a temporary folder that goes with the runner."""
        return _engine(model, settings)

    def node_us(self, model: Model, settings: RunSettings, runs: int) -> Mapping[str, Floats] | Failure:
        """TensorRT's own profile: it gives each layer's median or mean, so every run is given the same."""
        engine = _engine(model, settings)
        if isinstance(engine, Failure):
            return engine
        try:
            reports = engine.layers(runs)
            # No edges are told: what mentions no operation cannot be placed.
            nodes = [Node(report.name, (report.name,), (), (), moves=True) for report in reports]
            times = {report.name: np.full(runs, report.percentiles_us.get("p50", report.mean_us)) for report in reports}
        except AutopruneError as error:
            return Failure("run", f"{NAME}: {error}")
        return by_operation(times, nodes, model.parts)


def _engine(model: Model, settings: RunSettings) -> _Engine | Failure:
    if (failure := refused(NAME, settings, PRECISIONS, devices=("cuda",))) is not None:
        return failure
    if shutil.which(PROGRAM) is None:
        return Failure("unsupported", f"{NAME}: the program '{PROGRAM}' is not there", HINT)
    data = onnx_of(model)
    if isinstance(data, Failure):
        return data
    try:
        inputs = dict(zip(model.input_names, model.inputs(settings.batch), strict=True))
        if settings.precision == "float16":
            data = in_float16(data)
        elif settings.precision == "int8":
            data = in_int8(data, {name: tensor.numpy() for name, tensor in inputs.items()}, settings.batch)
        shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
        return _Engine(data, shapes if _is_free(data) else {})
    except Exception as error:  # converters raise classes of their own compiled modules
        return Failure("compile", f"{NAME} refused the model: {str(error)[-300:]}", "see its list of operators")


def _is_free(data: bytes) -> bool:
    """Whether an input has a size that is yet to be given."""
    inputs = onnx.load_model_from_string(data).graph.input
    return any(part.HasField("dim_param") for item in inputs for part in item.type.tensor_type.shape.dim)


class _Engine:
    """An engine on disk.

    Args:
        data: the ONNX model.
        shapes: of the inputs, where the model leaves sizes free.

    Raises:
        AutopruneError: the program fails.
    """

    def __init__(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="autoprune-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        model, self._plan = self._folder / "model.onnx", self._folder / "engine.plan"
        model.write_bytes(data)
        options = [f"--onnx={model}", f"--saveEngine={self._plan}", "--stronglyTyped", "--skipInference"]
        options.append("--profilingVerbosity=detailed")  # layers keep the names of the model's nodes
        if shapes:
            listed = (f"{name}:{'x'.join(str(size) for size in shape)}" for name, shape in shapes.items())
            options.append(f"--shapes={','.join(listed)}")
        _call(*options)

    def run_us(self, count: int) -> Floats:
        """Run `count` times; the time of each.  # (count,)

        Raises:
            AutopruneError: the program fails, or what it writes is not its times.
        """
        path = self._folder / "times.json"
        self._run(count, f"--exportTimes={path}", "--useCudaGraph")
        events = read_json_file(path, TIMES)
        if not isinstance(events, list) or len(events) < count or not all(isinstance(event, dict) for event in events):
            raise InputError(f"{TIMES} {path}: expected a list of at least {count} runs.")
        times = [not_negative(event.get("computeMs"), f"{TIMES} {path}, computeMs") for event in events]
        return 1e3 * np.array(times[-count:], dtype=np.float64)

    def layers(self, count: int) -> list[Report]:
        """What `count` runs say of every layer.

        Raises:
            AutopruneError: the program fails, or what it writes is not its profile.
        """
        path = self._folder / "profile.json"
        self._run(count, f"--exportProfile={path}")
        return layer_reports(read_json_file(path, "trtexec profile"), f"trtexec profile {path}")

    def _run(self, count: int, *options: str) -> None:
        """So many runs, after those of a warm-up that are not written down: every call is a process of its own."""
        limits = (f"--iterations={count}", "--duration=0", f"--warmUp={WARM_MS}", "--noDataTransfers", "--useSpinWait")
        _call(f"--loadEngine={self._plan}", *limits, *options)


def _call(*options: str) -> str:
    """What the program prints.

    Raises:
        AutopruneError: it fails, or takes half an hour.
    """
    try:
        done = subprocess.run(
            [PROGRAM, *options], capture_output=True, text=True, errors="replace", timeout=LONGEST_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AutopruneError(f"{PROGRAM}: {error}") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise AutopruneError(f"{PROGRAM} ended with status {done.returncode}: {said[-300:]}")
    return done.stdout

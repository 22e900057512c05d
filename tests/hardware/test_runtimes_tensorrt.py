"""TensorRT's adapter against a stand-in for `trtexec`: its arguments and its files alone, not TensorRT."""

from __future__ import annotations

import gc
import stat
import sys
import tempfile
from pathlib import Path

import onnx
import pytest

from autoprune.core.errors import Failure, InputError
from autoprune.hardware.runtimes import RunSettings
from autoprune.hardware.runtimes.contract import models
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.tensorrt import TensorRt

CUDA = RunSettings(batch=2, device="cuda")
STAND_IN = """#!{python}
import json, os, shutil, sys
from pathlib import Path
options = dict(part.partition("=")[::2] for part in sys.argv[1:])
with open({log!r}, "a") as log:
    print(json.dumps(options), file=log)
print("&&&& RUNNING TensorRT.trtexec [TensorRT v101300] # trtexec")
fault = os.environ.get("FAULT", "")
if fault == "status" or (fault == "run" and "--loadEngine" in options):
    print("[E] no such\\n device", file=sys.stderr)
    sys.exit(1)
if "--onnx" in options:
    shutil.copy(options["--onnx"], options["--saveEngine"])
runs = int(options.get("--iterations", 0))
if "--exportTimes" in options:
    times = [{{"computeMs": 0.5 + run / 8, "latencyMs": 9.0}} for run in range(runs + 1)]
    text = json.dumps(times[:1] if fault == "few" else times)
    Path(options["--exportTimes"]).write_text("[" if fault == "cut" else text)
if "--exportProfile" in options:
    layers = [{{"name": name, "averageMs": 0.2, "medianMs": 0.1}} for name in json.loads(os.environ["LAYERS"])]
    Path(options["--exportProfile"]).write_text(json.dumps([{{"count": runs}}, *layers]))
"""


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The stand-in is on the path; the file that has the options of every call."""
    log, program = tmp_path / "log", tmp_path / "bin" / "trtexec"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable, log=str(log)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return log


def options(log: Path) -> list[str]:
    return log.read_text().splitlines()


def test_the_engine_is_built_of_the_model_and_its_times_are_of_the_gpu(called: Path, tmp_path: Path) -> None:
    runner = TensorRt().compile(models()["a residual network"], CUDA)
    assert not isinstance(runner, Failure), runner
    assert runner.run_us(3).tolist() == [625.0, 750.0, 875.0]  # the last three, in microseconds
    build, run = options(called)
    for option in (
        '"--stronglyTyped"',
        '"--skipInference"',
        '"--shapes": "x:2x3x32x32"',
        '"--profilingVerbosity": "det',
    ):
        assert option in build
    for option in ('"--iterations": "3"', '"--useCudaGraph"', '"--noDataTransfers"', '"--duration": "0"'):
        assert option in run
    [folder] = tmp_path.glob("autoprune-*")
    del runner
    gc.collect()
    assert not folder.exists()


def test_sizes_that_are_fixed_are_not_given_again(called: Path) -> None:
    assert not isinstance(TensorRt().compile(models()["one convolution"], CUDA), Failure)
    assert "--shapes" not in options(called)[0]


@pytest.mark.parametrize(
    ("precision", "kind"), [("float16", onnx.TensorProto.FLOAT16), ("int8", onnx.TensorProto.INT8)]
)
def test_types_are_those_of_the_model(precision: str, kind: int, called: Path, tmp_path: Path) -> None:
    runner = TensorRt().compile(
        models()["a residual network"], RunSettings(batch=2, precision=precision, device="cuda")
    )
    assert not isinstance(runner, Failure), runner
    [plan] = tmp_path.glob("autoprune-*/engine.plan")
    assert kind in {weight.data_type for weight in onnx.load(str(plan)).graph.initializer}
    assert f"--{precision}" not in options(called)[0]  # gone in TensorRT 11


def test_layers_are_brought_to_operations(called: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models()["a residual network"]
    monkeypatch.setenv(
        "LAYERS", '["conv2d/Conv + relu/Relu", "Reformatting CopyNode for Input Tensor 0", "linear/Gemm"]'
    )
    found = TensorRt().node_us(model, CUDA, 4)
    assert not isinstance(found, Failure), found
    assert {name: times.tolist() for name, times in found.items() if times.max() > 0} == {
        "conv2d": [100.0] * 4,
        "linear": [100.0] * 4,
        "": [100.0] * 4,
    }
    assert "--useCudaGraph" not in options(called)[1]  # layers are told apart outside a graph alone


def test_describes_the_programs_version(called: Path) -> None:
    described = TensorRt().describe(CUDA)
    assert described.version == "101300"
    assert described.flags["device"] == "cuda"


@pytest.mark.usefixtures("called")
def test_a_build_that_fails_says_what_the_program_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "status")
    found = TensorRt().compile(models()["one convolution"], CUDA)
    assert isinstance(found, Failure)
    assert "trtexec ended with status 1: [E] no such device" in found.message


@pytest.mark.usefixtures("called")
def test_a_profile_that_fails_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "run")
    found = TensorRt().node_us(models()["one convolution"], CUDA, 2)
    assert isinstance(found, Failure)
    assert (found.kind, "no such device" in found.message) == ("run", True)


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize(("fault", "message"), [("few", "a list of at least 3 runs"), ("cut", "expected JSON")])
def test_times_that_are_not_there(fault: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = TensorRt().compile(models()["one convolution"], CUDA)
    assert not isinstance(runner, Failure)
    monkeypatch.setenv("FAULT", fault)
    with pytest.raises(InputError, match=message):
        runner.run_us(3)


@pytest.mark.usefixtures("called")
def test_what_is_no_model_or_not_had() -> None:
    garbage = TensorRt().compile(Model.of_onnx(b"not a model"), CUDA)
    assert isinstance(garbage, Failure)
    assert "tensorrt refused the model" in garbage.message
    here = TensorRt().compile(models()["one convolution"], RunSettings())
    assert isinstance(here, Failure)
    assert "expected a device among cuda, got 'cpu'" in here.message


def test_without_the_program_there_is_a_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = TensorRt().compile(models()["one convolution"], CUDA)
    assert isinstance(found, Failure)
    assert "put its program 'trtexec' on the PATH" in found.hint
    with pytest.raises(InputError, match="the runtime 'tensorrt' needs a program"):
        TensorRt().describe(CUDA)

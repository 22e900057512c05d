"""Stock tools: what they print is read as their sources write it, and kits run with stand-ins that print it."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import onnx
import pytest

from autoprune.core.errors import AutopruneError, InputError
from autoprune.hardware.kit import importing, planning, writing
from autoprune.hardware.kit.importing import import_kit
from autoprune.hardware.kit.planning import KitSettings
from autoprune.hardware.kit.tools import TOOLS, SessionTimes, together, tool_for
from autoprune.hardware.kit.writing import write_kit
from tests.hardware.kits import MODEL, TINY, quick, run, written
from tests.hardware.samples import graph_of

EXECUTOR_RUNNER = """I 00:00:00.000123 executorch:executor_runner.cpp:180] Resetting threadpool with num threads = 1
I 00:00:00.001 executorch:executor_runner.cpp:400] Model loaded in 0.512000 ms.
I 00:00:00.002 executorch:executor_runner.cpp:480] Iteration 1 of 4: 9.000000 ms
I 00:00:00.003 executorch:executor_runner.cpp:480] Iteration 2 of 4: 0.010000 ms
I 00:00:00.004 executorch:executor_runner.cpp:480] Iteration 3 of 4: 0.012000 ms
I 00:00:00.005 executorch:executor_runner.cpp:480] Iteration 4 of 4: 0.014000 ms
I 00:00:00.006 executorch:executor_runner.cpp:490] Model executed successfully 4 time(s) in 9.036000 ms.
OutputX 0: tensor(sizes=[1, 4], [0.1, 0.2, 0.3, 0.4])
"""
OLDER_EXECUTOR_RUNNER = (
    "I 00:00:00.006 executorch:executor_runner.cpp:300] Model executed successfully 4 time(s) in 0.048 ms.\n"
)
BENCHMARK_MODEL = """STARTING!
Loaded model models/k00000.tflite
Running benchmark for at least 1 iterations and at least 0.005 seconds but terminate if exceeding 150 seconds.
count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930

Running benchmark for at least 3 iterations and at least 0.02 seconds but terminate if exceeding 150 seconds.
count=50 first=13 curr=12 min=11 max=14 avg=12.0 std=1
{newer}
Inference timings in us: Init: 855, First inference: 49060, Warmup (avg): 34825.1, Inference (avg): 12
"""
TRTEXEC = """[10/03/2024-10:47:59] [I] === Performance summary ===
[10/03/2024-10:47:59] [I] Throughput: 130.298 qps
[10/03/2024-10:47:59] [I] Latency: min = 5.38672 ms, max = 13.3664 ms, mean = 7.60628 ms, median = 7.16092 ms
[10/03/2024-10:47:59] [I] GPU Compute Time: min = 0.011 ms, max = 0.02 ms, mean = 0.0125 ms, median = 0.012 ms, \
percentile(90%) = 0.013 ms, percentile(95%) = 0.014 ms, percentile(99%) = 0.015 ms
"""
BENCHNCNN = """loop_count = 3
num_threads = 1
         models/k00000.ncnn.param  min =    0.01  max =    0.03  avg =    0.02
"""


def parsed(runtime: str, text: str, warmup: int = 1) -> SessionTimes | None:
    """What a tool's parser makes of a text."""
    return TOOLS[runtime].parse(text.splitlines(), "the log", warmup)


def test_executor_runner_tells_every_execution() -> None:
    found = parsed("executorch", EXECUTOR_RUNNER)
    assert found is not None
    assert found.n == 3  # the first was the warm-up
    assert found.percentiles_us["p50"] == pytest.approx(12.0)
    assert found.mean_us == pytest.approx(12.0)


def test_an_older_executor_runner_tells_their_sum() -> None:
    found = parsed("executorch", OLDER_EXECUTOR_RUNNER)
    assert found is not None
    assert (found.n, found.std_us) == (4, 0.0)
    assert found.mean_us == pytest.approx(12.0)
    assert found.percentiles_us["p99"] == pytest.approx(12.0)


def test_benchmark_model_tells_mean_and_spread_and_newer_ones_percentiles() -> None:
    found = parsed("litert", BENCHMARK_MODEL)
    assert found is not None
    assert (found.n, found.mean_us, found.std_us) == (50, 12.0, 1.0)
    assert found.percentiles_us["p50"] == 12.0
    assert found.percentiles_us["p90"] == pytest.approx(13.2816)
    newer = BENCHMARK_MODEL.replace("avg=12.0 std=1", "avg=12.0 std=1 p5=11 median=11.5 p95=15")
    found = parsed("litert", newer)
    assert found is not None
    assert (found.percentiles_us["p50"], found.percentiles_us["p95"]) == (11.5, 15.0)
    assert list(found.percentiles_us.values()) == sorted(found.percentiles_us.values())


def test_trtexec_tells_the_time_on_the_device() -> None:
    found = parsed("tensorrt", TRTEXEC)
    assert found is not None
    assert found.mean_us == pytest.approx(12.5)
    assert found.percentiles_us == pytest.approx({"p50": 12.0, "p90": 13.0, "p95": 14.0, "p99": 15.0})


def test_benchncnn_tells_the_mean() -> None:
    found = parsed("ncnn", BENCHNCNN)
    assert found is not None
    assert found.mean_us == pytest.approx(20.0)


@pytest.mark.parametrize("runtime", TOOLS)
def test_words_without_times_are_none(runtime: str) -> None:
    assert parsed(runtime, "") is None


@pytest.mark.parametrize(
    ("runtime", "text"),
    [
        ("executorch", EXECUTOR_RUNNER.replace("0.012000", "nan")),
        ("executorch", OLDER_EXECUTOR_RUNNER.replace("0.048", "-1")),
        ("litert", BENCHMARK_MODEL.replace("avg=12.0", "avg=nan")),
        ("tensorrt", TRTEXEC.replace("median = 0.012", "median = 0")),
        ("ncnn", BENCHNCNN.replace("avg =    0.02", "avg =    inf")),
        ("onnxruntime", "1.0\nfast\n"),
    ],
)
def test_times_that_are_none_are_refused(runtime: str, text: str) -> None:
    with pytest.raises(InputError, match="the log: expected a time above zero, got"):
        parsed(runtime, text)


def test_sessions_together() -> None:
    first = SessionTimes.of_runs([1.0, 2.0, 3.0])
    second = SessionTimes.of_runs([3.0, 4.0, 5.0])
    both = together([first, second])
    assert (both.n, both.mean_us) == (6, 3.0)
    assert both.std_us == pytest.approx(SessionTimes.of_runs([1.0, 2.0, 3.0, 3.0, 4.0, 5.0]).std_us)
    assert both.percentiles_us["p50"] == 3.0


STAND_INS = {
    "executorch": ("executor_runner", EXECUTOR_RUNNER),
    "litert": ("benchmark_model", BENCHMARK_MODEL),
    "ncnn": ("benchncnn", BENCHNCNN),
    "tensorrt": ("trtexec", TRTEXEC),
}


@pytest.mark.parametrize("runtime", ["litert", "ncnn", "tensorrt"])
def test_a_kit_for_a_tool_that_reads_onnx_or_converts_it(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in prints what the tool prints; the way through shell, logs and import is the real one."""
    monkeypatch.setattr(planning, "_machine_models", lambda batch: [])
    monkeypatch.setattr(importing, "ENOUGH", 1.0)
    kit = tmp_path / "kit"
    manifest = written(kit, runtime=runtime, kernels=3, whole_models=2)
    program, printed = STAND_INS[runtime]
    script = f'#!/bin/sh\necho "$*" >>calls\n[ "$1" = --help ] && echo "[TensorRT v100300]"\ncat <<"E"\n{printed}E\n'
    (kit / program).write_text(script)
    (kit / program).chmod(0o755)
    _converters(tmp_path / "bin")
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    if TOOLS[runtime].converter:
        assert "found none. Where the kit holds other files: sh run.sh convert" in run(kit, PATH=path).stderr
        assert _convert(kit, path) == 0
        suffix = {"litert": "tflite", "ncnn": "ncnn.param"}[runtime]
        assert len(list((kit / "models").glob(f"*.{suffix}"))) == 6
    ran = run(kit, PATH=path)
    assert ran.returncode == 0, ran.stderr
    profile = import_kit(kit)
    assert len(profile.kernels) == 3
    assert profile.header.runtime.name == runtime
    assert profile.header.runtime.version.startswith("100300" if runtime == "tensorrt" else "cksum-")
    assert profile.header.device.kind == {"litert": "mobile", "ncnn": "mobile", "tensorrt": "gpu"}[runtime]
    assert f"autoprune's authors have not run {program} themselves" in profile.header.validation.notes
    calls = (kit / "calls").read_text().splitlines()
    assert sum("models/" in call for call in calls) == len(manifest.order)
    expected = {
        "litert": "--graph=models/k00000.tflite --num_threads=1 --warmup_runs=1",
        "ncnn": "3 1 2 -1 0 param=models/w000.ncnn.param shape=[8,8,3]",
        "tensorrt": "--onnx=models/k00000.onnx --iterations=3",
    }[runtime]
    assert any(call.startswith(expected) for call in calls), calls


def _converters(folder: Path) -> None:
    """Stand-ins for onnx2tf and pnnx: files where those leave them."""
    folder.mkdir()
    for name, line in (
        ("onnx2tf", 'mkdir -p "$4" && cp "$2" "$4/m_float32.tflite"'),
        ("pnnx", 'cp "$1" "${1%.onnx}.ncnn.param"'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)


def _convert(kit: Path, path: str) -> int:
    command = ["sh", "run.sh", "convert"]
    return subprocess.run(command, cwd=kit, env={"PATH": path}, capture_output=True, check=False).returncode


def test_models_of_a_kit_have_fixed_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_machine_models", lambda batch: [])
    manifest = written(tmp_path / "kit", batch=3, kernels=2, whole_models=1)
    for model in manifest.models:
        found = onnx.load(tmp_path / "kit" / model.file)
        for value in (*found.graph.input, *found.graph.output):
            sizes = value.type.tensor_type.shape.dim
            assert all(size.dim_value > 0 for size in sizes)
        assert found.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3


def test_executorch_programs_are_written_by_its_exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("executorch", reason="the extra 'executorch' is not installed")
    monkeypatch.setattr(planning, "_machine_models", lambda batch: [])
    manifest = written(tmp_path / "kit", runtime="executorch", kernels=2, whole_models=1)
    assert {model.file.rpartition(".")[2] for model in manifest.models} == {"pte"}
    for model in manifest.models:
        assert (tmp_path / "kit" / model.file).read_bytes()[4:8] == b"ET12"  # the format's own mark
    kit = tmp_path / "kit"
    (kit / "executor_runner").write_text(f'#!/bin/sh\necho "$*" >>calls\ncat <<"E"\n{EXECUTOR_RUNNER}E\n')
    (kit / "executor_runner").chmod(0o755)
    assert run(kit).returncode == 0
    calls = (kit / "calls").read_text().splitlines()
    assert "--model_path=models/k00000.pte --num_executions=4 --cpu_threads=1" in calls
    assert all(row.n == 3 for row in import_kit(kit).kernels)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"runtime": "openvino"}, r"unknown runtime of a kit 'openvino'.*executorch \(pte\), litert \(onnx\)"),
        ({"precision": "int8"}, "expected a precision among float32 for onnxruntime, got 'int8'"),
        ({"runtime": "tensorrt", "precision": "int8"}, "among float32, float16 for tensorrt, got 'int8'"),
    ],
)
def test_kits_that_cannot_be_written(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        written(tmp_path / "kit", **fields)
    assert not (tmp_path / "kit").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        written(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_same_kit_again_is_the_same_and_its_logs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_machine_models", lambda batch: [])
    first = written(tmp_path / "kit", kernels=3, whole_models=1)
    (tmp_path / "kit" / "logs").mkdir()
    assert written(tmp_path / "kit", kernels=3, whole_models=1).id == first.id
    assert (tmp_path / "kit" / "logs").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kit"]
    with pytest.raises(InputError, match="which holds something else"):
        written(tmp_path / "kit", kernels=4, whole_models=1)


def test_nothing_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> bytes:
        raise AutopruneError("no emitter")

    monkeypatch.setattr(writing, "model_bytes", refuse)
    with pytest.raises(AutopruneError, match=r"not one kernel can be written for onnxruntime: .*no emitter"):
        write_kit(graph_of(MODEL), tmp_path / "kit", quick(kernels=2))


def test_the_first_session_goes_from_coarse_to_fine_with_the_sentinel_between() -> None:
    plan = planning.plan_kit(graph_of(MODEL), None, KitSettings(kernels=100, protocol=TINY))
    order = planning.run_order(plan.models, 2, 0)
    details = {model.id: model.detail for model in plan.models}
    first = [model for log, model in order if log.startswith("s0-")]
    kernels = [details[model] for model in first if model.startswith("k")]
    assert kernels == sorted(kernels)
    assert first[0] == first[-1] == "sentinel"
    gaps = [index for index, model in enumerate(first) if model == "sentinel"]
    assert max(b - a for a, b in itertools.pairwise(gaps)) == planning.EVERY + 1
    whole = [first.index(model.id) for model in plan.models if model.role == "whole"]
    assert max(whole) < len(first) - 1
    assert min(whole) > first.index("empty")
    second = [model for log, model in order if log.startswith("s1-")]
    assert sorted(second) == sorted(first)
    assert second != first


def test_a_tool_of_every_runtime_has_its_shell_file() -> None:
    assert {path.stem for path in (writing.FAR / "tools").glob("*.sh")} == set(TOOLS)
    for runtime, tool in TOOLS.items():
        text = (writing.FAR / "tools" / f"{runtime}.sh").read_text()
        assert f"TOOL_UNIT={tool.unit}\n" in text
        assert tool.program in text
        assert tool.converter in text
        assert tool_for(runtime) is tool

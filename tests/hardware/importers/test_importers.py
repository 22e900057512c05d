"""Every importer: the contract, what it reads, and every way in which its file can be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.errors import InputError
from autoprune.graph import trace
from autoprune.graph.fusion import kernel_slots
from autoprune.graph.kernel import Kernel
from autoprune.graph.onnx import onnx_model
from autoprune.hardware.importers import IMPORTERS, Imported, ImportSettings, Timing
from autoprune.hardware.importers.contract import check_importer
from autoprune.hardware.importers.layers import Layers
from autoprune.hardware.importers.ofa import OnceForAll, ProxylessNas
from autoprune.hardware.importers.profile import Origin, import_profile, named_kernels
from autoprune.hardware.importers.rows import kernel_rows
from autoprune.hardware.latency import LatencyTable
from autoprune.hardware.profile import load_profile
from tests.hardware.importers.files import COLUMNS as MAP
from tests.hardware.importers.files import CSV, LITERT, NN_METER, OFA, PROXYLESS, TENSORRT, events, small_graph, written

ORIGIN = Origin(name="imported", device="Phone", kind="mobile")


def read(format: str, folder: Path, content: str | None = None) -> Imported:
    path, settings = written(format, folder, content)
    return IMPORTERS.get(format)().read(path, settings)


@pytest.mark.parametrize("name", IMPORTERS.names())
def test_contract(name: str, tmp_path: Path) -> None:
    path, settings = written(name, tmp_path)
    check_importer(name, IMPORTERS.get(name)(), path, settings, tmp_path)


def test_contract_says_what_is_broken(tmp_path: Path) -> None:
    class Gullible:
        def read(self, path: Path, settings: ImportSettings) -> Imported:
            return Imported((Timing("line 1", Layers((1, 4)).linear(2).kernels(), 1.0),))

    path, settings = written("csv", tmp_path)
    with pytest.raises(AssertionError, match="mine: missing file: expected an InputError that names the file"):
        check_importer("mine", Gullible(), path, settings, tmp_path)


def test_unknown_format_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown importer 'tensort'. Did you mean 'tensorrt'"):
        import_profile("tensort", tmp_path / "x", ORIGIN)


# Kernels under the keys of traced models


class Block(nn.Module):
    """An inverted residual block, as MobileNetV2 has them."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(24, 144, 1, bias=False), nn.BatchNorm2d(144)
        self.depthwise, self.norm2 = nn.Conv2d(144, 144, 3, 1, 1, groups=144, bias=False), nn.BatchNorm2d(144)
        self.project, self.norm3 = nn.Conv2d(144, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.act = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.expand(x)))
        y = self.act(self.norm2(self.depthwise(y)))
        y = self.norm3(self.project(y))
        return x + y


def test_a_block_is_the_kernels_of_the_same_block_traced(tmp_path: Path) -> None:
    key = "expanded_conv-input:56x56x24-output:56x56x24-expand:6-kernel:3-stride:1-idskip:1"
    timings = read("proxylessnas", tmp_path).timings
    [found] = [timing for timing in timings if timing.place.endswith(key)]
    graph = trace(Block().eval(), torch.zeros(2, 24, 56, 56))
    assert set(found.kernels) == {slot.kernel({}) for slot in kernel_slots(graph.program)}
    assert found.mean_us == 3500
    assert found.std_us == pytest.approx(200)
    assert found.n == 51


@pytest.mark.parametrize(
    ("layers", "module", "shape"),
    [
        (
            lambda: Layers((1, 3, 32, 32)).conv(8, 3, (16, 16), 2).activation("relu"),
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
            (3, 32, 32),
        ),
        (lambda: Layers((1, 16)).linear(8), nn.Sequential(nn.Linear(16, 8)), (16,)),
        (lambda: Layers((1, 8, 9, 9)).pool("max", 3, 2), nn.Sequential(nn.MaxPool2d(3, 2, 1)), (8, 9, 9)),
        (lambda: Layers((1, 8, 8, 8)).pool("avg", 2, 2), nn.Sequential(nn.AvgPool2d(2, 2)), (8, 8, 8)),
        (lambda: Layers((1, 8, 8, 8)).global_pool(), nn.Sequential(nn.AdaptiveAvgPool2d(1)), (8, 8, 8)),
        (lambda: Layers((1, 8, 8, 8)).activation("hswish"), nn.Sequential(nn.Hardswish()), (8, 8, 8)),
    ],
)
def test_layers_have_the_keys_of_traced_models(
    layers: Callable[[], Layers], module: nn.Module, shape: tuple[int, ...]
) -> None:
    graph = trace(module.eval(), torch.zeros(2, *shape))
    assert layers().kernels() == tuple(slot.kernel({}) for slot in kernel_slots(graph.program))


def test_layers_that_cannot_be() -> None:
    with pytest.raises(InputError, match="an output that a 3x3 convolution of stride 2 leaves of 8x8, got 7x7"):
        Layers((1, 3, 8, 8)).conv(4, 3, (7, 7), 2)
    with pytest.raises(InputError, match="channels that 3 groups divide, got 8 in and 8 out"):
        Layers((1, 8, 8, 8)).conv(8, 3, (8, 8), 1, groups=3)


# From times to rows


def test_sums_are_kept_and_split_by_work(tmp_path: Path) -> None:
    timings = read("ofa", tmp_path).timings
    rows = {(row.family, row.sizes): row for row in kernel_rows(timings)}
    for timing in timings:
        total = sum(rows[kernel.family, kernel.sizes].mean_us for kernel in timing.kernels)
        assert total == pytest.approx(timing.mean_us)
    assert all(row.provenance == "imported" for row in rows.values())
    assert all(row.p50_us <= row.p90_us <= row.p95_us <= row.p99_us for row in rows.values())


def test_split_recovers_what_a_roofline_made() -> None:
    """Two-kernel sums of known parts, beside single ones that teach the proportions."""
    random = np.random.default_rng(0)
    truth: dict[Kernel, float] = {}
    timings: list[Timing] = []
    for index in range(40):
        side, channels, hidden = (int(x) for x in random.choice([8, 16, 32, 64], 3))
        network = Layers((1, channels, side, side)).conv(hidden, 3, (side, side)).conv(channels, 1, (side, side))
        kernels = network.kernels()
        if len(set(kernels) & truth.keys()) or len(set(kernels)) < 2:
            continue
        parts = [5.0 + 1e-4 * 18 * side * side * channels * hidden, 3.0 + 4e-4 * 2 * side * side * channels * hidden]
        truth.update(zip(kernels, parts, strict=True))
        timings.append(Timing(str(index), kernels, sum(parts)))
        if index % 4 == 0:
            timings.append(Timing(f"{index}, first", kernels[:1], parts[0]))
    rows = {(row.family, row.sizes): row.mean_us for row in kernel_rows(timings)}
    errors = [abs(rows[kernel.family, kernel.sizes] / time - 1) for kernel, time in truth.items()]
    assert len(timings) > 15
    assert np.median(errors) < 0.15


def test_several_times_of_one_kernel_are_their_median() -> None:
    kernels = Layers((1, 4)).linear(2).kernels()
    [row] = kernel_rows([Timing(str(time), kernels, time, n=10) for time in (1.0, 2.0, 9.0)])
    assert row.mean_us == 2.0
    assert row.n == 30


def test_spread_gives_percentiles_and_given_ones_are_kept() -> None:
    kernels = Layers((1, 4)).linear(2).kernels()
    [row] = kernel_rows([Timing("a", kernels, 10.0, 1.0, 5)])
    assert (row.p50_us, row.p90_us, row.p99_us) == pytest.approx((10.0, 11.2816, 12.3263))
    [row] = kernel_rows([Timing("a", kernels, 10.0, 1.0, 5, {"p50": 9.5, "p90": 30.0})])
    assert (row.p50_us, row.p90_us, row.p95_us) == (9.5, 30.0, 30.0)


@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_a_time_in_another_unit_is_found(factor: float) -> None:
    timings = []
    for index, width in enumerate(range(16, 160, 8)):
        time = 5.0 + 0.01 * width * width
        wrong = factor if index == 9 else 1.0
        timings.append(Timing(f"line {index + 2}", Layers((1, width)).linear(width).kernels(), time * wrong))
    with pytest.raises(InputError, match=r"line 11: expected times of one unit, got"):
        kernel_rows(timings)
    assert len(kernel_rows([t for t in timings if t.place != "line 11"])) == 17


def test_no_times() -> None:
    with pytest.raises(InputError, match="at least one kernel's time, got none"):
        kernel_rows([])


# Latency tables


def test_network_sum_and_a_missing_key(tmp_path: Path) -> None:
    path, _ = written("proxylessnas", tmp_path)
    table = ProxylessNas().table(path)
    keys = list(table.times_us)
    assert table.network_us(keys) == pytest.approx(11_300)
    missing = keys[1].replace("kernel:5", "kernel:7")
    with pytest.raises(InputError, match=re.escape(missing)):
        table.network_us([*keys, missing])


def test_expand_is_channels_in_one_format_and_a_ratio_in_the_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"at least 16, got 3; that is a ratio.*'proxylessnas'"):
        read("ofa", tmp_path, PROXYLESS)
    with pytest.raises(InputError, match=r"at most 12, got 16; that is a number of channels.*'ofa'"):
        read("proxylessnas", tmp_path, OFA)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Conv-input:96x96x3-output:48x48x16: {mean: -1.0}", "time above zero, got -1.0"),
        ("Conv-input:96x96x3-output:48x48x16: {mean: .nan}", "time above zero, got nan"),
        ("Conv-input:96x96x3-output:48x48x16: {mean: fast}", "time above zero, got 'fast'"),
        ("Conv-input:96x96x3-output:48x48x16: {mean: 1.0, std: -2}", "std: expected a finite number >= 0"),
        ("Conv-input:96x96x3-output:48x48x16: {mean: 1.0, count: 0}", "count: expected a whole number"),
        ("Conv-input:96x96x3-output:48x48x16: 1.5", "mean, std, count"),
        ("Conv-input:96x96x3-output:48x48x16: {mean: 1e9}", "over an hour. Check the unit"),
        ("Conv-input:160x160x3-output:80x16: {mean: 1.0}", "expected output:HxWxC, got '80x16'"),
        ("Conv-input:160x160x3: {mean: 1.0}", "expected 'output:' in the key"),
        ("Deconv-input:8x8x3-output:8x8x16: {mean: 1.0}", "expected a layer of Conv,"),
        ("hello: {mean: 1.0}", "expected <layer>-input:HxWxC"),
        (
            "expanded_conv-input:80x80x16-output:40x40x24-expand:64-kernel:5-stride:2: {mean: 1.0}",
            "expected 'idskip:' in the key",
        ),
        (
            "expanded_conv-input:80x80x16-output:40x40x24-expand:64-kernel:5-stride:2-idskip:1: {mean: 1.0}",
            "equal input and output where idskip is 1",
        ),
        ("? [a, b]\n: 1", "expected text as key"),
        (OFA.splitlines()[0], "stands twice"),
        ("a: &a [x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]", "aliases"),
        ("Conv-input:9999999999999x1x3-output:80x80x16: {mean: 1.0}", "expected a whole number from 1"),
    ],
)
def test_wrong_latency_tables(line: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        read("ofa", tmp_path, OFA + line + "\n")


def test_a_huge_table_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at most 4194304 bytes"):
        read("ofa", tmp_path, "#" * (4 * 1024 * 1024 + 1))


# nn-Meter


def nn_meter(kind: str = "conv-bn-relu", config: dict[str, object] | None = None, **entry: object) -> str:
    given = {**NN_METER["conv-bn-relu"]["id_0"], **entry}
    if config is not None:
        given["config"] = {**dict(NN_METER["conv-bn-relu"]["id_0"]["config"]), **config}
    return json.dumps({kind: {"id_0": given}})


def test_nn_meter_kernels(tmp_path: Path) -> None:
    found = read("nn-meter", tmp_path)
    first = found.timings[0]
    assert first.kernels == Layers((1, 16, 28, 28)).conv(32, 3, (14, 14), 2).activation("relu").kernels()
    assert first.mean_us == pytest.approx(750)
    assert first.std_us == pytest.approx(20)
    assert found.notes == ("1 of type channelshuffle left out: no kernel of its own",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (nn_meter(latency="fast"), "got 'fast'"),
        (nn_meter(latency="-1 +- 0.1"), "time above zero"),
        (nn_meter(latency="nan +- 0.1"), "time above zero"),
        (nn_meter(latency="1 2 3"), "expected '<mean> \\+- <std>'"),
        (nn_meter(config={"HW": 0}), "HW: expected a whole number from 1"),
        (nn_meter(config={"HW": 2.5}), "HW: expected a whole number from 1"),
        (nn_meter("warp"), "expected a kernel type of conv-"),
        (nn_meter("conv-magic"), "expected an ending of bn,"),
        ('{"fc": {"id_0": {"latency": "1 +- 0"}}}', "DETAIL: TRUE"),
        ('{"fc": {"id_0": {"config": {}, "latency": "1 +- 0"}}}', "expected 'CIN' in 'config'"),
        ('{"fc": 3}', "kernel type: "),
        ('{"fc": {}, "fc": {}}', "each key once, got 'fc' twice"),
        ('{"fc": NaN}', "expected finite numbers, got NaN"),
        (json.dumps({"fc": {"a": NN_METER["fc"]["id_0"], "b": NN_METER["fc"]["id_0"]}}), "configuration once"),
    ],
)
def test_wrong_nn_meter_files(content: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        read("nn-meter", tmp_path, content)


# Files that name operations


def test_tensorrt_layers(tmp_path: Path) -> None:
    found = read("tensorrt", tmp_path)
    slots = kernel_slots(small_graph().program)
    times = {timing.kernels: timing for timing in found.timings}
    assert times[(slots[0].kernel({}),)].mean_us == pytest.approx(70)  # with its reformat
    assert times[(slots[1].kernel({}),)].mean_us == pytest.approx(30)
    assert times[(slots[1].kernel({}),)].percentiles_us == {"p50": 30.0}
    assert all(timing.n == 1000 for timing in found.timings)


def test_onnxruntime_events(tmp_path: Path) -> None:
    found = read("onnxruntime", tmp_path)
    slots = kernel_slots(small_graph().program)
    times = {timing.kernels: timing.mean_us for timing in found.timings}
    assert times[(slots[0].kernel({}),)] == pytest.approx(20.5 + 3.5)  # both nodes of one kernel, without run 1
    assert times[(slots[1].kernel({}),)] == pytest.approx(10.5)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("1 reports (")


def test_litert_table(tmp_path: Path) -> None:
    found = read("litert", tmp_path)
    assert [timing.mean_us for timing in found.timings] == pytest.approx([60, 30, 10])


def test_a_real_onnxruntime_trace(tmp_path: Path) -> None:
    import onnxruntime

    graph = small_graph()
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.intra_op_num_threads = True, 1
    options.profile_file_prefix = str(tmp_path / "trace")
    model = onnx_model(graph.program, {}, graph.state).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {item.name: np.zeros((1, 3, 8, 8), dtype=np.float32) for item in session.get_inputs()}
    for _ in range(4):
        session.run(None, feed)
    path = Path(session.end_profiling())
    profile = import_profile("onnxruntime", path, ORIGIN, ImportSettings(model=named_kernels(graph)))
    kernels = {slot.kernel({}) for slot in kernel_slots(graph.program)}
    assert {(row.family, row.sizes) for row in profile.kernels} <= {(k.family, k.sizes) for k in kernels}
    assert {"conv", "pointwise", "linear"} <= {row.operator for row in profile.kernels}


@pytest.mark.parametrize("format", ["tensorrt", "onnxruntime", "litert"])
def test_the_model_is_needed(format: str, tmp_path: Path) -> None:
    path, _ = written(format, tmp_path)
    with pytest.raises(InputError, match=r"expected the model that was measured as well.*--model"):
        IMPORTERS.get(format)().read(path, ImportSettings())


@pytest.mark.parametrize(
    ("format", "content", "expected"),
    [
        ("tensorrt", TENSORRT.replace("0.06,", "-1,"), "number >= 0, got -1"),
        ("tensorrt", TENSORRT.replace("0.06,", "NaN,"), "expected finite numbers, got NaN"),
        ("tensorrt", TENSORRT.replace("linear/Gemm", "conv2d/Conv + relu/Relu"), "each layer once"),
        ("tensorrt", TENSORRT.replace('"averageMs" : 0.06,', ""), "expected layers with 'name' and 'averageMs'"),
        ("tensorrt", '[{"count": 5}]', "with 'name' and 'averageMs', got none"),
        ("tensorrt", '[{"name": "a", "averageMs": 1}]', "names of the model's operations, such as 'conv2d'"),
        ("onnxruntime", events().replace('"dur": 20', '"dur": -20'), "number >= 0, got -20"),
        ("onnxruntime", events().replace('"dur": 20', '"dur": "x", "was": 1'), "number >= 0, got 'x'"),
        ("onnxruntime", "[]", "events of category 'Node'"),
        ("onnxruntime", "[1]", "event 0: expected an object"),
        ("onnxruntime", '{"traceEvents": []}', "list of events, got dict"),
        ("litert", LITERT.replace("0.11, 0.06", "0.11, -0.06"), "number >= 0, got '-0.06'"),
        ("litert", LITERT.replace("0.11, 0.06", "0.11, nan"), "number >= 0, got 'nan'"),
        ("litert", LITERT.replace("avg_ms", "avg_us"), "expected the columns 'avg_ms' and 'name'"),
        ("litert", LITERT[: LITERT.index("MEAN")], "add up to all of the time, got 90.0 %"),
        ("litert", LITERT[: LITERT.index("0.034")], "expected 9 fields, got 3"),
        ("litert", LITERT[: LITERT.index("CONV_2D")], "expected nodes below the header"),
    ],
)
def test_wrong_files_of_names(format: str, content: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        read(format, tmp_path, content)


# Tables by a column map


def columns(tmp_path: Path, text: str, content: str = CSV) -> Imported:
    path, _ = written("csv", tmp_path, content)
    mapping = tmp_path / "map.yaml"
    mapping.write_text(text)
    return IMPORTERS.get("csv")().read(path, ImportSettings(columns=mapping))


def test_csv_rows(tmp_path: Path) -> None:
    timings = read("csv", tmp_path).timings
    assert len(timings) == 3
    assert timings[0].kernels == Layers((1, 3, 224, 224)).conv(16, 3, (112, 112), 2).activation("relu").kernels()
    assert timings[0].mean_us == pytest.approx(752.00001)
    assert timings[2].kernels == Layers((1, 16)).linear(48).activation("relu").kernels()


@pytest.mark.parametrize(
    ("layer", "network"),
    [
        ("matmul", Layers((7, 5, 3)).matmul(4)),
        ("softmax", Layers((7, 5, 3)).softmax()),
        ("layer_norm", Layers((7, 5, 3)).layer_norm()),
        ("linear", Layers((7, 5, 3)).linear(4)),
        ("add", Layers((7, 3, 8, 8)).add()),
        ("relu", Layers((7, 3, 8, 8)).activation("relu")),
        ("global_pool", Layers((7, 3, 8, 8)).global_pool()),
        ("maxpool", Layers((7, 3, 8, 8)).pool("max", 3, 2)),
    ],
)
def test_other_layers_of_a_table(layer: str, network: Layers, tmp_path: Path) -> None:
    text = f"""
operator: op
operators: {{x: {layer}}}
time: {{column: t, unit: us, std: s, count: c}}
columns: {{batch: b, rows: m, in_channels: k, out_channels: o, height: h, kernel: ks, stride: st}}
"""
    [timing] = columns(tmp_path, text, "op,t,s,c,b,m,k,o,h,ks,st\nx,12,1,20,7,5,3,4,8,3,2\n").timings
    assert timing.kernels == network.kernels()
    assert (timing.mean_us, timing.std_us, timing.n) == (12, 1, 20)


@pytest.mark.parametrize(
    ("text", "content", "expected"),
    [
        (MAP, CSV + "CONV_2D,0.7,224,3,16,3,2\n", "line 6: expected each kernel once, got that of line 2 again"),
        (MAP, CSV + "CONV_2D,0.7,224,3\n", "line 6: expected 7 fields, got 4"),
        (MAP, CSV + "CONV_2D,-1,224,3,17,3,2\n", "line 6, column 'latency_ms': expected a time above zero, got '-1'"),
        (MAP, CSV + "CONV_2D,nan,224,3,17,3,2\n", "expected a time above zero, got 'nan'"),
        (MAP, CSV + "CONV_2D,1 ms,224,3,17,3,2\n", "expected a time above zero, got '1 ms'"),
        (MAP, CSV + "CONV_2D,1,224,3,x,3,2\n", "column 'cout': expected a whole number"),
        (MAP, CSV + "POOL,1,224,3,x,3,2\n", "an operator of the column map.*got 'POOL'.*with null"),
        (MAP, CSV + '"CONV_2D,1\n', "expected CSV"),
        (MAP, "a" * 5000 + "\n", "cells of at most 4096"),
        (MAP, CSV.replace("stride", "cin"), "misses stride"),
        (MAP.replace("ms}", "lightyears}"), CSV, "time.unit"),
        (MAP + "colour: red\n", CSV, "unknown key 'colour'"),
        (MAP.replace("kernel: ks, ", ""), CSV, "column map to name a column for 'kernel'"),
    ],
)
def test_wrong_tables(text: str, content: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        columns(tmp_path, text, content)


def test_a_table_needs_its_map(tmp_path: Path) -> None:
    path, _ = written("csv", tmp_path)
    with pytest.raises(InputError, match=r"expected a column map for a CSV file, got none. Give it with --columns"):
        IMPORTERS.get("csv")().read(path, ImportSettings())


def test_repeated_kernels_may_be_asked_for(tmp_path: Path) -> None:
    found = columns(tmp_path, MAP + "repeated: median\n", CSV + "CONV_2D,0.8,224,3,16,3,2\n")
    [row] = [row for row in kernel_rows(found.timings) if row.operator == "conv"]
    assert row.mean_us == pytest.approx(776)


# Profiles


def test_an_imported_profile_predicts_and_says_what_it_is(tmp_path: Path) -> None:
    path, settings = written("tensorrt", tmp_path)
    import_profile("tensorrt", path, ORIGIN, settings).save(tmp_path / "profile")
    profile = load_profile(tmp_path / "profile")
    assert profile.header.provenance == "imported"
    assert profile.header.environment["imported_from"] == path.name
    table = LatencyTable(profile, small_graph())
    dense = np.array([[group.size for group in small_graph().groups.values()]])
    assert table.latency_us(dense)["p50"][0] >= 105
    low, high = table.interval_us(dense)["p50"]
    assert low[0] < high[0]


def test_split_times_are_noted(tmp_path: Path) -> None:
    path, settings = written("ofa", tmp_path)
    profile = import_profile("ofa", path, ORIGIN, settings)
    assert profile.header.validation.notes == (
        "2 times of several kernels together are split over them in a roofline's proportions",
    )


def test_unknown_kind_of_device(tmp_path: Path) -> None:
    path, settings = written("ofa", tmp_path)
    with pytest.raises(InputError, match="unknown kind of device 'toaster'"):
        import_profile("ofa", path, Origin(name="x", device="y", kind="toaster"), settings)


def test_format_of_channels_reads_tables_too(tmp_path: Path) -> None:
    path, _ = written("ofa", tmp_path)
    assert OnceForAll().table(path).times_us["Logits-input:1x1x1280-output:1000"] == pytest.approx(300)

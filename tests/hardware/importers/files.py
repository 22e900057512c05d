"""Small files of every format, as their tools write them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph import DependencyGraph, trace
from autoprune.hardware.importers import ImportSettings
from autoprune.hardware.importers.profile import named_kernels

OFA = """\
Conv-input:160x160x3-output:80x80x16: {count: 50, mean: 1.5, std: 0.1}
expanded_conv-input:80x80x16-output:80x80x16-expand:16-kernel:3-stride:1-idskip:1-se:0-hs:0:
  {count: 50, mean: 1.0, std: 0.1}
expanded_conv-input:80x80x16-output:40x40x24-expand:64-kernel:5-stride:2-idskip:0-se:1-hs:1:
  {count: 50, mean: 2.0, std: 0.2}
Conv_1-input:5x5x160-output:5x5x960: {count: 50, mean: 0.5, std: 0.02}
AvgPool2D-input:5x5x960-output:1x1x960: {count: 50, mean: 0.05, std: 0.01}
Logits-input:1x1x1280-output:1000: {count: 50, mean: 0.3, std: 0.01}
"""
PROXYLESS = """\
Conv-input:224x224x3-output:112x112x32: {count: 51, mean: 3.0, std: 0.3}
expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:5-stride:2-idskip:0: {count: 51, mean: 4.0, std: 0.2}
expanded_conv-input:56x56x24-output:56x56x24-expand:6-kernel:3-stride:1-idskip:1: {count: 51, mean: 3.5, std: 0.2}
Logits-input:7x7x1280-output:1000: {count: 51, mean: 0.8, std: 0.02}
"""
NN_METER: dict[str, dict[str, Any]] = {
    "conv-bn-relu": {
        "id_0": {
            "model": "conv.tflite",
            "shapes": [[28, 28, 16]],
            "config": {"HW": 28, "CIN": 16, "COUT": 32, "KERNEL_SIZE": 3, "STRIDES": 2},
            "latency": "0.75 +- 0.02",
        }
    },
    "dwconv-block": {
        "id_0": {"config": {"HW": 28, "CIN": 16, "COUT": 16, "KERNEL_SIZE": 5, "STRIDES": 1}, "latency": "0.2 +- 0.0"}
    },
    "fc": {"id_0": {"config": {"CIN": 128, "COUT": 10}, "latency": "0.01 +- 0.0"}},
    "concat": {"id_0": {"config": {"HW": 14, "CIN1": 8, "CIN2": 16, "CIN3": 0, "CIN4": 0}, "latency": "0.02 +- 0.0"}},
    "maxpool": {
        "id_0": {
            "config": {"HW": 28, "CIN": 16, "COUT": 16, "KERNEL_SIZE": 3, "POOL_STRIDES": 2},
            "latency": "0.03 +- 0.0",
        }
    },
    "add": {"id_0": {"config": {"HW": 28, "CIN": 16}, "latency": "0.02 +- 0.01"}},
    "channelshuffle": {"id_0": {"config": {"HW": 28, "CIN": 16}, "latency": "0.02 +- 0.01"}},
}
TENSORRT = """\
[
  { "count" : 1000 }
, { "name" : "Reformatting CopyNode for Input Tensor 0 to conv2d/Conv", "timeMs" : 10, "averageMs" : 0.01 }
, { "name" : "conv2d/Conv + relu/Relu", "timeMs" : 60, "averageMs" : 0.06, "medianMs" : 0.058 }
, { "name" : "conv2d_1/Conv + PWN(add/Add, relu_1/Relu)", "timeMs" : 30, "averageMs" : 0.03, "medianMs" : 0.03 }
, { "name" : "{ForeignNode[mean/ReduceMean...flatten/Reshape]}", "timeMs" : 0, "averageMs" : 0 }
, { "name" : "linear/Gemm", "timeMs" : 10, "averageMs" : 0.01, "medianMs" : 0.01 }
]
"""
LITERT = """\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
AllocateTensors, 0, 0.03, 0.03, 100%, 100%, 0, 1, AllocateTensors/0

Number of nodes executed: 1

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 0, 0.11, 0.06, 60%, 60%, 0, 1, [relu;batch_norm;conv2d]:0
CONV_2D, 0.06, 0.034, 0.03, 30%, 90%, 0, 1, [relu_1;add;conv2d_1]:1
MEAN, 0.09, 0.01, 0, 0%, 90%, 0, 1, [mean]:2
FULLY_CONNECTED, 0.09, 0.01, 0.01, 10%, 100%, 0, 1, [linear]:3

============================== Top by Computation Time ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 0, 0.11, 0.06, 60%, 60%, 0, 1, [relu;batch_norm;conv2d]:0

Number of nodes executed: 4
"""
CSV = """\
tflite_op,latency_ms,h_in,cin,cout,ks,stride
CONV_2D,0.75200001,224,3,16,3,2
DEPTHWISE_CONV_2D,0.283,112,16,16,3,1
SHAPE,0.001,1,1,1,,
FULLY_CONNECTED,0.746,1,16,48,,
"""
COLUMNS = """\
operator: tflite_op
operators: {CONV_2D: conv, DEPTHWISE_CONV_2D: depthwise, FULLY_CONNECTED: linear, SHAPE: null}
time: {column: latency_ms, unit: ms}
columns: {height: h_in, in_channels: cin, out_channels: cout, kernel: ks, stride: stride}
activation: relu
"""


class Small(nn.Module):
    """Two convolutions with a sum, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(x + self.second(x))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


@functools.cache
def small_graph() -> DependencyGraph:
    return trace(Small().eval(), torch.zeros(2, 3, 8, 8))


def events(runs: int = 3) -> str:
    """An ONNX Runtime trace of `Small`: the first run is slow."""
    found: list[dict[str, object]] = [{"cat": "Session", "name": "model_run", "dur": 50, "args": {}}]
    names = {"relu_nchwc": 20, "batch_norm_nchwc": 3, "relu_1_nchwc": 10, "ReorderOutput": 4, "mean/ReduceMean": 0}
    for run in range(runs):
        for name, duration in {**names, "linear/Gemm": 5}.items():
            duration = 10 * duration if run == 0 else duration + run - 1
            found.append({"cat": "Node", "name": f"{name}_kernel_time", "dur": duration, "ts": 0, "args": {}})
    return json.dumps(found)


CONTENT = {
    "ofa": ("table.yaml", OFA),
    "proxylessnas": ("table.yaml", PROXYLESS),
    "nn-meter": ("profiled.json", json.dumps(NN_METER)),
    "tensorrt": ("profile.json", TENSORRT),
    "onnxruntime": ("trace.json", events()),
    "litert": ("profile.csv", LITERT),
    "csv": ("kernels.csv", CSV),
}


def written(format: str, folder: Path, content: str | None = None) -> tuple[Path, ImportSettings]:
    """A file of a format in a folder, and what it needs beside it."""
    name, sample = CONTENT[format]
    path = folder / name
    path.write_text(sample if content is None else content)
    columns = folder / "columns.yaml"
    columns.write_text(COLUMNS)
    return path, ImportSettings(batch=1, columns=columns, model=named_kernels(small_graph()))

"""Kernels of well-known networks, and what an analytical model says of them."""

from __future__ import annotations

import functools

import numpy as np

from autoprune.graph.kernel import Kernel
from autoprune.hardware.analytical import AnalyticalModel
from autoprune.hardware.analytical_estimate import Estimator
from autoprune.hardware.analytical_shapes import Shape, Shapes
from autoprune.hardware.importers.layers import Layers
from autoprune.hardware.kernel_table import KernelRow


@functools.cache
def reference_kernels(batch: int) -> tuple[Kernel, ...]:
    """Kernels of ResNet-50, MobileNetV2 and ViT-B/16 at 224 x 224, each once."""
    found = [*_resnet50(batch), *_mobilenet_v2(batch), *_vit(batch)]
    return tuple(dict.fromkeys(found))


def _resnet50(batch: int) -> list[Kernel]:
    network = Layers((batch, 3, 224, 224)).conv(64, 7, (112, 112), 2).activation("relu").pool("max", 3, 2)
    beside: list[Kernel] = []
    for blocks, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            given = network.shape[2]
            side = (given // step, given // step)
            first, shape = network.last, network.shape
            network.conv(width, 1, (given, given)).activation("relu").conv(width, 3, side, step).activation("relu")
            if block == 0:  # the shortcut has a convolution of its own
                beside += Layers(shape).conv(4 * width, 1, side, step).kernels()
                network.conv(4 * width, 1, side).add().activation("relu")
            else:
                network.conv(4 * width, 1, side).add(first).activation("relu")
    return [*network.global_pool().flatten().linear(1000).kernels(), *beside]


def _mobilenet_v2(batch: int) -> list[Kernel]:
    network = Layers((batch, 3, 224, 224)).conv(32, 3, (112, 112), 2).activation("relu6")
    settings = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for ratio, width, blocks, stride in settings:
        for block in range(blocks):
            step = stride if block == 0 else 1
            given, channels, first = network.shape[2], network.shape[1], network.last
            side = (given // step, given // step)
            if ratio > 1:
                network.conv(ratio * channels, 1, (given, given)).activation("relu6")
            network.conv(ratio * channels, 3, side, step, groups=ratio * channels).activation("relu6")
            network.conv(width, 1, side)
            if step == 1 and channels == width:
                network.add(first)
    network.conv(1280, 1, (7, 7)).activation("relu6").global_pool().flatten().linear(1000)
    return list(network.kernels())


def _vit(batch: int) -> list[Kernel]:
    heads, tokens, head, width = 12, 197, 64, 768
    parts = [
        Layers((batch, 3, 224, 224)).conv(width, 16, (14, 14), 16),
        Layers((batch, tokens, width)).layer_norm(),
        Layers((batch, tokens, width)).linear(width),
        Layers((batch, tokens, width)).linear(3 * width),
        Layers((batch, heads, tokens, head)).matmul(tokens),
        Layers((batch, heads, tokens, tokens)).softmax(),
        Layers((batch, heads, tokens, tokens)).matmul(head),
        Layers((batch, tokens, width)).linear(width).add(),
        Layers((batch, tokens, width)).linear(4 * width).activation("gelu"),
        Layers((batch, tokens, 4 * width)).linear(width).add(),
        Layers((batch, width)).linear(1000),
    ]
    return [kernel for part in parts for kernel in part.kernels()]


def reference_rows(model: AnalyticalModel, batch: int) -> tuple[KernelRow, ...]:
    """What the model says of them."""
    estimator = Estimator(model)
    rows = []
    for kernel in reference_kernels(batch):
        shape = Shape.of(kernel)
        [time_us] = np.round(estimator.estimate_us(shape.operator, Shapes.of([shape])), 3)
        rows.append(
            KernelRow(
                family=kernel.family,
                sizes=kernel.sizes,
                operator=shape.operator,
                n=0,
                mean_us=float(time_us),
                p50_us=float(time_us),
                p90_us=float(time_us),
                p95_us=float(time_us),
                p99_us=float(time_us),
                std_us=0.0,
                flops=shape.flops,
                bytes=shape.bytes,
                provenance="analytical",
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.family, row.sizes)))

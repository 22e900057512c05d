"""Operators that resample space: pooling, interpolation, pixel shuffles."""

from __future__ import annotations

from autoprune.graph.algebra import constant, factor, freeze, product, size
from autoprune.graph.rules.call import Call, Dims, rule


@rule(
    "max_pool1d.default", "max_pool2d.default", "max_pool3d.default", "avg_pool1d.default", "avg_pool2d.default",
    "avg_pool3d.default", "adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default",
    "adaptive_max_pool2d.default", "upsample_nearest2d.vec", "upsample_bilinear2d.vec", "upsample_nearest2d.default",
    "upsample_bilinear2d.default", "upsample_bicubic2d.vec",
)  # fmt: skip
def pool(call: Call) -> list[Dims]:
    """`n c ... -> n c ...`; space is resampled."""
    x = call.of(call.args[0])
    kept = len(x) - (int(call.target.split(".")[1].rstrip("_")[-2]) if "pool" in call.target else 2)
    for dimension in x[kept:]:
        freeze(dimension, f"is a spatial dimension of {call.target}")
    return [[*x[:kept], *call.fixed(result, kept)] for result in range(len(call.shapes))]


@rule("pixel_shuffle.default")
def pixel_shuffle(call: Call) -> Dims:
    """`n (c r r) h w -> n c (h r) (w r)`"""
    x, upscale = call.of(call.args[0]), call.args[1]
    channels, square = factor([x[-3]], [size(x[-3]) // upscale**2, upscale**2])
    for dimension in (square, *x[-2:]):
        freeze(dimension, "is rearranged by pixel_shuffle")
    return [*x[:-3], channels, *call.fixed(start=len(x) - 2)]


@rule("pixel_unshuffle.default")
def pixel_unshuffle(call: Call) -> Dims:
    """`n c (h r) (w r) -> n (c r r) h w`"""
    x, downscale = call.of(call.args[0]), call.args[1]
    for dimension in x[-2:]:
        freeze(dimension, "is rearranged by pixel_unshuffle")
    blocks = constant(downscale**2, "is rearranged by pixel_unshuffle")
    return [*x[:-3], product([x[-3], blocks]), *call.fixed(start=len(x) - 2)]


@rule("channel_shuffle.default", "native_channel_shuffle.default")
def channel_shuffle(call: Call) -> Dims:
    """`n (g c) ... -> n (c g) ...`"""
    x, groups = call.of(call.args[0]), call.args[1]
    group, channels = factor([x[1]], [groups, size(x[1]) // groups])
    freeze(group, "is the number of groups of a channel shuffle")
    return [x[0], product([channels, group]), *x[2:]]

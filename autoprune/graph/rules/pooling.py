"""Operators that resample space: pooling, interpolation, pixel shuffles, sliding windows."""

from __future__ import annotations

import re

from autoprune.graph.algebra import AlgebraError, constant, factor, product, resolve, size
from autoprune.graph.rules.call import RULES, Call, Dims, rule

_POOLS = (
    "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices",
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d",
    "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
    "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d",
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d",
    "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d",
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_lanczos2d_aa",
)


def pool(call: Call) -> list[Dims]:
    """`n c ... -> n c ...`; space is resampled."""
    x = call.of(call.args[0])
    found = re.search(r"(\d)d", call.target)
    kept = len(x) - int(found[1] if found else 0)
    for dimension in x[kept:]:
        call.freeze(dimension, "is a spatial dimension")
    return [[*x[:kept], *call.fixed(result, kept)] for result in range(len(call.shapes))]


for _name in " ".join(_POOLS).split():
    for _overload in ("default", "vec"):
        RULES[f"aten.{_name}.{_overload}"] = pool


@rule("grid_sampler.default", "grid_sampler_2d.default", "grid_sampler_3d.default")
def grid_sampler(call: Call) -> Dims:
    """`n c ..., n ... 2 -> n c ...`"""
    x, grid = call.of(call.args[0]), call.of(call.args[1])
    for dimension in (*x[2:], grid[-1]):
        call.freeze(dimension, "is a spatial dimension")
    call.unify(x[0], grid[0])
    return [resolve(x[0]), x[1], *grid[1:-1]]


@rule("im2col.default")
def im2col(call: Call) -> Dims:
    """`n c h w -> n (c k k) l`"""
    x = call.of(call.args[0])
    if len(x) != 4:
        raise AlgebraError("an operand without a batch")
    for dimension in x[2:]:
        call.freeze(dimension, "is a spatial dimension")
    window = constant(call.shapes[0][1] // size(x[1]), f"{call.target}: is its window")
    return [x[0], product([x[1], window]), *call.fixed(start=2)]


@rule("col2im.default")
def col2im(call: Call) -> Dims:
    """`n (c k k) l -> n c h w`"""
    x, channels = call.of(call.args[0]), call.shapes[0][1]
    if len(x) != 3:
        raise AlgebraError("an operand without a batch")
    kept, window = factor([x[1]], [channels, size(x[1]) // channels])
    for dimension in (window, x[2]):
        call.freeze(dimension, "is its window")
    return [x[0], resolve(kept), *call.fixed(start=2)]


@rule("pixel_shuffle.default")
def pixel_shuffle(call: Call) -> Dims:
    """`n (c r r) h w -> n c (h r) (w r)`"""
    x, upscale = call.of(call.args[0]), call.args[1]
    channels, square = factor([x[-3]], [size(x[-3]) // upscale**2, upscale**2])
    for dimension in (square, *x[-2:]):
        call.freeze(dimension, "is rearranged")
    return [*x[:-3], channels, *call.fixed(start=len(x) - 2)]


@rule("pixel_unshuffle.default")
def pixel_unshuffle(call: Call) -> Dims:
    """`n c (h r) (w r) -> n (c r r) h w`"""
    x, downscale = call.of(call.args[0]), call.args[1]
    for dimension in x[-2:]:
        call.freeze(dimension, "is rearranged")
    blocks = constant(downscale**2, f"{call.target}: is rearranged")
    return [*x[:-3], product([x[-3], blocks]), *call.fixed(start=len(x) - 2)]


@rule("channel_shuffle.default", "native_channel_shuffle.default")
def channel_shuffle(call: Call) -> Dims:
    """`n (g c) ... -> n (c g) ...`"""
    x, groups = call.of(call.args[0]), call.args[1]
    group, channels = factor([x[1]], [groups, size(x[1]) // groups])
    call.freeze(group, "is its number of groups")
    return [x[0], product([channels, group]), *x[2:]]

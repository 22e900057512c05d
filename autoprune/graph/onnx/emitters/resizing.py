"""Padding, interpolation and sampling."""

from __future__ import annotations

import math

from autoprune.graph.dimension import has_batch
from autoprune.graph.onnx.context import Context
from autoprune.graph.onnx.emitters.registry import Emitter, emits, refuse, result_type
from autoprune.graph.program import Operation

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _padding(mode: str | None) -> Emitter:
    def emit(context: Context, operation: Operation) -> None:
        constant_only = "constant_pad" in operation.target
        asked = mode or str(operation.argument(2, "mode", "constant"))
        number = operation.argument(2 if constant_only else 3, "value", 0.0) if asked == "constant" else 0.0
        amounts = context.integers(operation.argument(1, "pad" if mode in (None, "constant") else "padding"))
        rank, name = context.rank(operation), operation.name
        before, after = [0] * rank, [0] * rank
        for position in range(len(amounts) // 2):  # torch names the last dimension first
            before[rank - 1 - position], after[rank - 1 - position] = amounts[2 * position], amounts[2 * position + 1]
        inputs = [context.input(operation, 0, "self"), context.constant(before + after)]
        if asked == "constant":
            inputs.append(context.constant(number or 0.0, result_type(context, operation)))
        context.node("Pad", inputs, [name], mode=_MODES[asked])

    return emit


emits("pad.default")(_padding(None))
emits("constant_pad_nd.default")(_padding("constant"))
emits(*(f"reflection_pad{rank}d.default" for rank in (1, 2, 3)))(_padding("reflect"))
emits(*(f"replication_pad{rank}d.default" for rank in (1, 2, 3)))(_padding("replicate"))

_NEAREST = tuple(f"upsample_nearest{rank}d" for rank in (1, 2, 3))
_EXACT = tuple(f"_upsample_nearest_exact{rank}d" for rank in (1, 2, 3))
_SMOOTH = {
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "linear",
    "upsample_trilinear3d": "linear",
    "upsample_bicubic2d": "cubic",
    "_upsample_bilinear2d_aa": "linear",
    "_upsample_bicubic2d_aa": "cubic",
}


def _overloads(*names: str) -> list[str]:
    return [f"{name}.{overload}" for name in names for overload in ("default", "vec")]


@emits(*_overloads(*_NEAREST, *_EXACT))
def _nearest(context: Context, operation: Operation) -> None:
    exact = "exact" in operation.target
    _resize(
        context,
        operation,
        operation.argument(2, "scale_factors"),
        mode="nearest",
        coordinate_transformation_mode="half_pixel" if exact else "asymmetric",
        nearest_mode="round_prefer_ceil" if exact else "floor",
    )


@emits(*_overloads(*_SMOOTH))
def _smooth(context: Context, operation: Operation) -> None:
    mode = _SMOOTH[operation.target.split(".")[1]]
    align = bool(operation.argument(2, "align_corners", False))
    antialias = operation.target.split(".")[1].endswith("_aa")
    _resize(
        context,
        operation,
        operation.argument(3, "scale_factors"),
        mode=mode,
        coordinate_transformation_mode="align_corners" if align else "half_pixel",
        cubic_coeff_a=(-0.5 if antialias else -0.75) if mode == "cubic" else None,
        antialias=1 if antialias else None,
        exclude_outside=1 if antialias else None,  # torch weighs what is inside alone
    )


def _resize(context: Context, operation: Operation, factors: object, **attributes: object) -> None:
    """By the factors where they were given, as torch then computes places from them; else by the ratio of the sizes."""
    name = operation.name
    before, after = context.shape(operation, 0, "input")[2:], context.value_shape(name)[2:]
    if any(has_batch(d) for d in context.program.values[name].dimensions[2:]):
        raise refuse(operation, "an image of the batch's size")
    scales = [b / a for a, b in zip(before, after, strict=True)]
    if "vec" in operation.target and isinstance(factors, (tuple, list)):
        scales = [float(factor) for factor in factors]
    fitting = [math.floor(a * s) == b for a, b, s in zip(before, after, scales, strict=True)]
    if not all(fitting):  # rounding of the ratio itself: a little above it gives the same size
        scales = [math.nextafter(s, math.inf) for s in scales]
    written = context.constant([1.0, 1.0, *scales], "float32")
    context.node("Resize", [context.input(operation, 0, "input"), "", written], [name], **attributes)


@emits("grid_sampler.default")
def _sample(context: Context, operation: Operation) -> None:
    modes, paddings = ("linear", "nearest", "cubic"), ("zeros", "border", "reflection")
    inputs = [context.input(operation, 0, "input"), context.input(operation, 1, "grid")]
    context.node(
        "GridSample",
        inputs,
        [operation.name],
        mode=modes[context.integer(operation.argument(2, "interpolation_mode"))],
        padding_mode=paddings[context.integer(operation.argument(3, "padding_mode"))],
        align_corners=int(bool(operation.argument(4, "align_corners", False))),
    )

"""An ONNX model at another precision, by ONNX Runtime's own converters; inputs and outputs stay as they are."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

Arrays = Mapping[str, Any]


def in_float16(data: bytes) -> bytes:
    """The model with 16-bit weights and activations."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers too small for the type become zero
        model = convert_float_to_float16(onnx.load_model_from_string(data), keep_io_types=True)
    return bytes(model.SerializeToString())


def in_int8(data: bytes, inputs: Arrays, batch: int) -> bytes:
    """The model with 8-bit weights (a scale per channel) and activations (a scale per tensor).

    Args:
        data: the model in float32.
        inputs: what the activations' scales are calibrated on.
        batch: size of the free dimension "batch".
    """
    import onnxruntime
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        folded, quantised = Path(folder) / "folded.onnx", Path(folder) / "quantised.onnx"
        options = onnxruntime.SessionOptions()
        # A batch norm has to be part of its convolution first: left alone it would run in float32.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.add_free_dimension_override_by_name("batch", batch)
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        with _quiet():
            quantize_static(
                folded,
                quantised,
                _Once(inputs),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        return quantised.read_bytes()


class _Once:
    """A calibration set of one batch."""

    def __init__(self, inputs: Arrays) -> None:
        self._rows = iter((dict(inputs),))

    def get_next(self) -> dict[str, Any] | None:
        return next(self._rows, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to prepare models by another tool."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

"""ONNX from a traced program: see `autoprune.graph.onnx.model`; one emitter an ATen operator in `emitters`."""

from autoprune.graph.onnx.context import UnsupportedOperator
from autoprune.graph.onnx.emitters import EMITTERS
from autoprune.graph.onnx.model import BATCH, OPSET, onnx_model, placeholder, to_onnx

__all__ = ["BATCH", "EMITTERS", "OPSET", "UnsupportedOperator", "onnx_model", "placeholder", "to_onnx"]

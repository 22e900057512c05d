"""What runtimes compile: the same numbers as ONNX and as a module, and nothing of the original changed."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.graph import trace
from autoprune.graph.fusion import kernel_slots
from autoprune.graph.kernel import Kernel
from autoprune.hardware.importers.profile import named_kernels
from autoprune.hardware.runtimes.model import Model, module_of, onnx_of
from autoprune.hardware.runtimes.parts import INPUT, Parts

EMBEDDED = "x0:int64(2,5);y0:(2,5,c0)=embedding.default(w(7,c0),x0);y1:(2,5,c0)=relu.default(y0)"
POSITIONS = "x0:(1,c0);y0:(1,c0)=add.Tensor(x0,w('int64',1,c0));y1:(1,c0)=relu.default(y0)"


def ran(model: Model, batch: int) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.onnx(), providers=["CPUExecutionProvider"])
    feeds = {item.name: x.numpy() for item, x in zip(session.get_inputs(), model.inputs(batch), strict=True)}
    return list(session.run(None, feeds))


class Two(nn.Module):
    """Two inputs by keyword, two outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.left(x)) * scale
        return {"hidden": hidden, "out": self.right(hidden)}


def two() -> Model:
    graph = trace(Two().eval(), {"x": torch.randn(2, 4), "scale": torch.randn(2, 1)})
    return Model.of_module(graph.module())


@pytest.mark.parametrize("family", [EMBEDDED, POSITIONS])
def test_a_kernel_computes_the_same_as_onnx_and_as_a_module(family: str) -> None:
    model = Model.of_kernel(Kernel(family, (6,)))
    [expected], [got] = ran(model, 2), model.module()(*model.inputs(2))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


def test_a_module_is_called_with_inputs_one_by_one_and_gives_a_tuple() -> None:
    model = two()
    got = model.module()(*model.inputs(3))
    assert isinstance(got, tuple)
    for ours, theirs in zip(got, ran(model, 3), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)
    assert model.input_names == tuple(item.name for item in onnx.load_model_from_string(model.onnx()).graph.input)


def test_casting_a_module_leaves_the_originals_weights_alone() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), torch.randn(2, 3, 6, 6))
    original = graph.module()
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    Model.of_module(original).module().to(torch.bfloat16)
    for name, tensor in original.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_inputs_are_the_same_every_time_and_follow_the_batch() -> None:
    model = two()
    assert [tuple(x.shape) for x in model.inputs(5)] == [(5, 4), (5, 1)]
    assert all(torch.equal(a, b) for a, b in zip(model.inputs(5), model.inputs(5), strict=True))
    [indices] = Model.of_kernel(Kernel(EMBEDDED, (6,))).inputs(2)
    assert indices.dtype == torch.int64
    assert not indices.any()


def test_masks_hide_nothing() -> None:
    kernel = Kernel("x0:(2,c0);x1:bool(2,c0);y0:(2,c0)=masked_fill.Scalar(x0,x1,0.0)", (4,))
    assert Model.of_kernel(kernel).inputs(2)[1].all()


def test_inputs_of_an_onnx_file() -> None:
    model = two()
    again = Model.of_onnx(model.onnx())
    assert again.input_names == model.input_names
    for ours, theirs in zip(model.inputs(4), again.inputs(4), strict=True):
        assert torch.equal(ours, theirs)


def test_numbers_that_a_file_brings_are_no_inputs() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "w", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", infos[:2], infos[2:], [weight])
    assert Model.of_onnx(helper.make_model(graph).SerializeToString()).input_names == ("x",)


def test_bytes_that_are_no_model() -> None:
    model = Model.of_onnx(b"not a model")
    for ask in (lambda: model.inputs(1), lambda: model.input_names, lambda: model.parts):
        with pytest.raises(InputError, match="expected the bytes of an ONNX file, got b'not a model'"):
            ask()


def test_an_input_without_a_rank() -> None:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    data = helper.make_model(helper.make_graph([], "g", [info], [])).SerializeToString()
    with pytest.raises(InputError, match="expected the input 'x' to be a tensor of known type and rank"):
        Model.of_onnx(data).inputs(1)


def test_a_file_is_no_module() -> None:
    model = Model.of_onnx(two().onnx())
    with pytest.raises(AutopruneError, match=r"expected a traced model or a kernel .* got an ONNX file"):
        model.module()
    found = module_of(model)
    assert isinstance(found, Failure)
    assert found.kind == "unsupported"


def test_what_no_emitter_writes_is_a_failure() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.i0(x)

    found = onnx_of(Model.of_module(trace(Odd(), torch.randn(2, 3)).module()))
    assert isinstance(found, Failure)
    assert "i0" in found.message


def test_parts_are_the_kernels_that_importers_know() -> None:
    graph = trace(Two().eval(), {"x": torch.randn(2, 4), "scale": torch.randn(2, 1)})
    parts, known = Parts.of_program(graph.program), named_kernels(graph)
    assert parts.places == known.places
    assert parts.names == tuple(slot.name for slot in kernel_slots(graph.program))
    assert parts.sources[0][0] == INPUT
    assert parts.sources[1] == (0,)
    assert parts.followers == (frozenset({1}), frozenset())
    assert parts.work[0][0] >= 2 * 4 * 8


def test_parts_of_a_file_are_its_nodes() -> None:
    parts = Model.of_onnx(two().onnx()).parts
    assert list(parts.places.values()) == list(range(len(parts.names)))
    assert any(name.startswith("linear") for name in parts.names)
    assert all(source < place for place, sources in enumerate(parts.sources) for source in sources)

"""Fused kernels: what joins what, and that a kernel's key alone rebuilds it."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph, trace
from autoprune.graph.dimension import groups_of, size
from autoprune.graph.fusion import KernelSlot, kernel_slots
from autoprune.graph.kernel import MAX_KEY_CHARACTERS, Kernel
from autoprune.graph.onnx import onnx_model
from tests.graph.models import MODELS, SHAPE, trained
from tests.graph.transformers import TRANSFORMERS, transformer

NAMES = sorted((*MODELS, *TRANSFORMERS))
GRAPHS: dict[str, DependencyGraph] = {}


def graph_of(name: str) -> DependencyGraph:
    if name not in GRAPHS:
        if name in TRANSFORMERS:
            GRAPHS[name] = trace(transformer(name), TRANSFORMERS[name][1]())
        else:
            GRAPHS[name] = trace(trained(name), torch.randn(2, *SHAPE))
    return GRAPHS[name]


def slots_of(module: nn.Module, *shape: int) -> tuple[KernelSlot, ...]:
    return kernel_slots(trace(module.eval(), torch.randn(2, *shape)).program)


def kinds(slots: tuple[KernelSlot, ...]) -> list[tuple[str, int]]:
    return [(slot.operator, len(slot.operations)) for slot in slots]


def test_residual_network_is_fused_as_a_runtime_does() -> None:
    slots = kernel_slots(graph_of("Residual").program)
    assert kinds(slots) == [
        ("conv", 2),  # stem, relu
        ("conv", 2),  # a1, relu
        ("conv", 4),  # a2, norm, add, relu
        ("pointwise", 1),  # down
        ("conv", 2),  # b1, relu
        ("pointwise", 3),  # b2, add, relu: the later operand of the addition takes it
        ("reduce", 1),
        ("linear", 1),
    ]
    assert len(slots[2].inputs) == 2


class Shared(nn.Module):
    """A convolution that two operations read, and an output in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        y = y * torch.sigmoid(y)
        z = self.next(y)
        return z, F.relu(z)


def test_values_that_others_read_are_not_fused_away() -> None:
    slots = slots_of(Shared(), 3, 4, 4)
    assert kinds(slots) == [("pointwise", 1), ("elementwise", 2), ("pointwise", 1), ("elementwise", 1)]
    assert "y1:(1,c0,4,4)=mul.Tensor(x0,y0)" in slots[1].family()


def test_views_and_dropout_cost_nothing() -> None:
    slots = kernel_slots(graph_of("Sequential").program)
    assert kinds(slots) == [("conv", 3), ("conv", 2), ("pool", 1), ("linear", 2), ("linear", 1)]


def test_growing_broadcasts_are_kernels_of_their_own() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.squeeze = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))

    assert kinds(slots_of(Gate(), 4, 6, 6)) == [("reduce", 1), ("pointwise", 2), ("elementwise", 1)]


def test_tied_frozen_and_free_layers_share_a_family() -> None:
    slots = kernel_slots(graph_of("Residual").program)
    assert slots[0].family() == slots[1].family()
    assert slots[0].kernel({}).sizes == (3, 8)
    assert slots[1].kernel({}).sizes == (8, 6)


def test_batch_norm_behind_a_convolution_is_its_bias() -> None:
    plain = slots_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 3, 6, 6)
    normed = slots_of(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), 3, 6, 6)
    assert plain[0].family() == normed[0].family()
    assert plain[0].flops({}) == normed[0].flops({}) == 2 * 27 * 4 * 16 + 4 * 16
    assert plain[0].bytes({}) == normed[0].bytes({}) == 4 * (3 * 36 + 4 * 27 + 4 + 4 * 16)


def test_batch_is_part_of_the_family() -> None:
    slot = slots_of(nn.Conv2d(3, 4, 1), 3, 5, 5)[0]
    assert slot.family(8).startswith("x0:(8,c0,5,5)")
    assert slot.kernel({"@batch": 8}).family == slot.family(8)


def test_attention_is_one_kernel_with_heads_and_their_widths_as_sizes() -> None:
    slots = kernel_slots(graph_of("VisionTransformer").program)
    [slot, *_] = [slot for slot in slots if slot.operator == "attention"]
    groups = {group for dimension in slot.dimensions for group in groups_of(dimension)}
    units = {graph_of("VisionTransformer").groups[group].unit for group in groups}
    assert units == {"head", "head_dim"}
    [batch, heads, tokens, width] = [size(d, {}) for d in slot._program.values[slot.inputs[0]].dimensions]
    assert slot.flops({}) == 4 * batch * heads * tokens * tokens * width


def test_what_no_input_reaches_is_no_kernel_but_an_operand() -> None:
    class Masked(nn.Module):
        places: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 4))
            self.register_buffer("places", torch.tensor([[0, 1], [2, 4]]))

        def forward(self, x: Tensor) -> Tensor:
            bias = self.table[self.places].permute(2, 0, 1)  # (4, 2, 2)
            mask = torch.ones(2, 2).tril().log()
            return (x + bias) * bias + mask.expand(x.shape[0], 4, 2, 2)

    [slot] = slots_of(Masked(), 4, 2, 2)
    assert slot.operator == "elementwise"
    assert len(slot.operations) == 3
    assert slot.family().count("w(") == 2  # the bias once, though it is read twice, and the mask
    assert "mul.Tensor(y0,w0)" in slot.family()
    assert [slot._program.values[name].dtype for name in slot.parameters] == ["float32", "float32"]
    assert len(kernel_slots(slot.kernel({}).program())) == 1


def test_operands_of_other_types_are_rebuilt() -> None:
    class Picked(nn.Module):
        places: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("places", torch.tensor([3, 1]))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, self.places]

    [slot] = slots_of(Picked(), 4, 6)
    assert "w('int64',2,)" in slot.family()
    program = slot.kernel({}).program()
    assert program.values[program.parameters[0]].dtype == "int64"


def test_results_that_nothing_reads_are_left_out() -> None:
    class Best(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.max(1).values

    [slot] = slots_of(Best(), 4, 6)
    assert ":[(1,6),None]=max.dim(" in slot.family()
    program = slot.kernel({}).program()
    assert program.outputs == ("y0",)
    assert program.operations[0].results == ("y0", "y0.1")


def test_sizes_of_the_running_model_are_written_as_sizes() -> None:
    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (x.shape[0] * 2 + 1)

    [slot] = slots_of(Counted(), 4)
    assert slot.family(3) == "x0:(3,c0);y0:(3,c0)=mul.Tensor(x0,((3*2)+1))"
    program = slot.kernel({"@batch": 3}).program()
    assert program.operations[0].args[1] == 7


def test_the_batch_is_not_looked_for_in_texts() -> None:
    class Summed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("b n d, b m d -> b n m", x, x)

    [slot] = slots_of(Summed(), 4, 6)
    assert "'b n d, b m d -> b n m'" in slot.family(8)
    assert slot.family(8).startswith("x0:(8,")


@settings(max_examples=40)
@given(st.sampled_from(NAMES), st.randoms(use_true_random=False), st.sampled_from([1, 3]))
def test_every_kernel_is_rebuilt_from_its_key_alone(name: str, random: object, batch: int) -> None:
    graph = graph_of(name)
    draw = random.randint  # type: ignore[attr-defined]
    widths = {group.id: draw(1, group.size) for group in graph.groups.values()} | {"@batch": batch}
    for slot in kernel_slots(graph.program):
        kernel = slot.kernel(widths)
        rebuilt = Kernel.from_key(kernel.key)
        assert rebuilt == kernel
        assert hash(rebuilt) == hash(kernel)
        program = rebuilt.program()
        again = kernel_slots(program)
        assert len(again) == 1
        assert again[0].flops({}) == slot.flops(widths)
        assert again[0].bytes({}) == slot.bytes(widths)


KINDS = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


@pytest.mark.parametrize("name", NAMES)
def test_rebuilt_kernels_run_with_the_shapes_they_declare(name: str) -> None:
    graph = graph_of(name)
    widths = graph.widths(graph.uniform(0.4))
    for slot in kernel_slots(graph.program):
        program = slot.kernel(widths).program()
        model = onnx_model(program, {}).SerializeToString()
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        inputs = {item.name: np.ones(item.shape, dtype=KINDS[item.type]) for item in session.get_inputs()}
        outputs = session.run(None, inputs)
        assert [list(output.shape) for output in outputs] == [item.shape for item in session.get_outputs()]


GOOD = "x0:(1,c0,4,4);y0:(1,c0,4,4)=relu.default(x0)"


def test_a_family_parses() -> None:
    program = Kernel(GOOD, (3,)).program()
    assert program.inputs == ("x0",)
    assert program.outputs == ("y0",)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("", "at least one operation"),
        ("x0:(1,c0", "grammar"),
        ("import os", "statements of the form"),
        ("x0:(1,c5);y0:(1,)=relu.default(x0)", "a size"),
        ("x0:(1,c0);x0:(1,c0);y0:(1,c0)=relu.default(x0)", "each name once"),
        ("x0:3;y0:(1,c0)=relu.default(x0)", "a shape"),
        ("x0:(1,c0);y0:(1,c0)=7", "an operator's call"),
        ("x0:(1,c0);y0:(1,c0)=(lambda: 1)(x0)", "an operator's name"),
        ("x0:(1,c0);y0:(1,c0)=relu.default(__import__('os'))", "a size"),
        ("x0:(1,c0);y0:(1,c0)=relu.default(x0)#" + "x" * MAX_KEY_CHARACTERS, "at most"),
        ("x0:(1,c0//0);y0:(1,c0)=relu.default(x0)", "a size"),
        ("x0:(1," + "(" * 5000 + "c0" + ")" * 5000 + ")", "grammar"),
    ],
)
def test_text_that_is_no_family_is_refused(family: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        Kernel(family, (3,)).program()


@pytest.mark.parametrize("key", ["", GOOD, f"{GOOD} @ 3 x", f"{GOOD} @ -3"])
def test_text_that_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="expected '<family> @ <sizes>'"):
        Kernel.from_key(key)

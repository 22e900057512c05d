"""The ONNX emitter against torch, operator by operator and model by model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.errors import AutopruneError
from autoprune.graph import trace
from autoprune.graph.onnx import UnsupportedOperator, onnx_model, to_onnx
from autoprune.graph.onnx_emitters import EMITTERS
from autoprune.graph.program import Program
from tests.graph.models import MODELS, SHAPE, trained


class Call(nn.Module):
    """A function as a module, with parameters it may use."""

    def __init__(self, function: Callable[..., Tensor], **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **dict(self.named_parameters()))


def run_onnx(model: onnx.ModelProto, x: Tensor) -> list[Any]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return outputs


IMAGE, ROWS, TOKENS = (6, 8, 8), (6,), (5, 6)
random = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=random)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
    "elu": lambda x: F.elu(x, 0.7),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp_min": lambda x: x.clamp(min=0.1),
    "neg": torch.neg,
    "exp": torch.exp,
    "sqrt": lambda x: torch.sqrt(x.abs()),
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 1),
    "log": lambda x: torch.log(x.abs() + 1),
    "erf": torch.erf,
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "square": lambda x: x**2,
}
ARITHMETIC: dict[str, Callable[[Tensor], Tensor]] = {
    "add": lambda x: x + x.tanh(),
    "add_alpha": lambda x: torch.add(x, x.tanh(), alpha=2),
    "add_number": lambda x: x + 0.5,
    "sub": lambda x: x - x.tanh(),
    "sub_number": lambda x: x - 1,
    "mul": lambda x: x * x.tanh(),
    "mul_number": lambda x: x * 2,
    "div": lambda x: x / (x.abs() + 1),
    "div_number": lambda x: x / 3,
    "broadcast": lambda x: x * x.mean((2, 3), keepdim=True),
}
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x.flatten(1),
    "view": lambda x: x.view(x.shape[0], 2, 3, 64),
    "unflatten": lambda x: x.unflatten(1, (2, 3)),
    "reshape": lambda x: x.reshape(-1, 384),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(2),
    "squeeze_dims": lambda x: x.mean((2, 3), keepdim=True).squeeze((2, 3)),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "transpose": lambda x: x.transpose(1, 3),
    "cat": lambda x: torch.cat([x, x.tanh(), x[:, :2]], 1),
    "slice": lambda x: x[:, 1:5:2, :, 2:],
    "select": lambda x: x[:, 2],
    "index_none": lambda x: x.mean(3)[:, :, None],
    "chunk": lambda x: torch.mul(*x.chunk(2, 1)),
    "split": lambda x: x.split(4, 1)[1],
    "split_sizes": lambda x: x.split([1, 2, 3], 1)[2],
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad_value": lambda x: F.pad(x, (0, 0, 0, 0, 1, 1), value=2.0),
    "pad_reflect": lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
    "pad_replicate": lambda x: F.pad(x, (1, 2, 3, 1), mode="replicate"),
    "upsample_nearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "dropout": lambda x: F.dropout(x, 0.5, False),
    "upsample_bilinear": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False),
    "upsample_corners": lambda x: F.interpolate(x, size=(15, 15), mode="bilinear", align_corners=True),
    "contiguous": lambda x: x.permute(0, 2, 3, 1).contiguous().clone().detach(),
    "to": lambda x: x.to(torch.float32).tanh(),
}
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max_dilated": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "average": lambda x: F.avg_pool2d(x, 2),
    "average_pad": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average_inside": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "global": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (4, 2)),
    "global_max": lambda x: F.adaptive_max_pool2d(x, 1),
    "mean": lambda x: x.mean((2, 3)),
    "mean_last": lambda x: x.mean(-1),
    "mean_kept": lambda x: x.mean((2, 3), keepdim=True),
    "sum": lambda x: x.sum((1, 2)),
    "amax": lambda x: x.amax((2, 3)),
}
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (partial(Call, function), IMAGE) for name, function in {**ACTIVATIONS, **ARITHMETIC, **SHAPES}.items()},
    **{f"pool_{name}": (partial(Call, function), IMAGE) for name, function in POOLS.items()},
    "max_pool1d": (lambda: Call(lambda x: F.max_pool1d(x, 2)), TOKENS),
    "avg_pool1d": (lambda: Call(lambda x: F.avg_pool1d(x, 2)), TOKENS),
    "adaptive_pool1d": (lambda: Call(lambda x: F.adaptive_avg_pool1d(x, 1)), TOKENS),
    "conv": (lambda: nn.Conv2d(6, 4, 3, 2, 1), IMAGE),
    "conv_plain": (lambda: nn.Conv2d(6, 4, 3, bias=False), IMAGE),
    "conv_dilated": (lambda: nn.Conv2d(6, 4, 3, dilation=2), IMAGE),
    "conv_grouped": (lambda: nn.Conv2d(6, 9, (3, 1), groups=3, padding=(1, 0)), IMAGE),
    "conv_depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), IMAGE),
    "conv_same": (lambda: nn.Conv2d(6, 4, 3, padding="same"), IMAGE),
    "conv_valid": (lambda: nn.Conv2d(6, 4, 3, padding="valid"), IMAGE),
    "conv1d": (lambda: nn.Conv1d(5, 4, 3, padding=1), TOKENS),
    "conv1d_same": (lambda: nn.Conv1d(5, 4, 3, padding="same"), TOKENS),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 4, 4, 4)),
    "conv_transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, 2, 1, 1), IMAGE),
    "conv_transposed1d": (lambda: nn.ConvTranspose1d(5, 4, 3, bias=False), TOKENS),
    "linear": (lambda: nn.Linear(6, 4), ROWS),
    "linear_plain": (lambda: nn.Linear(6, 4, bias=False), ROWS),
    "linear_tokens": (lambda: nn.Linear(6, 4), TOKENS),
    "linear_tokens_plain": (lambda: nn.Linear(6, 4, bias=False), TOKENS),
    "matmul": (lambda: Call(lambda x, w: x @ w, w=normal(6, 3)), TOKENS),
    "bmm": (lambda: Call(lambda x: torch.bmm(x, x.transpose(1, 2))), TOKENS),
    "mm": (lambda: Call(lambda x, w: torch.mm(x, w), w=normal(6, 3)), ROWS),
    "addmm": (lambda: Call(lambda x, w, b: torch.addmm(b, x, w, alpha=0.5), w=normal(6, 3), b=normal(3)), ROWS),
    "batch_norm": (lambda: nn.BatchNorm2d(6), IMAGE),
    "batch_norm_bare": (lambda: nn.BatchNorm2d(6, affine=False), IMAGE),
    "batch_norm1d": (lambda: nn.BatchNorm1d(6), ROWS),
    "layer_norm": (lambda: nn.LayerNorm(6), TOKENS),
    "layer_norm_bare": (lambda: nn.LayerNorm((5, 6), elementwise_affine=False), TOKENS),
    "group_norm": (lambda: nn.GroupNorm(3, 6), IMAGE),
    "group_norm_bare": (lambda: nn.GroupNorm(3, 6, affine=False), IMAGE),
    "prelu": (lambda: nn.PReLU(6, 0.3), IMAGE),
    "transpose_matrix": (lambda: Call(lambda x, w: x @ w.t(), w=normal(3, 6)), ROWS),
    "attention": (lambda: Call(lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1)), TOKENS),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_emitter_agrees_with_torch(name: str) -> None:
    make, shape = CASES[name]
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean, module.running_var = torch.randn(6), torch.rand(6) + 0.5
    graph = trace(model, torch.randn(2, *shape))
    assert {operation.target for operation in graph.program.operations} <= set(EMITTERS)
    emitted = onnx_model(graph.program, {}, graph.state)
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            expected = model(x)
        [found] = run_onnx(emitted, x)
        assert found.shape == tuple(expected.shape)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


# Names that export writes otherwise -> (case, its operator, arguments in place of the traced ones).
OTHER_NAMES: dict[str, tuple[str, str, tuple[Any, ...] | None]] = {
    "view.default": ("view", "aten.reshape.default", None),
    "_unsafe_view.default": ("view", "aten.reshape.default", None),
    "flatten.using_ints": ("flatten", "aten.reshape.default", (1,)),
    "unflatten.int": ("unflatten", "aten.reshape.default", (1, (2, 3))),
    "alias.default": ("dropout", "aten.dropout.default", ()),
    "lift_fresh_copy.default": ("dropout", "aten.dropout.default", ()),
    "feature_dropout.default": ("dropout", "aten.dropout.default", None),
    "alpha_dropout.default": ("dropout", "aten.dropout.default", None),
    "chunk.default": ("chunk", "aten.split_with_sizes.default", (2, 1)),
    "split.Tensor": ("split", "aten.split_with_sizes.default", (4, 1)),
    "concat.default": ("cat", "aten.cat.default", None),
    "constant_pad_nd.default": ("pad_value", "aten.pad.default", ((0, 0, 0, 0, 1, 1), 2.0)),
}


@pytest.mark.parametrize("target", sorted(OTHER_NAMES))
def test_other_names_of_an_operator_agree_with_torch(target: str) -> None:
    name, traced, arguments = OTHER_NAMES[target]
    model = CASES[name][0]()
    program = trace(model, torch.randn(2, *IMAGE)).program
    found = [place for place, operation in enumerate(program.operations) if operation.target == traced]
    operations = list(program.operations)
    for place in found:
        operation = operations[place]
        args = operation.args if arguments is None else (operation.args[0], *arguments)
        kwargs = operation.kwargs if arguments is None else ()
        operations[place] = replace(operation, target=f"aten.{target}", args=args, kwargs=kwargs)
    x = torch.randn(3, *IMAGE)
    [output] = run_onnx(onnx_model(replace(program, operations=tuple(operations)), {}), x)
    assert found
    np.testing.assert_allclose(output, model(x).numpy(), rtol=1e-5, atol=1e-6)


def test_every_emitter_has_a_case() -> None:
    covered = {f"aten.{target}" for target in OTHER_NAMES} | {"aten.embedding.default", "aten._to_copy.default"}
    for make, shape in CASES.values():
        program = trace(make().eval(), torch.randn(2, *shape)).program
        covered.update(operation.target for operation in program.operations)
    names = {target.split(".")[1] for target in covered if target.startswith("aten.")}
    tensors = {target for target in EMITTERS if target.startswith("aten.") and "sym_size" not in target}
    missing = {target for target in tensors if target.split(".")[1].removesuffix("_") not in names}
    assert not missing


def test_embedding_of_integers() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)).eval()
    graph = trace(model, torch.tensor([[1, 2, 3], [0, 6, 5]]))
    x = torch.tensor([[6, 0, 1]])
    [found] = run_onnx(onnx_model(graph.program, {}, graph.state), x)
    np.testing.assert_allclose(found, model(x).detach().numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_pruned_models_agree_with_their_module(name: str, ratio: float, tmp_path: Path) -> None:
    graph = trace(trained(name), torch.randn(2, *SHAPE))
    module = graph.module(graph.uniform(ratio))
    to_onnx(graph.program, module.widths, module.state_dict(), tmp_path / "model.onnx")
    written = onnx.load(tmp_path / "model.onnx")
    assert {tensor.name for tensor in written.graph.initializer} & set(graph.program.parameters)
    for batch in (1, 3):
        x = torch.randn(batch, *SHAPE)
        with torch.no_grad():
            expected = module(x)
        [found] = run_onnx(written, x)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_equal_programs_give_equal_bytes() -> None:
    graph = trace(trained("Residual"), torch.randn(2, *SHAPE))
    models = [onnx_model(graph.program, {}, graph.state).SerializeToString(deterministic=True) for _ in range(2)]
    assert models[0] == models[1]


def test_placeholder_weights_keep_activations_finite() -> None:
    graph = trace(nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(20)]), torch.randn(1, 8, 6, 6))
    [found] = run_onnx(onnx_model(graph.program, {}), torch.ones(1, 8, 6, 6))
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0


class Twice(nn.Module):
    """Gives one value out twice, and its input back."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = F.relu(x)
        return y, y, x


def test_values_given_out_twice_are_copied() -> None:
    graph = trace(Twice(), torch.randn(2, 3))
    x = torch.randn(2, 3)
    first, second, same = run_onnx(onnx_model(graph.program, {}), x)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(same, x.numpy())


def _with_target(program: Program, target: str) -> Program:
    return replace(program, operations=(replace(program.operations[0], target=target),))


def test_unknown_operator_is_a_typed_error() -> None:
    graph = trace(nn.ReLU(), torch.randn(2, 3))
    message = r"no emitter for 'aten.made_up.default'.*torch.onnx.export"
    with pytest.raises(UnsupportedOperator, match=message) as caught:
        onnx_model(_with_target(graph.program, "aten.made_up.default"), {})
    assert caught.value.target == "aten.made_up.default"
    assert isinstance(caught.value, AutopruneError)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "scaled elu": (lambda x: torch.ops.aten.elu.default(x, 1.0, 2.0), "scaled ELU"),
    "softplus": (lambda x: F.softplus(x, beta=2.0), "beta"),
    "rounded division": (lambda x: torch.div(x, 2.0 + x.abs(), rounding_mode="floor"), "rounding|no emitter"),
    "uneven pool": (lambda x: F.adaptive_avg_pool2d(x, 3), "multiple"),
    "divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), "divisor_override"),
    "mask": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), "masked"),
    "cast": (lambda x: x.to(torch.float64), "cast from float32 to float64"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "running statistics|no emitter"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_uses_without_an_emitter_say_which(name: str) -> None:
    function, message = REFUSED[name]
    graph = trace(Call(function), torch.randn(2, *IMAGE))
    with pytest.raises(UnsupportedOperator, match=message):
        onnx_model(graph.program, {})


def test_unwritable_path_is_an_error(tmp_path: Path) -> None:
    graph = trace(nn.ReLU(), torch.randn(2, 3))
    with pytest.raises(AutopruneError, match="cannot write"):
        to_onnx(graph.program, {}, None, tmp_path / "missing" / "model.onnx")

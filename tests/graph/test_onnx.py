"""The ONNX emitter against torch, operator by operator and model by model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
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
from autoprune.graph import DependencyGraph, trace
from autoprune.graph.dimension import Constant
from autoprune.graph.folding import Constants
from autoprune.graph.onnx import EMITTERS, UnsupportedOperator, onnx_model, to_onnx
from autoprune.graph.onnx.model import placeholder
from autoprune.graph.program import Program, Value
from autoprune.graph.run import resolve_target
from tests.graph.models import MODELS, SHAPE, trained
from tests.graph.onnx_cases import CASES, IMAGE, Call


def run_onnx(model: onnx.ModelProto, x: Tensor) -> list[Any]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return outputs


@functools.cache
def traced_case(name: str) -> tuple[nn.Module, DependencyGraph]:
    make, shape = CASES[name]
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean, module.running_var = torch.randn(6), torch.rand(6) + 0.5
    return model, trace(model, torch.randn(2, *shape))


@pytest.mark.parametrize("name", sorted(CASES))
def test_emitter_agrees_with_torch(name: str) -> None:
    model, graph = traced_case(name)
    shape = CASES[name][1]
    emitted = onnx_model(graph.program, {}, graph.state)
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            expected = model(x)
        [found] = run_onnx(emitted, x)
        assert found.shape == tuple(expected.shape)
        assert found.dtype == expected.numpy().dtype
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
    model, graph = traced_case(name)
    program = graph.program
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
    covered = {f"aten.{target}" for target in OTHER_NAMES} | {"aten.embedding.default"}
    for name in CASES:
        program = traced_case(name)[1].program
        folded = Constants(program, {}, program.values.__getitem__)  # type: ignore[arg-type]  # never asked for one
        covered.update(operation.target for operation in program.operations if operation.name not in folded)
    names = {target.split(".")[1] for target in covered if target.startswith("aten.")}
    assert {target for target in EMITTERS if target.split(".")[1] not in names} == set()


def test_emitters_are_of_operators_that_there_are() -> None:
    assert all(callable(resolve_target(target)) for target in EMITTERS)


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
    "scaled elu": (lambda x: torch.ops.aten.elu.default(x, 1.0, 1.0, 2.0), "an input scale"),
    "uneven pool": (lambda x: F.adaptive_max_pool2d(x, 3), "multiple"),
    "places of maxima": (lambda x: F.max_pool2d(x, 2, return_indices=True)[1], "places of the maxima"),
    "places of wide maxima": (lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True)[1], "places of the maxima"),
    "divisor": (lambda x: F.avg_pool2d(x, 3, divisor_override=3, ceil_mode=True), "divisor_override"),
    "cast": (lambda x: x.to(torch.bfloat16), "numbers of type bfloat16"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "running statistics|no emitter"),
    "mask as index": (lambda x: x[:, torch.tensor([True, False] * 3)], "a mask as an index"),
    "second differences": (lambda x: x.diff(2, dim=1), "differences of differences"),
    "flat roll": (lambda x: x.roll(3), "all dimensions at once"),
    "late index": (lambda x: torch.ops.aten.index_put.default(x, [None, torch.arange(2)], x[:, :2]), "stays"),
    "masked values": (lambda x: torch.ops.aten.index_put.default(x, [x > 0], x[0, 0, 0]), "several values"),
    "small index": (lambda x: x.scatter(1, (x[:, :1] > 0).to(torch.int64), x), "smaller than its source"),
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


def test_stand_ins_of_one_shape_differ_and_are_the_same_every_time() -> None:
    first, second = (Value(name, (Constant(8), Constant(6)), "float32") for name in ("a.weight", "b.weight"))
    assert not np.array_equal(placeholder(first, {}), placeholder(second, {}))  # runtimes keep equal ones once
    np.testing.assert_array_equal(placeholder(first, {}), placeholder(first, {}))

"""Whether the user's class and the traced module compute the same: trained weights and random ones, several batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from autoprune.graph.dimension import Batch, dense_size, size
from autoprune.graph.module import TracedModule
from autoprune.graph.native.attributes import preserved
from autoprune.graph.program import Program, Ref

Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
Tensors: TypeAlias = Mapping[str, torch.Tensor]

# Both run the same kernels in nearly the same order; what differs is rounding, summed over a few hundred layers. A
# wrong size or scale changes outputs by far more under the random weights, where no branch is silent.
_ROUNDINGS = 1000
_LOOSEST = 0.05


class Reference:
    """The traced module's outputs, on the calls that the user's class must answer alike.

    Args:
        module: the traced module; its mode is restored after each run.
        calls: (args, kwargs) of every call.
    """

    def __init__(self, module: TracedModule, calls: list[Call]) -> None:
        self._calls = calls
        self.stirred = _stirred(module)
        with evaluating(module), torch.no_grad():
            self._expected = [_tensors(module(*args, **kwargs)) for args, kwargs in calls]
            args, kwargs = calls[0]
            stirred = _tensors(functional_call(module, self.stirred, args, kwargs))
        self._stirred = stirred if all(bool(torch.isfinite(t).all()) for t in stirred if _floating(t)) else None

    def difference(self, native: nn.Module, change: Callable[[Tensors], Tensors]) -> str:
        """Why a model is not the same, or an empty text. `change`: its weights from the traced ones."""
        args, kwargs = self._calls[0]
        with torch.no_grad():
            for call, expected in zip(self._calls, self._expected, strict=True):
                if different := _different(expected, _outputs(native, call)):
                    return different
            if self._stirred is not None:
                with preserved(native):
                    got = _tensors(functional_call(native, dict(change(self.stirred)), args, kwargs))
                if different := _different(self._stirred, got):
                    return f"{different} with random weights"
        with torch.enable_grad():  # fused inference paths give way to the ones that training takes
            return _different(self._expected[0], _outputs(native, self._calls[0]))


def _outputs(native: nn.Module, call: Call) -> list[torch.Tensor]:
    with preserved(native):
        return _tensors(native(*call[0], **call[1]))


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode while it lasts; every module's own mode afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _tensors(outputs: Any) -> list[torch.Tensor]:
    return [leaf.detach() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def _floating(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _different(expected: list[torch.Tensor], got: list[torch.Tensor]) -> str:
    if len(expected) != len(got):
        return f"gives {len(got)} outputs where {len(expected)} were traced"
    for mine, theirs in zip(expected, got, strict=True):
        if mine.shape != theirs.shape:
            return f"gives an output of shape {tuple(theirs.shape)} where {tuple(mine.shape)} was traced"
        if not _close(mine, theirs):
            return "gives other outputs"
    return ""


def _close(expected: torch.Tensor, got: torch.Tensor) -> bool:
    if not _floating(expected) or not expected.numel():
        return torch.equal(expected, got)
    finite = torch.isfinite(expected)
    if not torch.equal(finite, torch.isfinite(got)):
        return False
    largest = float(expected[finite].abs().max()) if finite.any() else 0.0
    tolerance = min(_ROUNDINGS * torch.finfo(expected.dtype).eps, _LOOSEST)
    return bool(((expected - got)[finite].abs() <= tolerance * largest).all())


def _stirred(module: TracedModule) -> dict[str, torch.Tensor]:
    """Random weights of the same shapes, in which every branch counts: trained ones may be zero, or nearly."""
    generator = torch.Generator().manual_seed(0)
    stirred = {}
    named: dict[str, torch.Tensor] = dict(module.named_parameters())
    named.update((n, b) for n, b in module.named_buffers() if n.endswith(("running_mean", "running_var")))
    for name, tensor in named.items():
        if not tensor.is_floating_point():
            continue
        if tensor.ndim < 2:
            value = torch.rand(tensor.shape, generator=generator) * 0.5 + 0.75
        else:
            fan_in = max(tensor.numel() // tensor.shape[0], 1)
            value = torch.randn(tensor.shape, generator=generator) * max(fan_in**-0.5, 0.02)
        stirred[name] = value.to(tensor)
    return stirred


def calls_of(module: TracedModule, example_inputs: Any) -> list[Call]:
    """The calls to compare on: the examples (or random inputs); where the batch is free, also one and one more of them.

    Args:
        module: the traced module.
        example_inputs: as for `trace`, or its flattened tensors; empty for random inputs of the program's shapes.
    """
    tree = json.loads(module.program.input_tree)
    if not isinstance(example_inputs, torch.Tensor) and not len(example_inputs):
        example_inputs = random_inputs(module.program, next((t.device for t in module.parameters()), None))
    first = _call(example_inputs, module.program, tree["kwargs"])
    if not tree["batched"]:
        return [first]
    single = pytree.tree_map(lambda leaf: leaf[:1] if isinstance(leaf, torch.Tensor) else leaf, first)
    more = pytree.tree_map(_one_more, first)
    return [more, first, single]


def _one_more(leaf: Any) -> Any:
    return torch.cat([leaf, leaf[:1]]) if isinstance(leaf, torch.Tensor) else leaf


def _call(example_inputs: Any, program: Program, names: list[str]) -> Call:
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    items = list(example_inputs)
    if not set(names) & set(program.inputs) or len(items) != len(program.inputs):
        return tuple(items), {}
    paired = list(zip(program.inputs, items, strict=True))  # flattened tensors: keyword inputs kept their names
    return tuple(item for name, item in paired if name not in names), {n: item for n, item in paired if n in names}


def random_inputs(program: Program, device: torch.device | None = None, batch: int = 2) -> list[torch.Tensor]:
    """Inputs of the program's shapes: normal floats, indices within the table they look up, else ones."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for name in program.inputs:
        value = program.values[name]
        shape = [int(size(dimension, {Batch.KEY: batch})) for dimension in value.dimensions]
        dtype = getattr(torch, value.dtype)
        rows = _rows(program, name)
        if dtype.is_floating_point:
            tensor = torch.randn(shape, generator=generator).to(dtype)
        elif rows and dtype in (torch.int64, torch.int32):
            tensor = torch.randint(0, rows, shape, generator=generator).to(dtype)
        else:
            tensor = torch.ones(shape, dtype=dtype)
        inputs.append(tensor.to(device))
    return inputs


def _rows(program: Program, name: str) -> int:
    """Rows of the smallest table that an input indexes, 0 where it indexes none."""
    tables = [
        operation.args[0]
        for operation in program.operations
        if operation.target == "aten.embedding.default" and operation.args[1] == Ref(name)
    ]
    return min((dense_size(program.values[table.name].dimensions[0]) for table in tables), default=0)

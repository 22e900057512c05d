"""One dense run of the user's class with tracked integers: which of them reach which torch function."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from autoprune.graph.dimension import Batch, size
from autoprune.graph.module import TracedModule
from autoprune.graph.native.attributes import preserved, tracked
from autoprune.graph.native.tracked import Origin, TrackedInt, plain, tracked_integers
from autoprune.graph.program import Program

_PLACES = 64  # values looked at when two tensors are compared
_ROUNDING = 1e-4  # of the largest value: both runs take the same kernels, or nearly


@dataclass(frozen=True, eq=False)
class Sample:
    """A tensor's shape and some of its values, evenly spaced: enough to know it again."""

    shape: tuple[int, ...]
    values: torch.Tensor  # (up to _PLACES,) float64

    def is_like(self, other: Sample) -> bool:
        """Whether both are of one tensor, up to rounding."""
        if self.shape != other.shape:
            return False
        largest = float(self.values.abs().max()) if self.values.numel() else 0.0
        return torch.allclose(self.values, other.values, rtol=0.0, atol=_ROUNDING * largest, equal_nan=True)


@dataclass(frozen=True, eq=False)
class Use:
    """One call of a torch function that was given tracked integers.

    Attributes:
        function: its name: `view`, `split`, `conv2d`, `__getitem__`, ...
        args: its positional arguments, integers plain and tensors left out.
        axis: the argument named `dim`, or the third one where it is an integer.
        integers: (index path in `(args, kwargs)`, integer).
        results: samples of the tensors it returned.
        operands: samples of its tensor operands; of parameters and buffers their names.
    """

    function: str
    args: tuple[Any, ...]
    axis: int | None
    integers: tuple[tuple[tuple[Any, ...], TrackedInt], ...]
    results: tuple[Sample, ...]
    operands: tuple[Sample | str, ...]


@dataclass(frozen=True, eq=False)
class Recording:
    """What one run showed.

    Attributes:
        uses: calls with tracked integers, in order.
        attentions: results of attention that was given no scale, and so took it from the width.
        escapes: origins of integers that became floats.
    """

    uses: tuple[Use, ...]
    attentions: tuple[Sample, ...]
    escapes: frozenset[Origin]


class Recorder(TorchFunctionMode):
    """Collects a `Use` for every call with tracked integers.

    Args:
        names: identity of each parameter and buffer -> its name.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.uses: list[Use] = []
        self.attentions: list[Sample] = []
        self._names = names

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call with plain integers, and note the tracked ones."""
        kwargs = kwargs or {}
        found = tuple(tracked_integers((args, kwargs)))
        if func is F.scaled_dot_product_attention and kwargs.get("scale") is None:
            results = func(*plain(args), **plain(kwargs))
            self.attentions.append(sample(results))
            return results
        if not found:
            return func(*args, **kwargs)
        args, kwargs = plain(args), plain(kwargs)
        operands = tuple(self._operand(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if _is_tensor(leaf))
        results = func(*args, **kwargs)
        leaves = [results] if _is_tensor(results) else results if isinstance(results, (tuple, list)) else []
        samples = tuple(sample(leaf) for leaf in leaves if _is_tensor(leaf))
        bare = tuple(None if _is_tensor(item) else item for item in args)
        name = str(getattr(func, "__name__", func))
        axis = kwargs.get("dim", args[2] if len(args) > 2 else None)
        self.uses.append(Use(name, bare, axis if isinstance(axis, int) else None, found, samples, operands))
        return results

    def _operand(self, tensor: torch.Tensor) -> Sample | str:
        return self._names.get(id(tensor)) or sample(tensor)


def _is_tensor(item: Any) -> bool:
    return isinstance(item, torch.Tensor)


def sample(tensor: torch.Tensor) -> Sample:
    """What is remembered of a tensor."""
    flat = tensor.detach().reshape(-1)
    step = max(flat.numel() // _PLACES, 1)
    return Sample(tuple(tensor.shape), flat[::step][:_PLACES].to("cpu", torch.float64))


def traced_samples(
    program: Program,
    tensors: Mapping[str, torch.Tensor],
    call: tuple[tuple[Any, ...], dict[str, Any]],
    shapes: Collection[tuple[int, ...]],
    batch: int,
) -> dict[str, Sample]:
    """Samples of the dense program's values that have one of these shapes, in program order."""
    wanted = set(shapes)
    names = [
        name
        for operation in program.operations
        for name in operation.results
        if program.values[name].dtype != "int"
        and tuple(int(size(d, {Batch.KEY: batch})) for d in program.values[name].dimensions) in wanted
    ]
    observed = TracedModule(observing(program, names), program.group_sizes, tensors)
    with torch.no_grad():
        results = observed(*call[0], **call[1])
    return {name: sample(value) for name, value in zip(names, results, strict=True)}


def observing(program: Program, names: Sequence[str]) -> Program:
    """The part of a program that computes these values, giving them as a flat tuple."""
    wanted = set(names)
    operations = []
    for operation in reversed(program.operations):
        if wanted.intersection(operation.results):
            operations.append(operation)
            wanted.update(operation.refs())
    tree = pytree.treespec_dumps(pytree.tree_structure(tuple(range(len(names)))))
    return replace(program, operations=tuple(reversed(operations)), outputs=tuple(names), output_tree=tree)


def record(model: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Recording:
    """Run a model with tracked integers, and return where they were used."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    recorder = Recorder({id(tensor): name for name, tensor in reversed(named)})
    with preserved(model), tracked(model) as escapes, torch.no_grad(), recorder:
        model(*call[0], **call[1])
    return Recording(tuple(recorder.uses), tuple(recorder.attentions), frozenset(escapes))

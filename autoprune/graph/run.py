"""One operation of a program, run: ATen by name, sizes written in, values filled in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload

from autoprune.core.errors import InputError, shortened
from autoprune.graph.dimension import Widths, has_batch, size
from autoprune.graph.program import Operation, Ref, Size


def _is_dispatched(overload: OpOverload) -> bool:
    """Whether it is a tensor operator: TorchScript has others under `aten`, of which `aten::save` writes files."""
    return torch._C._dispatch_has_kernel(overload.name())


@functools.cache
def resolve_target(target: str) -> Callable[..., Any]:
    """The ATen overload of a name such as `aten.relu.default`.

    Raises:
        InputError: not a known, side-effect-free ATen overload.
    """
    namespace, _, rest = target.partition(".")
    name, _, overload = rest.partition(".")
    try:
        found = getattr(getattr(torch.ops.aten, name), overload) if namespace == "aten" and overload else None
    except (AttributeError, RuntimeError):
        found = None
    if not isinstance(found, OpOverload) or name in ("from_file", "_local_scalar_dense") or not _is_dispatched(found):
        raise InputError(f"program: expected a known ATen operator, got '{shortened(target)}'.")
    return found


INTEGER: dict[str, Callable[..., Any]] = {  # run-time integers: sizes that contain the batch
    "operator.add": lambda a, b: a + b,
    "operator.sub": lambda a, b: a - b,
    "operator.mul": lambda a, b: a * b,
    "operator.floordiv": lambda a, b: a // b,
    "operator.mod": lambda a, b: a % b,
    "operator.neg": lambda a: -a,
    "getitem": lambda a, b: a[b],
}


def concrete(argument: Any, widths: Widths) -> Any:
    """An argument with its sizes under `widths`; -1 where the batch is part of one."""
    if isinstance(argument, Size):
        return -1 if has_batch(argument.dimension) else int(size(argument.dimension, widths))
    if isinstance(argument, tuple):
        return tuple(concrete(item, widths) for item in argument)
    return argument


def fill(argument: Any, values: Mapping[str, Any]) -> Any:
    """An argument with values in the place of references."""
    if isinstance(argument, Ref):
        return values[argument.name]
    if isinstance(argument, tuple):
        return [fill(item, values) for item in argument]
    return argument


def run_operation(operation: Operation, values: Mapping[str, Any], widths: Widths) -> Any:
    """The result of one operation, called as ATen (in eval mode, as it was traced)."""
    args = [fill(concrete(argument, widths), values) for argument in operation.args]
    kwargs = {name: fill(concrete(value, widths), values) for name, value in operation.kwargs}
    return (INTEGER.get(operation.target) or resolve_target(operation.target))(*args, **kwargs)

"""Where the user's class takes the scale of attention from the width: the query projection makes up for it.

The trained scale is `dense_width ** -0.5` and stays so at any width, or pruning would change what is left. A class that
computes `width ** -0.5` at run time gives the same outputs once its queries are `(width / dense_width) ** 0.5` larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from autoprune.graph.dimension import Dimension, dense_size, groups_of, size
from autoprune.graph.module import TracedModule
from autoprune.graph.native.compare import Call, Tensors
from autoprune.graph.native.recording import observing
from autoprune.graph.program import Operation, Program, Ref

_PRODUCTS = (
    "aten.matmul.default",
    "aten.bmm.default",
    "aten.baddbmm.default",
    "aten.scaled_dot_product_attention.default",
)
Parameters: TypeAlias = "tuple[tuple[str, tuple[int, ...]], ...]"  # (parameter, axes of it)
Scaling: TypeAlias = Mapping[str, torch.Tensor]  # parameter -> what its elements are multiplied by

_TERMINAL = ("linear", "addmm", "matmul", "mm", "bmm", "einsum", "conv", "norm", "mul", "embedding")


@dataclass(frozen=True)
class Query:
    """One operand of a product along the head width, where a policy changed that width.

    Attributes:
        product: name of the product of queries and keys.
        value: name of the operand: the queries; keys only where other products share the queries.
        factor: what it must be multiplied by.
        parameters: those that make it, with the axes that run along the head width.
    """

    product: str
    value: str
    factor: float
    parameters: Parameters


def scaled(scaling: Scaling, tensors: Tensors) -> dict[str, torch.Tensor]:
    """The tensors, those named by a scaling multiplied."""
    return {name: tensor * scaling[name] if name in scaling else tensor for name, tensor in tensors.items()}


def changed_queries(module: TracedModule) -> list[Query]:
    """Every product of two activations along a dimension whose size the policy changed, one operand of each."""
    program, found = module.program, []
    makers = {name: operation for operation in program.operations for name in operation.results}
    state = {*program.parameters, *program.buffers}
    larger: dict[Parameters, bool] = {}  # whether what these parameters make is multiplied
    for operation in program.operations:
        left, right, width = _operands(program, operation)
        if width is None or {left, right} & state:
            continue
        dense, pruned = dense_size(width), int(size(width, module.widths))
        if not groups_of(width) or dense == pruned or not pruned:
            continue
        first, second = (_makers_of(program, name, makers, set(groups_of(width))) for name in (left, right))
        if first not in larger and first != second:
            larger[first] = not larger.get(second, False)
        larger.setdefault(second, not larger.get(first, True))
        value, parameters = (left, first) if larger.get(first, True) else (right, second)
        found.append(Query(operation.name, value, (pruned / dense) ** 0.5, parameters))
    return [query for query in found if query.parameters]


def _operands(program: Program, operation: Operation) -> tuple[str, str, Dimension | None]:
    """Names of the operands of a product and the dimension that it sums over, None where it is no such product."""
    left = right = None
    axis = -1
    if operation.target == "aten.einsum.default":
        terms = str(operation.args[0]).replace(" ", "").replace("->", ",").split(",")
        summed = sorted(set(terms[0]) & set(terms[1]) - set(terms[-1]))
        if len(terms) == 3 and len(summed) == 1 and "." not in terms[0]:
            left, right = operation.args[1]
            axis = terms[0].index(summed[0])
    elif operation.target in _PRODUCTS:
        first = 1 if "baddbmm" in operation.target else 0
        left, right = operation.args[first : first + 2]
    if not (isinstance(left, Ref) and isinstance(right, Ref)):
        return "", "", None
    return left.name, right.name, program.values[left.name].dimensions[axis]


def _makers_of(program: Program, name: str, makers: Mapping[str, Operation], groups: set[str]) -> Parameters:
    """The nearest parameters that a value is proportional to, with their axes along these groups."""
    found: dict[str, tuple[int, ...]] = {}
    queue, seen = [name], set()
    while queue:
        maker = makers.get(queue.pop())
        if maker is None or maker.name in seen:
            continue
        seen.add(maker.name)
        refs = maker.refs()
        own = [ref for ref in refs if ref in program.parameters]
        for parameter in own:
            dimensions = program.values[parameter].dimensions
            axes = tuple(axis for axis, d in enumerate(dimensions) if groups.intersection(groups_of(d)))
            if axes:
                found[parameter] = axes
        stops = own and any(word in maker.target for word in _TERMINAL)
        queue += [ref for ref in (_added(maker) if stops else refs) if ref not in own]
    return tuple(sorted(found.items()))


def _added(operation: Operation) -> list[str]:
    """What a layer adds to its product: a bias may be put together from several parameters."""
    bias = operation.args[0] if "addmm" in operation.target else operation.argument(2, "bias")
    return [bias.name] if isinstance(bias, Ref) else []


def scaling_of(module: TracedModule, queries: Sequence[Query], call: Call) -> dict[str, torch.Tensor]:
    """What the parameters of these queries are multiplied by: the factor where they reach the queries, else 1."""
    if not queries:
        return {}
    tensors: dict[str, torch.Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    wanted = dict.fromkeys(name for query in queries for name, _ in query.parameters)
    leaves = {name: tensors[name].detach().clone().requires_grad_() for name in wanted}
    names = list(dict.fromkeys(query.value for query in queries))
    part = TracedModule(observing(module.program, names), module.widths, {**tensors, **leaves})
    with torch.enable_grad():
        values = dict(zip(names, part(*call[0], **call[1]), strict=True))
    own = dict(part.named_parameters())
    scaling = {name: torch.ones_like(leaf) for name, leaf in leaves.items()}
    for query in queries:
        value = values[query.value]
        probe = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
        used = [own[name] for name, _ in query.parameters]
        gradients = torch.autograd.grad((value * probe).sum(), used, retain_graph=True, allow_unused=True)
        for (name, axes), gradient in zip(query.parameters, gradients, strict=True):
            if gradient is not None:
                reached = _reached(gradient, axes).expand_as(gradient)
                scaling[name] = torch.where(reached, query.factor, scaling[name])  # once, however often it is used
    return scaling


def _reached(gradient: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Slices along the axes in which any element has a gradient.  # broadcasts to the gradient's shape"""
    others = tuple(axis for axis in range(gradient.ndim) if axis not in axes)
    touched = gradient != 0
    return touched.any(dim=others, keepdim=True) if others else touched

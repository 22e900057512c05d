"""The traced program as a trainable module, and the smaller module that a policy makes of it.

Operators with state run as `nn.Conv2d`, `nn.Linear`, `nn.BatchNorm2d`, ... under the user's names; the others call
ATen. Choosing a policy slices tensors and writes sizes: nothing is traced again and the dense model is not copied.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.core.errors import InputError
from autoprune.graph.dimension import Indices, size
from autoprune.graph.lift import bare_module, make_module
from autoprune.graph.program import Program
from autoprune.graph.run import INTEGER, fill, resolve_target
from autoprune.graph.slicing import Slicer


class TracedModule(nn.Module):
    """A program at given widths, as an `nn.Module` with the user's parameter names.

    Attributes:
        program: the program, sizes over groups; without the branches that width 0 removes.
        widths: group id -> units, every group named.
        output_example: outputs nested as the user's model does, integers in the place of tensors; None where the
            program's own nesting in dicts, lists and tuples is the same.
    """

    output_example: Any = None

    def __init__(self, program: Program, widths: Mapping[str, int], tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.program = program
        self.widths = dict(widths)
        self._steps = program.plan.steps_at(self.widths)
        self._raw = program.raw_state
        self._lookup: dict[str, Any] | None = None
        self._mount(tensors)
        self.training = False  # its layers are made so

    @classmethod
    def from_sliced(
        cls, program: Program, widths: Mapping[str, int], tensors: Mapping[str, torch.Tensor]
    ) -> TracedModule:
        """A module from tensors that already have their pruned shapes.

        Raises:
            InputError: a tensor is missing, or its shape does not fit the program under `widths`.
        """
        full = {**program.group_sizes, **widths}
        program = program.at(full)
        for name in (*program.parameters, *program.buffers):
            expected = tuple(int(size(d, full)) for d in program.values[name].dimensions)
            if name not in tensors:
                raise InputError(f"weights: expected a tensor '{name}' of shape {expected}, got none.")
            if tuple(tensors[name].shape) != expected:
                raise InputError(f"weights: expected '{name}' of shape {expected}, got {tuple(tensors[name].shape)}.")
        return cls(program, full, tensors)

    def _mount(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put modules and raw parameters where the user had them."""
        plan = self.program.plan
        made: list[nn.Module] = [self]
        for parent, name, operation, roles in plan.nodes:
            if operation is None:
                module = bare_module(nn.Module)
            else:
                held = {role: tensors.get(tensor) for role, tensor in roles.items()}
                module = make_module(operation, self.program, self.widths, held)
            made[parent]._modules[name] = module
            made.append(module)
        for name, holder, leaf, is_parameter in plan.loose:
            if name not in tensors:
                continue
            value = tensors[name]
            if not is_parameter:
                made[holder].register_buffer(leaf, value)
            else:
                parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value)
                made[holder].register_parameter(leaf, parameter)

    def clone_tensors(self) -> TracedModule:
        """Give this module its own copy of every tensor, floating-point parameters trainable; returns itself."""
        for module in self.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    trainable = parameter.is_floating_point()
                    module._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=trainable)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.detach().clone()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lookup": None}

    def _modules_by_name(self) -> dict[str, Any]:
        if self._lookup is None:
            names = dict.fromkeys(step.module for step in self._steps if step.module is not None)
            self._lookup = {name: self.get_submodule(name) for name in names}
        return self._lookup

    def _tensor(self, name: str) -> torch.Tensor:
        parent, _, leaf = name.rpartition(".")
        owner = self.get_submodule(parent)
        found: torch.Tensor = getattr(owner, leaf)
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; takes and returns what the user's model does (tensors nested as when it was traced)."""
        inputs = flatten_call(self.program, args, kwargs)
        values: dict[str, Any] = dict(zip(self.program.inputs, inputs, strict=True))
        for name in self._raw:
            values[name] = self._tensor(name)
        modules = self._modules_by_name()
        for step in self._steps:
            if step.module is not None:
                result = modules[step.module](fill(step.args[0], values))
            else:
                call = INTEGER.get(step.target) or resolve_target(step.target)
                result = call(*fill(step.args, values), **{k: fill(v, values) for k, v in step.kwargs.items()})
            if len(step.results) == 1:
                values[step.results[0]] = result
            else:
                values.update(zip(step.results, result, strict=False))
            for name in step.free:
                del values[name]
        outputs = [None if name is None else values[name] for name in self.program.outputs]
        if self.output_example is not None:
            return pytree.tree_map(lambda place: outputs[place], self.output_example)
        return pytree.tree_unflatten(outputs, plain_spec(self.program.output_tree))


@functools.lru_cache(maxsize=64)
def plain_spec(text: str) -> pytree.TreeSpec:
    """How results nest in plain containers.

    Raises:
        ValueError: other types than those: torch's reader would import what they name.
    """
    _check_tree(json.loads(text)[1])
    return pytree.treespec_loads(text)


_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_MAX_DEPTH = 32


def _check_tree(tree: Any, depth: int = 0) -> None:
    if depth > _MAX_DEPTH or tree["type"] not in _CONTAINERS:
        raise ValueError(f"expected outputs in tuples, lists and dicts, got {tree['type']!r}")
    if "__enum__" in str(tree["context"]):
        raise ValueError("expected outputs keyed by texts, got enum members")
    for child in tree["children_spec"]:
        _check_tree(child, depth + 1)


def flatten_call(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors of a call in the order of `program.inputs`.

    Raises:
        InputError: another number of tensors, or other keyword names, than the model was traced with.
    """
    tree = json.loads(program.input_tree)
    names: list[str] = tree["kwargs"]
    unknown = [name for name, value in kwargs.items() if name not in names and value is not None]
    if unknown:
        raise InputError(f"call: expected keyword inputs among {names}, got '{unknown[0]}'.")
    leaves = pytree.tree_leaves([args, [kwargs.get(name) for name in names]])
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if len(tensors) != len(program.inputs):
        raise InputError(f"call: expected {len(program.inputs)} input tensors, got {len(tensors)}.")
    return tensors


def build(
    program: Program,
    state: Mapping[str, torch.Tensor],
    kept: Mapping[str, Indices],
    weights: Mapping[str, torch.Tensor],
) -> TracedModule:
    """The module that keeps units `kept` (groups not named stay dense); see `DependencyGraph.module`."""
    cut = Slicer(program.plan, kept)
    tensors: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name in (*program.parameters, *program.buffers):
            source = weights.get(name, state[name])
            tensor = cut(name, source)
            if tensor is not source and isinstance(source, nn.Parameter):
                tensor = nn.Parameter(tensor, requires_grad=source.requires_grad)
            tensors[name] = tensor
    widths = {group: len(kept[group]) if group in kept else units for group, units in program.group_sizes.items()}
    empty = frozenset(group for group, units in widths.items() if units == 0)
    if not empty:
        return TracedModule(program, widths, tensors)
    reduction = program.depth.reduce(empty)
    return TracedModule(reduction.program, widths, reduction.tensors(program, tensors, widths))

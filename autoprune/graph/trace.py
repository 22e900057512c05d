"""`trace`: a model becomes a `DependencyGraph`, by one `torch.export` and one walk over its operators."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from autoprune.core.errors import InputError
from autoprune.core.files import canonical_json
from autoprune.graph.analysis import Analysis
from autoprune.graph.capture import BATCH, Captured, ExampleInputs, call_arguments, capture, unwrapped
from autoprune.graph.graph import DependencyGraph
from autoprune.graph.program import Ref


def trace(model: nn.Module, example_inputs: ExampleInputs) -> DependencyGraph:
    """Trace a model once and find its dependency groups.

    Args:
        model: a trained module; its tensors are shared, its mode is restored. `nn.DataParallel` and `torch.compile`
            are looked through.
        example_inputs: one tensor, a tuple of positional inputs, or a dict of keyword inputs. Dimension 0 of every
            tensor is the batch and stays free.

    Raises:
        InputError: not a module, or one that is scripted, quantised, without weights or on the meta device; no tensors
            among the inputs; or a model that `torch.export` refuses (the message says where).
    """
    model = unwrapped(model)
    args, kwargs = call_arguments(example_inputs)
    state: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    state.update(model.named_buffers(remove_duplicate=False))
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        captured = capture(model, args, kwargs)
    finally:
        for module, training in modes.items():
            module.training = training
    return _analyse(captured, state, args, kwargs)


def _analyse(
    captured: Captured, state: dict[str, torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> DependencyGraph:
    exported, batched = captured.exported, captured.batched
    walk = _Walk(captured, state)
    for node in exported.graph.nodes:
        walk.visit(node)
    outputs = walk.outputs()
    tree = {"kwargs": list(kwargs), "batched": batched}
    out_spec = exported.call_spec.out_spec
    program, groups, frozen = walk.analysis.finish(
        tuple(walk.inputs),
        tuple(item.name if isinstance(item, Ref) else None for item in outputs),
        canonical_json(tree),
        pytree.treespec_dumps(pytree.tree_structure(_plain(out_spec))),
        frozenset(name for name, tensor in state.items() if isinstance(tensor, nn.Parameter)),
        frozenset(state),
    )
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    # Two samples, copied: a view would keep a whole data set alive.
    example = tuple((leaf[:2] if batched else leaf).detach().clone() for leaf in tensors)
    used = {name: {**walk.constants, **state}[name] for name in (*program.parameters, *program.buffers)}
    nested = pytree.tree_unflatten(list(range(out_spec.num_leaves)), out_spec)
    return DependencyGraph(program, groups, frozen, used, example, None if _is_plain(nested) else nested)


def _plain(spec: pytree.TreeSpec) -> Any:
    """An example of outputs nested like `spec` in dicts, lists and tuples; classes with keys become dicts."""
    if spec.is_leaf():
        return 0
    children = [_plain(child) for child in spec.children()]
    keys = spec.context[-1] if isinstance(spec.context, tuple) and spec.context else spec.context
    if isinstance(keys, (list, tuple)) and len(keys) == len(children) and all(isinstance(key, str) for key in keys):
        return dict(zip(keys, children, strict=True))
    return children if spec.type is list else tuple(children)


def _is_plain(nested: Any) -> bool:
    if type(nested) in (tuple, list):
        return all(map(_is_plain, nested))
    return all(map(_is_plain, nested.values())) if type(nested) is dict else isinstance(nested, int)


def _aliases(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Every name of a tensor -> its first name: tied parameters are one."""
    first: dict[tuple[Any, ...], str] = {}
    result = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        result[name] = first.setdefault(key, name)
    return result


def _sizes(value: Any) -> list[int]:
    return [_integer(item) for item in value.shape]


def _integer(item: Any) -> int:
    if isinstance(item, int):
        return item
    expression = item.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, BATCH)))


class _Walk:
    """The nodes of an exported graph, told to the analysis one by one.

    Attributes:
        analysis: what they are told to.
        inputs: names of the tensor inputs so far.
        constants: tensors that the model made up itself, by name.
    """

    def __init__(self, captured: Captured, state: Mapping[str, torch.Tensor]) -> None:
        exported = captured.exported
        self._signature = signature = exported.graph_signature
        self._nodes = exported.graph.nodes
        self._state = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.constants = {name: value for name, value in exported.constants.items() if isinstance(value, torch.Tensor)}
        self._aliases = _aliases({**self.constants, **state})
        self.analysis = Analysis(BATCH if captured.batched else None)
        self.inputs: list[str] = []

    def outputs(self) -> list[Any]:
        """What the model returns, flattened."""
        returned = next(node for node in self._nodes if node.op == "output").args[0]
        specs = self._signature.output_specs
        kept = [item for item, spec in zip(returned, specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]
        return [_named(item) for item in kept]

    def visit(self, node: torch.fx.Node) -> None:
        """One node, in program order."""
        value: Any = node.meta.get("val")
        if node.op == "placeholder":
            if node.name in self._state:
                name = self._aliases[self._state[node.name]]
                self.analysis.state(node.name, name, _sizes(value), str(value.dtype))
            elif isinstance(value, torch.Tensor):
                self.inputs.append(node.name)
                self.analysis.input(node.name, _sizes(value), str(value.dtype))
        elif node.op == "call_function":
            target = str(node.target)
            args = _named(node.args)
            if "_local_scalar_dense" in target or target.startswith("aten.item."):
                raise InputError(
                    f"trace: the model reads a number out of a tensor ({node.name}), which is known at run time alone. "
                    "Keep it a tensor, or compute it before the model is called."
                )
            if node.target is operator.getitem:
                self.analysis.getitem(node.name, args[0].name, args[1])
            elif isinstance(value, (torch.Tensor, list, tuple)):
                self._call(node, target, args, value)
            else:
                kind = target if target.startswith("aten.") else f"operator.{getattr(node.target, '__name__', target)}"
                self.analysis.integer(node.name, kind, args)

    def _call(self, node: torch.fx.Node, target: str, args: list[Any], value: Any) -> None:
        if not target.startswith("aten."):
            raise InputError(
                f"trace: '{target}' ({node.name}) is a custom operator, whose meaning is not known. Switch to the "
                "model's implementation in plain PyTorch, or trace the part of the model without it."
            )
        results = [value] if isinstance(value, torch.Tensor) else list(value)
        stack = node.meta.get("nn_module_stack") or {}
        path, kind = next(reversed(stack.values()))[:2] if stack else ("", "")
        if "torch.nn.modules.dropout" not in str(kind):
            path = f"{path}._{node.name}".lstrip(".")  # a dropout that is a function call: a module of its own
        kwargs = {name: _named(item) for name, item in node.kwargs.items()}
        self.analysis.call(
            node.name, target, args, kwargs, [_sizes(r) for r in results], [str(r.dtype) for r in results],
            path, isinstance(value, torch.Tensor),
        )  # fmt: skip


def _named(item: Any) -> Any:
    """A node argument as the program writes it: nodes become `Ref`s, tuples lists."""
    if isinstance(item, torch.fx.Node):
        return Ref(item.name)
    if isinstance(item, (list, tuple)):
        return [_named(part) for part in item]
    if isinstance(item, torch.SymInt):
        return _integer(item)
    return item

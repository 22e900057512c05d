"""A model as `torch.export` captures it: wrappers undone, what cannot be captured refused, sub-graphs inlined."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.core.errors import InputError
from autoprune.graph.inplace import changes_operand, write_copies, write_out_of_place

aten = torch.ops.aten
BATCH = 1009  # the batch's size while tracing: a prime, so that it divides nothing else

ExampleInputs = torch.Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized", "torchao.")
# Higher-order operators that run one sub-graph on the operands behind it.
_WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "wrap", "tag_activation_checkpoint", "invoke_subgraph")


@dataclass(frozen=True)
class Captured:
    """An exported program of one flat graph.

    Attributes:
        exported: what `torch.export` made of the model; no operator in it changes its operands.
        batched: whether dimension 0 of the inputs is free (traced as `BATCH`) or as in the examples.
    """

    exported: torch.export.ExportedProgram
    batched: bool


def unwrapped(model: Any) -> nn.Module:
    """The model itself, out of `nn.DataParallel` and `torch.compile`, checked for what cannot be traced.

    Raises:
        InputError: not a module; scripted, quantised, lazy or on the meta device.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"trace: expected a torch.nn.Module, got {type(model).__name__}.")
    inner: nn.Module = model
    while True:
        if isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = inner.module
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):  # torch.compile's OptimizedModule
            inner = inner._orig_mod  # type: ignore[assignment]
        else:
            break
    for name, module in inner.named_modules():
        _check_module(f"'{name}'" if name else "the model", module)
    return inner


def _check_module(name: str, module: nn.Module) -> None:
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(f"trace: {name} is a TorchScript module. Pass the nn.Module that it was made from.")
    state = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if any(nn.parameter.is_lazy(tensor) for tensor in state):
        raise InputError(f"trace: {name} ({type(module).__name__}) has no weights yet. Run the model once first.")
    integer = any(not p.is_floating_point() and not p.is_complex() for p in module.parameters(recurse=False))
    packed = any(tensor.is_quantized or type(tensor).__module__.startswith("torchao") for tensor in state)
    if kind.startswith(_QUANTISED) or integer or packed:
        raise InputError(
            f"trace: {name} is quantised ({kind}): its weights are packed and no unit can be cut out of them. "
            "Prune the floating-point model, then quantise what comes out."
        )
    if any(tensor.is_meta for tensor in state):
        raise InputError(f"trace: {name} is on the meta device. Load its weights on a real device first.")


def call_arguments(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call.

    Raises:
        InputError: no tensor among them, or one without a first dimension.
    """
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    if isinstance(example_inputs, torch.Tensor):
        args, kwargs = (example_inputs,), {}
    elif isinstance(example_inputs, Mapping):
        args, kwargs = (), {name: value for name, value in example_inputs.items() if value is not None}
    elif isinstance(example_inputs, (tuple, list)):
        args, kwargs = tuple(example_inputs), {}
    else:
        raise InputError(
            "example_inputs: expected a tensor, a tuple of them or a dict of keyword inputs, "
            f"got {type(example_inputs).__name__}."
        )
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if not tensors or any(tensor.ndim == 0 or tensor.shape[0] == 0 for tensor in tensors):
        raise InputError("example_inputs: expected tensors whose first dimension is a batch of at least one.")
    return args, kwargs


def capture(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
    """Export with a free batch; where the model fixes it, with the batch of the examples.

    Raises:
        InputError: `torch.export` refuses the model, or control flow is left in it (the message says where).
    """
    with _quiet(), torch.no_grad():
        exported, batched = _export(model, args, kwargs)
    if any(_casts(node) for graph in _graphs(exported.graph_module) for node in graph.nodes):
        exported = _decomposed(exported)  # the casts become operators
    _inline(exported.graph_module)
    _drop_dead(exported.graph)
    signature = exported.graph_signature
    if not write_out_of_place(exported.graph, {**signature.inputs_to_parameters, **signature.inputs_to_buffers}):
        exported.graph_module.recompile()
        exported = _decomposed(exported)
    _drop_dead(exported.graph)
    return Captured(exported, batched)


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.export.ExportedProgram, bool]:
    def widened(leaf: Any) -> Any:
        return leaf[:1].expand(BATCH, *leaf.shape[1:]) if isinstance(leaf, torch.Tensor) else leaf

    batch = torch.export.Dim("batch", min=1)
    shapes = pytree.tree_map(lambda leaf: {0: batch} if isinstance(leaf, torch.Tensor) else None, (args, kwargs))
    wide_args, wide_kwargs = pytree.tree_map(widened, (args, kwargs))
    dynamic = shapes[1] if kwargs else shapes[0]
    try:
        return torch.export.export(model, wide_args, wide_kwargs, dynamic_shapes=dynamic, strict=False), True
    except Exception as first:  # torch.export raises many kinds; the batch may be what it refuses
        try:
            return torch.export.export(model, args, kwargs, strict=False), False
        except Exception:
            raise InputError(_refusal(first)) from first


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch logs of a failed attempt is in the error that it raises, too; what layers cache is restored."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*assigned during export", UserWarning)
            yield
    finally:
        logging.disable(before)


def _refusal(error: Exception) -> str:
    where = "unknown place"
    frames = error.__traceback__
    while frames is not None:
        name = frames.tb_frame.f_code.co_filename
        if "/torch/" not in name and "autoprune" not in name and not name.startswith("<"):
            where = f"{name}:{frames.tb_lineno} in {frames.tb_frame.f_code.co_name}"
        frames = frames.tb_next
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"trace: torch.export cannot capture this model: {type(error).__name__}: {reason[:300]} (at {where}). "
        "Replace control flow that depends on tensor values, or trace the part of the model without it."
    )


def _decomposed(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Casts written out and nothing changed in place; batch norms and dropouts stay what they were, for training."""
    nodes = [node for graph in _graphs(exported.graph_module) for node in graph.nodes]
    rates = {_path(node): node.args[1] for node in nodes if node.target is aten.dropout.default}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch copies its own deprecated classes
        decomposed: torch.export.ExportedProgram = exported.run_decompositions({})
    graph = decomposed.graph
    for node in list(graph.nodes):
        if node.target is aten._native_batch_norm_legit_no_training.default:
            x, weight, bias, mean, var, momentum, eps = node.args
            _replace(node, aten.batch_norm.default, (x, weight, bias, mean, var, False, momentum, eps, False))
        elif node.target is aten.clone.default and rates.get(_path(node)) is not None:
            node.target, node.args, node.kwargs = aten.dropout.default, (node.args[0], rates[_path(node)], False), {}
    write_copies(graph)
    return decomposed


def _path(node: torch.fx.Node) -> str | None:
    """The dropout module that a node stands in, where it stands in one."""
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(stack.values()))[:2] if stack else ("", "")
    return path if "torch.nn.modules.dropout" in str(kind) else None


def _replace(node: torch.fx.Node, target: Any, args: tuple[Any, ...]) -> None:
    """Another operator in the place of one of several results, of which the first alone is read."""
    graph = node.graph
    with graph.inserting_before(node):
        result = graph.call_function(target, args)
    result.meta = {**node.meta, "val": node.meta["val"][0]}
    for user in list(node.users):
        user.replace_all_uses_with(result)
        graph.erase_node(user)
    graph.erase_node(node)


def _graphs(module: torch.fx.GraphModule) -> Iterator[torch.fx.Graph]:
    yield module.graph
    for child in module.children():
        if isinstance(child, torch.fx.GraphModule):
            yield from _graphs(child)


def _operator(node: torch.fx.Node) -> str:
    return getattr(node.target, "_name", "") if isinstance(node.target, torch._ops.HigherOrderOperator) else ""


def _casts(node: torch.fx.Node) -> bool:
    """Whether a node runs its sub-graph under an autocast that is on."""
    return _operator(node) == "wrap_with_autocast" and node.args[2] is True


def _inline(module: torch.fx.GraphModule) -> None:
    """Put the sub-graphs of wrapping operators in their place."""
    graph = module.graph
    for node in list(graph.nodes):
        subgraphs = [a for a in pytree.tree_leaves(node.args) if isinstance(a, torch.fx.Node) and a.op == "get_attr"]
        if node.op != "call_function" or not subgraphs:
            continue
        if _operator(node) not in _WRAPPERS or len(subgraphs) != 1:
            name = _operator(node) or str(node.target)
            raise InputError(
                f"trace: control flow operator '{name}' ({node.name}) chooses or repeats a sub-graph at run time. "
                "Write it without control flow, or trace the part of the model without it."
            )
        inner = getattr(module, str(subgraphs[0].target))
        _inline(inner)
        inputs = [each for each in inner.graph.nodes if each.op == "placeholder"]
        operands = node.args[len(node.args) - len(inputs) :]
        with graph.inserting_before(node):
            results = graph.graph_copy(inner.graph, dict(zip(inputs, operands, strict=True)))
        for user in list(node.users):  # its results are a tuple: every user is a getitem
            user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            graph.erase_node(user)
        graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)


def _drop_dead(graph: torch.fx.Graph) -> None:
    """Remove what nothing reads, such as values that were only asked for their shape: it would freeze for nothing."""
    for node in reversed(list(graph.nodes)):
        target = str(node.target)
        checked = target.startswith(("aten._assert", "profiler.")) or "sym_constrain" in target
        if node.op == "call_function" and not node.users and (checked or not changes_operand(node)):
            graph.erase_node(node)

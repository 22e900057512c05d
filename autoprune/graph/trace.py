"""`trace`: a model becomes a `DependencyGraph`, by one `torch.export` and one walk over its operators."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.core.errors import InputError
from autoprune.core.files import canonical_json
from autoprune.graph.analysis import Analysis, is_view
from autoprune.graph.graph import DependencyGraph
from autoprune.graph.program import Ref

BATCH = 1009  # the batch's size while tracing: a prime, so that it divides nothing else

ExampleInputs = torch.Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


def trace(model: nn.Module, example_inputs: ExampleInputs) -> DependencyGraph:
    """Trace a model once and find its dependency groups.

    Args:
        model: a trained module; its tensors are shared, its mode is restored.
        example_inputs: one tensor, a tuple of positional inputs, or a dict of keyword inputs. Dimension 0 of every
            tensor is the batch and stays free.

    Raises:
        InputError: not a module, no tensors among the inputs, tensors on the meta device, or a model that
            `torch.export` refuses (the message says where).
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"trace: expected a torch.nn.Module, got {type(model).__name__}.")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    args, kwargs = _call(example_inputs)
    state: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    state.update(model.named_buffers(remove_duplicate=False))
    if any(tensor.is_meta for tensor in state.values()):
        raise InputError("trace: the model is on the meta device. Load its weights on a real device first.")
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        exported, batched = _export(model, args, kwargs)
    finally:
        for module, training in modes.items():
            module.training = training
    try:
        return _analyse(exported, state, args, kwargs, batched)
    except _InPlaceError:  # written out of place by torch itself; slower, so only where it must be
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch copies its own deprecated classes
            exported = exported.run_decompositions({})
        return _analyse(exported, state, args, kwargs, batched)


def _call(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
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


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.export.ExportedProgram, bool]:
    """Export with a free batch; where the model fixes it, with the batch of the examples (the flag is then False)."""

    def widened(leaf: Any) -> Any:
        return leaf[:1].expand(BATCH, *leaf.shape[1:]) if isinstance(leaf, torch.Tensor) else leaf

    batch = torch.export.Dim("batch", min=1)
    shapes = pytree.tree_map(lambda leaf: {0: batch} if isinstance(leaf, torch.Tensor) else None, (args, kwargs))
    wide_args, wide_kwargs = pytree.tree_map(widened, (args, kwargs))
    dynamic = shapes[1] if kwargs else shapes[0]
    try:
        with torch.no_grad():
            return torch.export.export(model, wide_args, wide_kwargs, dynamic_shapes=dynamic, strict=False), True
    except Exception as first:  # torch.export raises many kinds; the batch may be what it refuses
        try:
            with torch.no_grad():
                return torch.export.export(model, args, kwargs, strict=False), False
        except Exception:
            raise InputError(_refusal(first)) from first


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


def _analyse(
    exported: torch.export.ExportedProgram,
    state: dict[str, torch.Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batched: bool,
) -> DependencyGraph:
    signature = exported.graph_signature
    constants = {name: value for name, value in exported.constants.items() if isinstance(value, torch.Tensor)}
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    analysis = Analysis(BATCH if batched else None)
    aliases = _aliases({**constants, **state})
    inputs: list[str] = []
    renamed: dict[str, str] = {}  # nodes changed in place -> their newest value
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            if node.name in names:
                name = names[node.name]
                analysis.state(node.name, aliases[name], _sizes(node.meta["val"]), str(node.meta["val"].dtype))
            elif isinstance(node.meta.get("val"), torch.Tensor):
                inputs.append(node.name)
                analysis.input(node.name, _sizes(node.meta["val"]), str(node.meta["val"].dtype))
        elif node.op == "call_function":
            _visit(analysis, node, renamed)
        elif node.op == "get_attr":
            raise InputError(f"trace: sub-graph '{node.target}' (autocast or control flow) is not supported yet.")
    outputs = [_named(item, renamed) for item in next(n for n in exported.graph.nodes if n.op == "output").args[0]]
    tree = {"kwargs": list(kwargs), "batched": batched}
    out_spec = exported.call_spec.out_spec
    program, groups, frozen = analysis.finish(
        tuple(inputs),
        tuple(item.name if isinstance(item, Ref) else None for item in outputs),
        canonical_json(tree),
        pytree.treespec_dumps(pytree.tree_structure(_plain(out_spec))),
        frozenset(name for name, tensor in state.items() if isinstance(tensor, nn.Parameter)),
        frozenset(state),
    )
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    # Two samples, copied: a view would keep a whole data set alive.
    example = tuple((leaf[:2] if batched else leaf).detach().clone() for leaf in tensors)
    used = {name: {**constants, **state}[name] for name in (*program.parameters, *program.buffers)}
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


def _named(item: Any, renamed: Mapping[str, str]) -> Any:
    """A node argument as the program writes it: nodes become `Ref`s, lists tuples."""
    if isinstance(item, torch.fx.Node):
        return Ref(renamed.get(item.name, item.name))
    if isinstance(item, (list, tuple)):
        return [_named(part, renamed) for part in item]
    if isinstance(item, torch.SymInt):
        return _integer(item)
    return item


class _InPlaceError(InputError):
    """A view is changed in place while what it is a view of is still read."""


def _changes_nothing_else(node: torch.fx.Node) -> bool:
    """Whether only what follows from `node` reads the memory that it changes."""
    if node.target is torch.ops.aten.dropout_.default:
        return True  # traced in eval mode, where it changes nothing
    order = {each: place for place, each in enumerate(node.graph.nodes)}
    later: set[torch.fx.Node] = set()
    source: Any = node.args[0]
    reader = node
    while isinstance(source, torch.fx.Node):
        later.update(user for user in source.users if order[user] > order[node] and user is not reader)
        if source.op != "call_function" or not is_view(str(source.target)):
            break
        source, reader = source.args[0], source
    return source is node.args[0] or not later


def _visit(analysis: Analysis, node: torch.fx.Node, renamed: dict[str, str]) -> None:
    target = str(node.target)
    value = node.meta.get("val")
    args = _named(node.args, renamed)
    kwargs = {name: _named(item, renamed) for name, item in node.kwargs.items()}
    if target.startswith(("aten._assert", "profiler.")) or "sym_constrain" in target:
        return
    if node.target is operator.getitem:
        analysis.getitem(node.name, args[0].name, args[1])
        return
    if not isinstance(value, (torch.Tensor, list, tuple)):
        kind = target if target.startswith("aten.") else f"operator.{getattr(node.target, '__name__', target)}"
        analysis.integer(node.name, kind, args)
        return
    name, _, overload = target.removeprefix("aten.").partition(".")
    if target.startswith("aten.") and name.endswith("_") and not name.startswith("_"):
        functional = f"aten.{name[:-1]}.{overload}"
        if hasattr(torch.ops.aten, name[:-1]) and _changes_nothing_else(node):
            target = functional
            changed = args[0].name
            for old in [changed, *(k for k, v in renamed.items() if v == changed)]:
                renamed[old] = node.name
        else:
            raise _InPlaceError(f"trace: {target} changes a view in place ({node.name}); write it out of place.")
    results = [value] if isinstance(value, torch.Tensor) else list(value)
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(stack.values()))[:2] if stack else ("", "")
    if "torch.nn.modules.dropout" not in str(kind):
        path = f"{path}._{node.name}".lstrip(".")  # a dropout that is a function call: a module of its own
    analysis.call(
        node.name, target, args, kwargs, [_sizes(r) for r in results], [str(r.dtype) for r in results],
        path, isinstance(value, torch.Tensor),
    )  # fmt: skip

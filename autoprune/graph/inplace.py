"""Operators that change their operand in place, written out of place.

What an operator writes into a view becomes a new value of the view, and, where that is read later, of the tensor that
it is a view of and of its other views. Writes that this cannot express are left to torch's own, slower rewriting.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from autoprune.core.errors import InputError

aten = torch.ops.aten

# In eval mode these return their operand, though their schemas promise a new tensor.
_IDENTITIES = ("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.alias", "aten.detach")
_HARMLESS = ("aten.dropout_", "aten.feature_dropout_", "aten.alpha_dropout_")


def changes_operand(node: torch.fx.Node) -> bool:
    """Whether an operator writes into its first operand."""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    return str(node.target).startswith("aten.") and name.endswith("_") and not name.startswith("_")


def write_out_of_place(graph: torch.fx.Graph, state: Mapping[str, str]) -> bool:
    """Rewrite all operators that change their operand; False where one is left that has to be torch's to rewrite.

    Args:
        graph: a flat graph of ATen operators; changed, and equal in what it computes whatever is returned.
        state: placeholder -> name, of parameters and buffers.

    Raises:
        InputError: a parameter or a buffer is written to.
    """
    memory = _Memory(graph, state)
    return all(memory.visit(node) for node in list(graph.nodes) if node.op == "call_function")


class _Memory:
    """Which values share memory, as far as the nodes have been visited.

    A value is a view of its `parent`, made as its `template` is: the view itself, or, of a value that was written out
    of place, the view that it is the new value of.
    """

    def __init__(self, graph: torch.fx.Graph, state: Mapping[str, str]) -> None:
        self._graph, self._state = graph, state
        self._place = {node: place for place, node in enumerate(graph.nodes)}
        self._parent: dict[torch.fx.Node, torch.fx.Node] = {}
        self._template: dict[torch.fx.Node, torch.fx.Node] = {}
        self._views: dict[torch.fx.Node, list[torch.fx.Node]] = {}  # of a tensor that is no view itself

    def visit(self, node: torch.fx.Node) -> bool:
        """One operator, in order; False where its write cannot be expressed."""
        source = node.args[0] if node.args else None
        if not isinstance(source, torch.fx.Node):
            return True
        if str(node.target).rpartition(".")[0] in _HARMLESS:
            node.replace_all_uses_with(source)
            self._graph.erase_node(node)
            return True
        if changes_operand(node):
            return self._write(node, source)
        if _may_be_view(node):
            self._parent[node], self._template[node] = source, node
            self._views.setdefault(self._root(source), []).append(node)
        return True

    def _root(self, node: torch.fx.Node) -> torch.fx.Node:
        while node in self._parent:
            node = self._parent[node]
        return node

    def _write(self, node: torch.fx.Node, target: torch.fx.Node) -> bool:
        root, place = self._root(target), self._place[node]
        owner = self._state.get(root.name)
        if owner is not None:
            raise InputError(
                f"trace: the model writes to '{owner}' while it runs ({node.target}), so that its outputs depend on "
                "earlier calls. Update it outside of forward, or in training mode only."
            )
        aliases = (root, *self._views.pop(root, []))
        stale = [alias for alias in aliases if alias is not target and self._read_after(alias, place)]
        chain = [target]  # up to what it is a view of
        while stale and chain[-1] in self._parent:
            chain.append(self._parent[chain[-1]])
        functional = _functional(node)
        copied = any(_may_be_copy(view) for alias in stale for view in self._path(alias))
        if functional is None or copied or any(_scatter(self._template[view]) is None for view in chain[:-1]):
            return False
        with self._graph.inserting_before(node):
            fresh = {target: functional(self._graph)}
            for view, parent in itertools.pairwise(chain):
                fresh[parent] = self._scattered(view, parent, fresh[view])
            for alias in stale:
                self._renewed(alias, fresh)
        self._replace(fresh, place)
        node.replace_all_uses_with(fresh[target])
        self._graph.erase_node(node)
        return True

    def _read_after(self, node: torch.fx.Node, place: int) -> bool:
        return any(self._place.get(user, -1) > place for user in node.users)

    def _path(self, node: torch.fx.Node) -> Iterator[torch.fx.Node]:
        """The views from a value up to what it is a view of."""
        while node in self._parent:
            yield self._template[node]
            node = self._parent[node]

    def _replace(self, fresh: Mapping[torch.fx.Node, torch.fx.Node], place: int) -> None:
        """From `place` on, old values are read as the new ones, which are views of each other as those were."""
        for old, new in fresh.items():
            self._place[new] = place
            parent = fresh.get(self._parent.get(old, old), new)
            if parent is not new:  # the new value of an identity and of its operand are one
                self._parent[new], self._template[new] = parent, self._template[old]
        for old, new in fresh.items():
            if new in self._parent:
                self._views.setdefault(self._root(new), []).append(new)
            old.replace_all_uses_with(new, lambda user: self._place.get(user, -1) > place)

    def _scattered(self, view: torch.fx.Node, parent: torch.fx.Node, value: torch.fx.Node) -> torch.fx.Node:
        """The tensor whose view has a new value."""
        make = _scatter(self._template[view])
        assert make is not None
        target, args = make(parent, value)
        if target is None:
            return value
        node = self._graph.call_function(target, args)
        node.meta = dict(parent.meta)
        return node

    def _renewed(self, alias: torch.fx.Node, fresh: dict[torch.fx.Node, torch.fx.Node]) -> torch.fx.Node:
        """Another view of what was written to, made again."""
        if alias not in fresh:
            parent, template = self._renewed(self._parent[alias], fresh), self._template[alias]
            fresh[alias] = self._graph.node_copy(template, lambda x: parent if x is template.args[0] else x)
        return fresh[alias]


def _may_be_view(node: torch.fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return str(target) == "<built-in function getitem>"
    returned = [result.alias_info for result in target._schema.returns]
    identity = str(target).rpartition(".")[0] in (*_IDENTITIES, "aten.type_as")
    return identity or any(alias is not None and not alias.is_write for alias in returned)


def _may_be_copy(view: torch.fx.Node) -> bool:
    """Whether what may be a view may as well be a copy, which a later write does not reach."""
    name = str(view.target).removeprefix("aten.").partition(".")[0]
    return name in ("reshape", "flatten", "contiguous", "to", "type_as", "ravel", "reshape_as", "_reshape_alias")


_Functional = Callable[[torch.fx.Graph], torch.fx.Node]


def _functional(node: torch.fx.Node) -> _Functional | None:
    """What makes the value that `node` writes; None where torch has no such operator, or it has another type."""
    name, _, overload = str(node.target).removeprefix("aten.").partition(".")
    mine, *others = [item.meta.get("val") for item in node.all_input_nodes]
    tensors = [other for other in others if isinstance(other, torch.Tensor)]
    if not isinstance(mine, torch.Tensor):
        return None
    dtype = mine.dtype

    def make(graph: torch.fx.Graph) -> torch.fx.Node:
        if name == "copy_":
            return _assigned(graph, node)
        if name == "zero_":
            made = graph.call_function(aten.zeros_like.default, node.args[:1])
        else:
            made = graph.call_function(getattr(getattr(aten, name[:-1]), overload), node.args, node.kwargs)
        made.meta = dict(node.meta)
        return made

    if name in ("copy_", "zero_"):
        return make
    same = all(torch.promote_types(dtype, tensor.dtype) == dtype for tensor in tensors)
    return make if same and hasattr(getattr(aten, name[:-1], None), overload) else None


def _assigned(graph: torch.fx.Graph, node: torch.fx.Node) -> torch.fx.Node:
    """`copy` by operators that have a gradient: the source at the shape and type of what it is written to."""
    target: Any = node.args[0]
    source: Any = node.args[1]
    made = graph.call_function(aten.expand_as.default, (source, target))
    made.meta = dict(node.meta)
    made.meta["val"] = node.meta["val"].to(source.meta["val"].dtype)
    if source.meta["val"].dtype != node.meta["val"].dtype:
        made = graph.call_function(aten.to.dtype, (made, node.meta["val"].dtype))
        made.meta = dict(node.meta)
    return made


def write_copies(graph: torch.fx.Graph) -> None:
    """`aten.copy`, as torch's own rewriting leaves it, by operators that have a gradient."""
    for node in list(graph.nodes):
        if node.target is aten.copy.default:
            with graph.inserting_before(node):
                made = _assigned(graph, node)
            node.replace_all_uses_with(made)
            graph.erase_node(node)


_Scatter = Callable[[torch.fx.Node, torch.fx.Node], tuple[Any, tuple[Any, ...]]]


def _scatter(view: torch.fx.Node) -> _Scatter | None:
    """(parent, new value of the view) -> the operator and arguments of the parent's new value; None: not known."""
    rest = view.args[1:]
    scatters: dict[Any, _Scatter] = {
        aten.slice.Tensor: lambda parent, value: (aten.slice_scatter.default, (parent, value, *rest)),
        aten.select.int: lambda parent, value: (aten.select_scatter.default, (parent, value, *rest)),
        aten.transpose.int: lambda parent, value: (aten.transpose.int, (value, *rest)),
        aten.view.default: lambda parent, value: (aten.reshape_as.default, (value, parent)),
        aten.squeeze.dim: lambda parent, value: (aten.reshape_as.default, (value, parent)),
        aten.unsqueeze.default: lambda parent, value: (aten.reshape_as.default, (value, parent)),
    }
    if str(view.target).rpartition(".")[0] in _IDENTITIES:
        return lambda parent, value: (None, ())
    return scatters.get(view.target)

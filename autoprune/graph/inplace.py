"""Operators that change their operand in place, and who else would see the change."""

from __future__ import annotations

from typing import Any

import torch

# Their schemas promise a new tensor; in eval mode, or where the type is the same already, they return their operand.
_ALSO_VIEWS = (
    "aten.dropout.default",
    "aten.feature_dropout.default",
    "aten.alpha_dropout.default",
    "aten.type_as.default",
)


class Memory:
    """Which values of a graph share memory, and when each is read for the last time.

    Args:
        graph: a flat graph of ATen operators.
    """

    def __init__(self, graph: torch.fx.Graph) -> None:
        self._place = {node: place for place, node in enumerate(graph.nodes)}
        self._same: dict[torch.fx.Node, torch.fx.Node] = {}  # result of an in-place operator -> what it changed
        self._root: dict[torch.fx.Node, torch.fx.Node] = {}
        self._sharing: dict[torch.fx.Node, list[torch.fx.Node]] = {}
        for node in graph.nodes:
            source = node.args[0] if node.args else None
            if node.op != "call_function" or not isinstance(source, torch.fx.Node):
                continue
            if changes_operand(node):
                self._same[node] = self.changed(source)
            elif not _is_view(node):
                continue
            root = self._root.get(source, source)
            self._root[node] = root
            self._sharing.setdefault(root, [root]).append(node)

    def only_reader(self, node: torch.fx.Node) -> bool:
        """Whether what `node` changes in place is read later under no name or shape that it had before."""
        source: Any = node.args[0]
        changed, root, place = self.changed(source), self.root(source), self._place[node]
        return all(
            self._place[other] >= place or self.changed(other) is changed or self._last_read(other) <= place
            for other in self._sharing.get(root, [])
        )

    def _last_read(self, node: torch.fx.Node) -> int:
        return max((self._place[user] for user in node.users), default=-1)

    def changed(self, node: torch.fx.Node) -> torch.fx.Node:
        """The value that `node` is a newer state of; itself where it is no result of an in-place operator."""
        return self._same.get(node, node)

    def root(self, node: torch.fx.Node) -> torch.fx.Node:
        """The value whose memory `node` is, wholly or in part."""
        return self._root.get(node, node)


def changes_operand(node: torch.fx.Node) -> bool:
    """Whether an operator writes into its first operand."""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    return str(node.target).startswith("aten.") and name.endswith("_") and not name.startswith("_")


def widens(node: torch.fx.Node) -> bool:
    """Whether the same operator out of place would return another type than it writes in place."""
    mine, *others = [
        item.meta["val"] for item in node.all_input_nodes if isinstance(item.meta.get("val"), torch.Tensor)
    ]
    name = str(node.target).removeprefix("aten.")
    return not name.startswith("copy_") and any(
        torch.promote_types(mine.dtype, other.dtype) != mine.dtype for other in others
    )


def _is_view(node: torch.fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return str(target) == "<built-in function getitem>"
    returned = [result.alias_info for result in target._schema.returns]
    return str(target) in _ALSO_VIEWS or any(alias is not None and not alias.is_write for alias in returned)

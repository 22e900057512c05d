"""Dotted names as a tree for people; siblings that are alike can be folded into one: `layers.{0..47}`."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

Item = TypeVar("Item")

_NUMBER = re.compile(r"(?<!\d)(?:0|[1-9]\d*)(?!\d)")


@dataclass(frozen=True)
class Node(Generic[Item]):
    """A place in the tree.

    Attributes:
        name: one part of a dotted name, or several that have nothing else between them.
        items: what bears the name: one, or as many as siblings were folded; none where it only holds others.
        children: in order of first appearance.
        times: how many siblings it stands for.
    """

    name: str
    items: tuple[Item, ...]
    children: tuple[Node[Item], ...]
    times: int = 1

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node[Item]]]:
        """This node and all below it, with their depth."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)


def tree(items: Sequence[tuple[str, Item]]) -> tuple[Node[Item], ...]:
    """The nodes of the first level; a module that holds nothing but another one is one node with it.

    Args:
        items: dotted names and what bears them.
    """
    return tuple(_joined(node) for node in _grown([(tuple(name.split(".")), item) for name, item in items]))


def folded_tree(
    items: Sequence[tuple[str, Item]], kind: Callable[[Item], Hashable], figures: Callable[[Item], Hashable]
) -> tuple[Node[Item], ...]:
    """The same with siblings folded whose names differ in one number and whose contents are alike.

    Args:
        items: dotted names and what bears them.
        kind: what items of modules that are folded have in common.
        figures: what siblings that are no modules must have in common besides.
    """

    def content(node: Node[Item]) -> Hashable:
        kinds = tuple(kind(item) for item in node.items)
        return kinds, tuple((child.name, content(child)) for child in node.children)

    def likeness(node: Node[Item]) -> Hashable:
        return content(node), () if node.children else tuple(figures(item) for item in node.items)

    grown = _grown([(tuple(name.split(".")), item) for name, item in items])
    return tuple(_joined(node) for node in _folded(grown, likeness))


def _grown(items: Sequence[tuple[tuple[str, ...], Item]]) -> tuple[Node[Item], ...]:
    below: dict[str, list[tuple[tuple[str, ...], Item]]] = {}
    for (first, *rest), item in items:
        below.setdefault(first, []).append((tuple(rest), item))
    return tuple(
        Node(name, tuple(item for rest, item in found if not rest), _grown([pair for pair in found if pair[0]]))
        for name, found in below.items()
    )


def _folded(nodes: Sequence[Node[Item]], likeness: Callable[[Node[Item]], Hashable]) -> tuple[Node[Item], ...]:
    siblings: dict[Hashable, list[Node[Item]]] = {}
    for node in nodes:
        whole = replace(node, children=_folded(node.children, likeness))
        numbered = len(_NUMBER.findall(node.name)) == 1
        key = (_NUMBER.sub("#", node.name), likeness(whole)) if numbered else node.name
        siblings.setdefault(key, []).append(whole)
    return tuple(_merged(alike, _shared_name([node.name for node in alike])) for alike in siblings.values())


def _merged(alike: Sequence[Node[Item]], name: str) -> Node[Item]:
    """One node for several of the same structure."""
    if len(alike) == 1:
        return alike[0]
    children = tuple(
        replace(_merged(c, c[0].name), times=c[0].times) for c in zip(*(n.children for n in alike), strict=True)
    )
    return Node(name, tuple(item for node in alike for item in node.items), children, len(alike))


def _joined(node: Node[Item]) -> Node[Item]:
    """Chains of modules that hold one thing each as one node."""
    if not node.items and len(node.children) == 1:
        (child,) = node.children
        return _joined(Node(f"{node.name}.{child.name}", child.items, child.children, node.times * child.times))
    return replace(node, children=tuple(_joined(child) for child in node.children))


def _shared_name(names: Sequence[str]) -> str:
    """`layer_{0..11}` for `layer_0` to `layer_11`."""
    if len(names) == 1:
        return names[0]
    numbers = sorted(int(found[0]) for name in names if (found := _NUMBER.search(name)))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] + 1 == number:
            runs[-1].append(number)
        else:
            runs.append([number])
    spans = (f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)
    return _NUMBER.sub(f"{{{','.join(spans)}}}", names[0])

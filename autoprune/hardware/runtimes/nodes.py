"""Whose time a node of a runtime's graph is: runtimes fuse operations, rename them and add some of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.hardware.importers.named import mentioned
from autoprune.hardware.runtimes import Floats
from autoprune.hardware.runtimes.parts import Parts

NOBODY = ""  # the key of what belongs to no operation
LEAST = 0.05  # of a node's reported time that is its own, whatever reporting takes


@dataclass(frozen=True)
class Node:
    """A node of the graph that a runtime runs.

    Attributes:
        name: as the runtime reports it.
        labels: texts that may mention operations of the model, the surest first.
        inputs, outputs: names of tensors.
        moves: only changes layout or type: it is there for what consumes it.
    """

    name: str
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    moves: bool = False


def operations_of(nodes: Sequence[Node], parts: Parts) -> dict[str, str]:
    """Node -> the operation whose time its time is.

    A node that mentions operations of several kernels belongs to the one with the most work. One that mentions none
    belongs to the kernel that nothing mentions and that stands between what is before and behind the node; else to what
    consumes it; where nothing named does, to what made its input; else to `NOBODY`.

    Args:
        nodes: in the order they run.
        parts: of the model.
    """
    owners = {node.name: owner for node in nodes if (owner := _mentioned(node, parts))}
    consumers, producers = _neighbours(nodes)
    missing = set(range(len(parts.names))) - {parts.places[owner] for owner in owners.values()}
    for node in nodes:
        if node.name not in owners and not node.moves:
            before = {parts.places[name] for name in _nearest(node, owners, producers)}
            behind = {parts.places[name] for name in _nearest(node, owners, consumers)}
            fitting = [place for place in sorted(missing) if _between(place, before, behind, parts)]
            if fitting:
                owners[node.name] = parts.names[fitting[0]]
                missing.remove(fitting[0])
    found = {}
    for node in nodes:
        near = _nearest(node, owners, consumers) or _nearest(node, owners, producers)
        found[node.name] = near[0] if near else NOBODY
    return found


def totals(times: Mapping[str, Floats], owners: Mapping[str, str]) -> dict[str, Floats]:
    """The nodes' times added up by operation; nodes that no owner is known of are `NOBODY`'s.

    Args:
        times: node -> time of each run.  # (runs,)
        owners: node -> operation.
    """
    found: dict[str, Floats] = {}
    for name, own in times.items():
        operation = owners.get(name, NOBODY)
        found[operation] = found[operation] + own if operation in found else own
    return found


def without_overhead(times: Mapping[str, Floats], whole_us: float) -> dict[str, Floats]:
    """Times with the cost of reporting taken off, the same for each node, so that they add up to the whole.

    Args:
        times: node -> reported time of each run.  # (runs,)
        whole_us: typical time of a run that nothing is reported of.
    """
    typical = np.array([np.median(own) for own in times.values()])
    if typical.sum() <= whole_us:
        return dict(times)
    low, high = 0.0, float(typical.max())
    for _ in range(40):  # the sum falls as the cost grows: halve the range it lies in
        middle = (low + high) / 2.0
        left = np.maximum(typical - middle, LEAST * typical).sum()
        low, high = (middle, high) if left > whole_us else (low, middle)
    share = np.maximum(typical - high, LEAST * typical) / typical
    return {name: own * factor for (name, own), factor in zip(times.items(), share, strict=True)}


def _mentioned(node: Node, parts: Parts) -> str:
    """An operation that the node mentions, in the first label that mentions any; "" where none does."""
    for label in node.labels:
        if names := mentioned(label, parts.places):
            return max(names, key=lambda name: (parts.work[parts.places[name]], parts.places[name]))
    return NOBODY


def _between(place: int, before: set[int], behind: set[int], parts: Parts) -> bool:
    """Whether a kernel reads what is before and all that is behind reads it."""
    reads = before & parts.sources[place] if before else not parts.sources[place]
    return bool(reads) and behind <= parts.followers[place]


Neighbours = Callable[[Node], Iterable[Node]]


def _neighbours(nodes: Sequence[Node]) -> tuple[Neighbours, Neighbours]:
    """What consumes a node's outputs, and what made its inputs."""
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    makers = {name: node for node in nodes for name in node.outputs}
    return (
        lambda node: [reader for name in node.outputs for reader in readers.get(name, ())],
        lambda node: [makers[name] for name in node.inputs if name in makers],
    )


def _nearest(start: Node, owners: Mapping[str, str], following: Neighbours) -> list[str]:
    """The owners of the nodes that are reached first, the start among them; through those that have none."""
    found: list[str] = []
    seen, layer = {start.name}, [start]
    while layer:
        found += [owners[node.name] for node in layer if node.name in owners]
        bare = [node for node in layer if node.name not in owners]
        reached = {after.name: after for node in bare for after in following(node) if after.name not in seen}
        seen |= reached.keys()
        layer = list(reached.values())
    return found

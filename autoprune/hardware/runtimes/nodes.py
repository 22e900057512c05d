"""Whose time a node of a runtime's graph is: runtimes fuse operations, rename them and add some of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.hardware.importers.named import mentioned
from autoprune.hardware.runtimes import Floats, Runner
from autoprune.hardware.runtimes.parts import INPUT, Parts

NOBODY = ""  # the key of what belongs to no operation
TURN = 10  # runs with a profile, and as many without
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
    """Node -> the first operation of the kernel whose time its time is.

    A node that mentions operations of several kernels is the one's with the most work. One that mentions none is the
    kernel's that no node mentions and that reads what the node reads; else it is there for what consumes it; where
    nothing known does, for what made its input; else it is `NOBODY`'s.

    Args:
        nodes: in the order they run.
        parts: of the model.
    """
    links = _Links(nodes)
    gives = {node.name: place for node in nodes if (place := _mentioned(node, parts)) is not None}
    owners = {node.name: _corrected(node, gives, links, parts) for node in nodes if node.name in gives}
    missing = set(range(len(parts.names))) - set(owners.values())
    for node in nodes:
        if node.name not in owners and not node.moves:
            source = links.first_source(node, gives)
            behind = set(links.nearest(node, owners, links.consumers))
            near = (place for place in sorted(missing) if behind <= parts.followers[place] | {*parts.sources[place]})
            place = next((place for place in near if parts.sources[place][:1] == (source,)), None)
            if place is not None:
                owners[node.name] = gives[node.name] = place
                missing.remove(place)
    found = {}
    for node in nodes:
        near_by = links.nearest(node, owners, links.consumers) or links.nearest(node, owners, links.producers)
        found[node.name] = parts.names[near_by[0]] if near_by else NOBODY
    return found


def by_operation(
    times: Mapping[str, Floats], nodes: Sequence[Node], parts: Parts, whole_us: float = 0.0
) -> dict[str, Floats]:
    """The nodes' times added up by operation, one for every kernel: zeros where no node is left of it.

    What a run takes beyond its nodes is `NOBODY`'s, and so are nodes that no operation is known of.

    Args:
        times: node -> time of each run.  # (runs,)
        nodes: in the order they run.
        parts: of the model.
        whole_us: typical time of a run, where it is known.
    """
    owners = operations_of(nodes, parts)
    runs = len(next(iter(times.values()), ()))
    found = {name: np.zeros(runs) for name in (*parts.names, NOBODY)}
    for name, own in times.items():
        found[owners.get(name, NOBODY)] += own
    found[NOBODY] += max(0.0, whole_us - sum(float(np.median(own)) for own in found.values()))
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
    share = np.maximum(typical - high, LEAST * typical) / np.where(typical > 0, typical, 1.0)
    return {name: own * factor for (name, own), factor in zip(times.items(), share, strict=True)}


def in_turn(profiled: Runner, plain: Runner, warm: int, runs: int) -> Floats:
    """Run both in short turns, so that drift meets both; the times of the plain one.  # (runs,)"""
    profiled.run_us(warm)
    plain.run_us(warm)
    times = []
    for first in range(0, runs, TURN):
        count = min(TURN, runs - first)
        profiled.run_us(count)
        times.append(plain.run_us(count))
    return np.concatenate(times)


def _mentioned(node: Node, parts: Parts) -> int | None:
    """The kernel that a node mentions, in the first label that mentions any."""
    for label in node.labels:
        if names := mentioned(label, parts.places):
            return max({parts.places[name] for name in names}, key=lambda place: (parts.work[place], place))
    return None


def _corrected(node: Node, gives: Mapping[str, int], links: _Links, parts: Parts) -> int:
    """The kernel of a node that mentions one.

    Where two convolutions are added, the addition is part of the second in the model, and may be part of the first in
    the runtime's graph. The node then reads what the first reads, and mentions nothing of either but the addition.
    """
    place = gives[node.name]
    source = links.first_source(node, gives)
    named = any(parts.names[place] in mentioned(label, parts.places) for label in node.labels)
    if named or source is None or parts.sources[place][:1] == (source,):
        return place
    taken = set(gives.values())
    others = (one for one in parts.sources[place] if one != INPUT and one not in taken)
    return next((one for one in others if parts.sources[one][:1] == (source,)), place)


Neighbours = Callable[[Node], Iterable[Node]]


class _Links:
    """What consumes the nodes' outputs, and what made their inputs."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._readers: dict[str, list[Node]] = {}
        for node in nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)
        self._makers = {name: node for node in nodes for name in node.outputs}

    def consumers(self, node: Node) -> list[Node]:
        return [reader for name in node.outputs for reader in self._readers.get(name, ())]

    def producers(self, node: Node) -> list[Node]:
        return [self._makers[name] for name in node.inputs if name in self._makers]

    def nearest(self, start: Node, owners: Mapping[str, int], following: Neighbours) -> list[int]:
        """The owners of the nodes that are reached first, the start among them; through those that have none."""
        found: list[int] = []
        seen, layer = {start.name}, [start]
        while layer:
            found += [owners[node.name] for node in layer if node.name in owners]
            bare = [node for node in layer if node.name not in owners]
            reached = {after.name: after for node in bare for after in following(node) if after.name not in seen}
            seen |= reached.keys()
            layer = list(reached.values())
        return found

    def first_source(self, node: Node, gives: Mapping[str, int]) -> int | None:
        """The kernel that made a node's first input, through changes of layout; None where it is not known yet."""
        seen = set()
        while node.name not in seen:
            seen.add(node.name)
            maker = self._makers.get(node.inputs[0]) if node.inputs else None
            if maker is None:
                return INPUT
            if maker.name in gives:
                return gives[maker.name]
            if not maker.moves:
                return None
            node = maker
        return None

"""What of building a module is the same for every policy of a program, worked out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from autoprune.graph.dimension import Dimension, Indices, Widths, dense_size, groups_of, has_batch, indices, size
from autoprune.graph.lift import module_input, owned_parameters
from autoprune.graph.program import Operation, Program, Size


@dataclass(frozen=True)
class Place:
    """In the arguments of a step: the size at this place of `Plan.sizes`."""

    index: int


class Step(NamedTuple):
    """One operation, ready to run: literal arguments, sizes written in (`Place`s before).

    Attributes:
        results: names of its results.
        target: what it calls where `module` is None.
        module: the lifted module that it runs.
        args, kwargs: with `Ref`s.
        free: values read here for the last time.
    """

    results: tuple[str, ...]
    target: str
    module: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    free: tuple[str, ...]


class Node(NamedTuple):
    """A module of the tree that is built.

    Attributes:
        parent: place of the module that holds it: 0 is the root, node i stands at i + 1.
        name: its name there.
        operation: the first that runs it; None where it only holds others.
        tensors: role in it -> state-dict name.
    """

    parent: int
    name: str
    operation: Operation | None
    tensors: dict[str, str]


class Loose(NamedTuple):
    """A parameter or buffer that no lifted module holds: its name, its holder's place, its name there, which it is."""

    name: str
    holder: int
    leaf: str
    is_parameter: bool


class Plan:
    """The parts of a program that a policy does not change, laid out for building modules quickly.

    Args:
        program: any.

    Attributes:
        sizes: every size that arguments of operations name, each once, and whether the batch is part of it.
        steps: the operations, `Place`s for sizes.
        nodes: lifted modules and what holds them, holders first.
        loose: state that no lifted module holds.
        dimensions: every dimension of state that carries a group, each once, with its groups and dense size.
        cuts: state-dict name -> (axis, place in `dimensions`) of the axes that carry groups.
    """

    def __init__(self, program: Program) -> None:
        places: dict[Dimension, int] = {}
        self.steps: list[Step] = []
        self._sized: list[int] = []  # places of the steps with sizes
        for operation, free in zip(program.operations, program.last_reads, strict=True):
            if operation.module is not None:
                step = Step(operation.results, operation.target, operation.module, (module_input(operation),), {}, free)
                self.steps.append(step)
                continue
            args, kwargs = _placed(operation.args, places), _placed(dict(operation.kwargs), places)
            step = Step(operation.results, operation.target, None, args, kwargs, free)
            if args != operation.args or kwargs != dict(operation.kwargs):
                self._sized.append(len(self.steps))
            self.steps.append(step)
        self.sizes = tuple((dimension, has_batch(dimension)) for dimension in places)
        state = (*program.parameters, *program.buffers)
        self.nodes, self.loose = _tree(program, state)
        dimensions: dict[Dimension, int] = {}
        self.cuts = {
            name: tuple(
                (axis, dimensions.setdefault(dimension, len(dimensions)))
                for axis, dimension in enumerate(program.values[name].dimensions)
                if groups_of(dimension)
            )
            for name in state
        }
        self.dimensions = tuple((dimension, groups_of(dimension), dense_size(dimension)) for dimension in dimensions)

    def steps_at(self, widths: Widths) -> list[Step]:
        """The steps with their sizes under `widths`; -1 where the batch is part of one."""
        sizes = [-1 if batch else int(size(dimension, widths)) for dimension, batch in self.sizes]
        steps = self.steps.copy()
        for place in self._sized:
            step = steps[place]
            kwargs = {name: _filled(value, sizes) for name, value in step.kwargs.items()} if step.kwargs else {}
            steps[place] = Step(step.results, step.target, None, _filled(step.args, sizes), kwargs, step.free)
        return steps

    def selections(self, kept: Mapping[str, Indices]) -> list[Indices | None]:
        """For each of `dimensions`, the indices that stay; None where that is all of them."""
        found: list[Indices | None] = []
        for dimension, groups, _ in self.dimensions:
            whole = not any(group in kept for group in groups)
            found.append(None if whole else indices(dimension, kept))
        return found


def _tree(program: Program, state: Sequence[str]) -> tuple[list[Node], list[Loose]]:
    """Lifted modules and what holds them, holders first; and the state that is left."""
    lifted: dict[str, Operation] = {}
    for operation in program.operations:
        if operation.module is not None:
            lifted.setdefault(operation.module, operation)
    nodes: list[Node] = []
    places = {"": 0}

    def place_of(path: str) -> int:
        if path not in places:
            parent, _, name = path.rpartition(".")
            first = lifted.get(path)
            holder = place_of(parent)
            nodes.append(Node(holder, name, first, {} if first is None else owned_parameters(first)))
            places[path] = len(nodes)
        return places[path]

    for path in lifted:
        place_of(path)
    held = {name for node in nodes for name in node.tensors.values()}
    parameters = set(program.parameters)
    loose = []
    for name in state:
        if name not in held:
            parent, _, leaf = name.rpartition(".")
            loose.append(Loose(name, place_of(parent), leaf, name in parameters))
    return nodes, loose


def _placed(item: Any, places: dict[Dimension, int]) -> Any:
    """An argument with `Place`s for sizes."""
    if isinstance(item, Size):
        return Place(places.setdefault(item.dimension, len(places)))
    if isinstance(item, tuple):
        return tuple(_placed(part, places) for part in item)
    return {name: _placed(value, places) for name, value in item.items()} if isinstance(item, dict) else item


def _filled(item: Any, sizes: list[int]) -> Any:
    """An argument with sizes in their places."""
    if type(item) is Place:
        return sizes[item.index]
    return tuple([_filled(part, sizes) for part in item]) if type(item) is tuple else item

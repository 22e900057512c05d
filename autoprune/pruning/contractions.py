"""Where a program contracts a parameter with activations: linear layers, convolutions, matrix products, einsum.

Every such operation becomes a `Contraction`: which axes of the activation and of the parameter are summed over, which
run along independent blocks (groups of a convolution, experts), and how a convolution's window moves. What reads it
need not know the operator any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.graph.dimension import dense_size
from autoprune.graph.program import Operation, Program, Ref
from autoprune.pruning.window import Window, window_of

_IDENTITIES = ("detach", "alias", "contiguous", "clone", "to", "_to_copy", "lift_fresh_copy")
_PERMUTATIONS = ("t", "numpy_T", "transpose", "permute")


@dataclass(frozen=True)
class Reading:
    """How an activation is read: `(samples, blocks, columns)` once its axes are in order.

    Attributes:
        value: name of the activation.
        blocks: its axes along blocks.
        columns: its axes that are summed over; of a convolution the channels, which `groups` splits into blocks.
        groups: groups of a convolution; 1 otherwise.
        window: how a convolution moves over the other axes; None for matrix products.
    """

    value: str
    blocks: tuple[int, ...]
    columns: tuple[int, ...]
    groups: int = 1
    window: Window | None = None


@dataclass(frozen=True)
class Layout:
    """Which axes of a parameter are what; all others are outputs.

    Attributes:
        groups: axis 0 splits into this many blocks and the rest first, where not None; axes count after that.
        blocks: axes along blocks.
        columns: axes that are summed over.
    """

    groups: int | None
    blocks: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Contraction:
    """One operation that contracts a parameter with an activation.

    Attributes:
        operation: its name.
        parameter: state-dict name.
        reading: of the activation.
        layout: of the parameter.
        added: what the operation adds to its result itself (a bias); None where nothing.
    """

    operation: str
    parameter: str
    reading: Reading
    layout: Layout
    added: str | None


Views = Mapping[str, tuple[str, tuple[int, ...]]]  # value -> (parameter, its axis for each axis of the value)


def parameter_views(program: Program) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Values that are a parameter, permuted at most -> (parameter, its axis for each axis of the value)."""
    views = {name: (name, tuple(range(len(program.values[name].dimensions)))) for name in program.parameters}
    for operation in program.operations:
        kind = operation.kind
        source = operation.args[0] if operation.args else None
        if kind not in (*_IDENTITIES, *_PERMUTATIONS) or not isinstance(source, Ref) or source.name not in views:
            continue
        parameter, axes = views[source.name]
        order = list(range(len(axes)))
        if kind == "permute":
            order = [axis % len(axes) for axis in operation.argument(1, "dims")]
        elif kind in _PERMUTATIONS and len(axes) > 1:
            first, second = operation.argument(1, "dim0", 0), operation.argument(2, "dim1", 1)
            order[first], order[second] = order[second], order[first]
        views[operation.name] = (parameter, tuple(axes[axis] for axis in order))
    return views


def find_contractions(program: Program) -> tuple[Contraction, ...]:
    """Every contraction of a parameter with an activation, in program order."""
    views = parameter_views(program)
    found: list[Contraction] = []
    for operation in program.operations:
        rule = _RULES.get(operation.kind)
        found.extend(rule(program, views, operation) if rule is not None else ())
    return tuple(found)


def _rank(program: Program, name: str) -> int:
    return len(program.values[name].dimensions)


def _linear(program: Program, views: Views, operation: Operation) -> Iterable[Contraction]:
    x, weight, bias = operation.args[0], operation.args[1], operation.argument(2, "bias")
    if x.name not in views and weight.name in views:
        yield _product(program, views, operation, (x.name, -1), (weight.name, 1), (), _name(bias))


def _convolution(program: Program, views: Views, operation: Operation) -> Iterable[Contraction]:
    x, weight, bias = operation.args[0], operation.args[1], operation.argument(2, "bias")
    window = window_of(operation, tuple(dense_size(d) for d in program.values[weight.name].dimensions[2:]))
    plain = weight.name in views and views[weight.name][1] == tuple(range(_rank(program, weight.name)))
    if window is None or not plain or x.name in views or _rank(program, x.name) != len(window.kernel) + 2:
        return
    groups = operation.argument(8 if window.transposed else 6, "groups", 1)
    groups = dense_size(groups.dimension) if not isinstance(groups, int) else groups
    # (groups, outputs, inputs, taps ...), or (groups, inputs, outputs, taps ...) where transposed
    layout = Layout(groups, (0,), (1,) if window.transposed else (2,))
    reading = Reading(x.name, (), (1,), groups, window)
    yield Contraction(operation.name, views[weight.name][0], reading, layout, _name(bias))


def _matmul(program: Program, views: Views, operation: Operation) -> Iterable[Contraction]:
    yield from _matrices(program, views, operation, operation.args[0].name, operation.args[1].name, None)


def _addmm(program: Program, views: Views, operation: Operation) -> Iterable[Contraction]:
    added, first, second = operation.args[:3]
    plain = not any(value != 1 for _, value in operation.kwargs)  # beta, alpha
    yield from _matrices(program, views, operation, first.name, second.name, added.name if plain else None)


def _matrices(
    program: Program, views: Views, operation: Operation, first: str, second: str, added: str | None
) -> Iterable[Contraction]:
    """`... m k, ... k n -> ... m n` with the parameter on either side."""
    if (first in views) == (second in views) or min(_rank(program, first), _rank(program, second)) < 2:
        return
    if second in views:
        x, x_axis, weight, axis = first, -1, second, _rank(program, second) - 2
    else:
        x, x_axis, weight, axis = second, -2, first, _rank(program, first) - 1
    blocks = []
    for place in range(_rank(program, weight) - 2):
        own = place - _rank(program, weight)  # from the right: how batch axes align
        units = dense_size(program.values[weight].dimensions[own])
        if units != 1 and -own <= _rank(program, x) and dense_size(program.values[x].dimensions[own]) == units:
            blocks.append((own, place))
    yield _product(program, views, operation, (x, x_axis), (weight, axis), blocks, added)


def _product(
    program: Program,
    views: Views,
    operation: Operation,
    x: tuple[str, int],
    weight: tuple[str, int],
    blocks: Iterable[tuple[int, int]],
    added: str | None,
) -> Contraction:
    """A product over one axis of each; `blocks` pairs axes of the activation and of the weight's value."""
    parameter, axes = views[weight[0]]
    rank = _rank(program, x[0])
    reading = Reading(x[0], tuple(a % rank for a, _ in blocks), (x[1] % rank,))
    layout = Layout(None, tuple(axes[b] for _, b in blocks), (axes[weight[1]],))
    return Contraction(operation.name, parameter, reading, layout, added)


def _einsum(program: Program, views: Views, operation: Operation) -> Iterable[Contraction]:
    """Two operands, one of them a parameter; letters of both that vanish are columns, those that stay are blocks."""
    names = [operand.name for operand in operation.args[1]]
    equation = operation.args[0].replace(" ", "")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if len(names) != 2 or (names[0] in views) == (names[1] in views) or "->" not in equation:
        return
    place = 1 if names[1] in views else 0
    weight, letters = names[place], terms[place]
    x, term = names[1 - place], terms[1 - place]
    if "." in letters or any(len(set(t)) != len(t) for t in (letters, term.replace("...", ""))):
        return
    head, dots, tail = term.partition("...")
    rank = _rank(program, x)
    axis_of = {letter: axis for axis, letter in enumerate(head)}
    axis_of |= {letter: rank - len(tail) + axis for axis, letter in enumerate(tail if dots else "")}
    columns = [letter for letter in letters if letter in axis_of and letter not in right]
    blocks = [letter for letter in letters if letter in axis_of and letter in right]
    alone = [letter for letter in (*letters, *axis_of) if letter not in right and letter not in columns]
    if not columns or alone:
        return
    axes = views[weight][1]
    reading = Reading(x, tuple(axis_of[b] for b in blocks), tuple(axis_of[c] for c in columns))
    layout = Layout(None, tuple(axes[letters.index(b)] for b in blocks), tuple(axes[letters.index(c)] for c in columns))
    yield Contraction(operation.name, views[weight][0], reading, layout, None)


def _name(argument: Any) -> str | None:
    return argument.name if isinstance(argument, Ref) else None


_Rule = Callable[[Program, Views, Operation], Iterable[Contraction]]
_RULES: dict[str, _Rule] = {
    "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    "einsum": _einsum,
}

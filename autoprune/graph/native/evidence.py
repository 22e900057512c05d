"""What each tracked integer means: the dense program's dimension it is, and so its value at the pruned widths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.graph.dimension import (
    Batch,
    Concatenation,
    Constant,
    Dimension,
    Product,
    dense_size,
    groups_of,
    has_batch,
    size,
)
from autoprune.graph.native.recording import Sample, Use
from autoprune.graph.native.tracked import Origin
from autoprune.graph.program import Operation, Program, Size

_SHAPED = ("view", "reshape", "expand", "unflatten", "zeros", "ones", "empty", "new_zeros", "new_ones", "new_empty")
# An operand of these is a number, not a size: the trace keeps it as it is.
_ARITHMETIC = (
    "mul rmul imul div rdiv idiv truediv rtruediv itruediv add radd iadd sub rsub isub pow rpow ipow floordiv",
    "rfloordiv floor_divide true_divide multiply subtract eq ne lt le gt ge clamp clamp_min clamp_max",
)


@dataclass(frozen=True)
class Meaning:
    """One use of an integer.

    Attributes:
        origin: the attributes it came from.
        values: what it may be at the pruned widths, likeliest first.
        exact: whether the argument's place in the call says which dimension it is; else only its value does.
    """

    origin: Origin
    values: tuple[int, ...]
    exact: bool


class Evidence:
    """Reads uses against the dense program.

    Args:
        program: the program, sizes over groups.
        widths: group id -> pruned units.
        samples: samples of the dense program's values, by name.
    """

    def __init__(self, program: Program, widths: Mapping[str, int], samples: Mapping[str, Sample]) -> None:
        self._program = program
        self._widths = {key: units for key, units in widths.items() if key != Batch.KEY}
        self._samples = samples
        self._makers = {name: operation for operation in program.operations for name in operation.results}

    def meanings(self, use: Use) -> Iterator[Meaning]:
        """The meaning of every tracked integer of a call; of those nothing is known of, no values."""
        matches = [self._matches(result, use.function) for result in use.results]
        for key, integer in use.integers:
            if use.function.strip("_") in " ".join(_ARITHMETIC).split():
                yield Meaning(integer.origin, (int(integer),), True)
                continue
            exact = (
                self._by_shape(use, key, matches)
                or self._by_part(use, key, matches)
                or self._by_argument(use, key, int(integer), matches)
            )
            if exact:
                yield Meaning(integer.origin, exact, True)
                continue
            near = [d for names in matches for name in names for d in self._program.values[name].dimensions]
            found = self.values_of(int(integer), near)
            if not found:
                operands = [d for operand in use.operands for d in self._dimensions(operand)]
                found = self.values_of(int(integer), operands)
            yield Meaning(integer.origin, found, False)

    def values_of(self, dense: int, dimensions: Iterable[Dimension]) -> tuple[int, ...]:
        """Pruned sizes of the dimensions, or parts of them, that have `dense` units in the dense model."""
        found = dict.fromkeys(
            self._pruned(part) for dimension in dimensions for part in parts(dimension) if dense_size(part) == dense
        )
        return tuple(found)

    def parameters_under(self, path: str) -> list[Dimension]:
        """Dimensions of all parameters and buffers of a module and those inside it."""
        prefix = f"{path}." if path else ""
        names = [name for name in (*self._program.parameters, *self._program.buffers) if name.startswith(prefix)]
        return [d for name in names for d in self._program.values[name].dimensions if groups_of(d)]

    def _pruned(self, dimension: Dimension) -> int:
        return int(size(dimension, self._widths))

    def _matches(self, result: Sample, function: str) -> list[str]:
        """Names of the program's values that are this tensor; those made by an operator of that name first."""
        names = [name for name, known in self._samples.items() if known.is_like(result)]
        same = [name for name in names if _base(self._makers[name]) == function]
        return same or names

    def _dimensions(self, operand: Sample | str) -> Sequence[Dimension]:
        if isinstance(operand, str):
            value = self._program.values.get(operand)
            return value.dimensions if value is not None else ()
        names = [name for name, known in self._samples.items() if known.is_like(operand)]
        return [d for name in names for d in self._program.values[name].dimensions]

    def _by_shape(self, use: Use, key: tuple[Any, ...], matches: list[list[str]]) -> tuple[int, ...]:
        """Where a call spells out its result's shape, an argument's place in it is the dimension."""
        if use.function not in _SHAPED or len(use.results) != 1:
            return ()
        shape = use.results[0].shape
        first = 0 if use.args and isinstance(use.args[0], (int, tuple, list)) else 1
        rest = use.args[first:]
        spelled, inside = (rest[0], 3) if rest and isinstance(rest[0], (tuple, list)) else (rest, 2)
        if use.function == "unflatten" or len(spelled) != len(shape) or len(key) != inside or key[0] != 0:
            return ()
        axis = key[2] if inside == 3 else key[1] - first
        if not all(units in (-1, known) for units, known in zip(spelled, shape, strict=True)):
            return ()
        return self._sizes(self._program.values[name].dimensions[axis] for names in matches for name in names)

    def _by_part(self, use: Use, key: tuple[Any, ...], matches: list[list[str]]) -> tuple[int, ...]:
        """A split's argument is the size of its parts, all alike or one by one."""
        if use.function not in ("split", "split_with_sizes") or key[:2] != (0, 1):
            return ()
        sizes = use.args[1] if len(key) == 3 else [use.args[1]] * len(use.results)
        picked = [key[2]] if len(key) == 3 else [0]
        rank = len(use.results[0].shape)
        axes = [use.axis % rank] if use.axis is not None else list(range(rank))
        for axis in axes:
            if all(part.shape[axis] == sizes[i] for i, part in enumerate(use.results) if i in picked):
                return self._sizes(self._program.values[n].dimensions[axis] for i in picked for n in matches[i])
        return ()

    def _by_argument(self, use: Use, key: tuple[Any, ...], dense: int, matches: list[list[str]]) -> tuple[int, ...]:
        """Where the call became one operator with the same arguments, the operator's argument says it."""
        if key[0] != 0 or len(key) < 2 or use.function in _SHAPED:
            return ()
        found: list[Dimension] = []
        for operation in (self._makers[name] for names in matches for name in names):
            item: Any = operation.args if _base(operation) == use.function else None
            for index in key[1:]:
                inside = isinstance(item, tuple) and isinstance(index, int) and index < len(item)
                item = item[index] if inside else None
            if isinstance(item, Size) and dense_size(item.dimension) == dense:
                found.append(item.dimension)
            elif item == dense:
                found.append(Constant(dense))
        return self._sizes(found)

    def _sizes(self, dimensions: Iterable[Dimension]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self._pruned(d) for d in dimensions if not has_batch(d)))


def _base(operation: Operation) -> str:
    return operation.target.removeprefix("aten.").partition(".")[0]


def parts(dimension: Dimension) -> Iterator[Dimension]:
    """A dimension, every run of neighbouring factors or parts of it, and the same of those."""
    yield dimension
    if not isinstance(dimension, (Product, Concatenation)):
        return
    children = dimension.factors if isinstance(dimension, Product) else dimension.parts
    for length in range(len(children) - 1, 1, -1):
        for start in range(len(children) - length + 1):
            yield type(dimension)(children[start : start + length])
    for child in children:
        yield from parts(child)

"""The dimension algebra: sizes as sums of products of atoms, unified while operators are visited.

Every parameter dimension starts as one fresh `Atom`. Operators unify dimensions (`unify`), reshape them (`factor`),
cut them (`cut`) and join them (`product`, `concatenation`). An atom may be refined later: it then forwards to a product
or a concatenation of finer atoms, and every dimension it stands in is refined with it. What cannot be expressed is
frozen, with the reason. Freezing is always sound; leaving two dimensions apart that must shrink together never is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias, cast


class AlgebraError(Exception):
    """A dimension cannot be split as asked; the caller freezes what it touches."""


class Atom:
    """The smallest piece of a dimension: `size` units that are kept or removed one by one.

    Attributes:
        frozen: why no unit of it may be removed, or None.
        forward: what it was refined to or unified with, or None while it stands for itself.
        unit: what its units are, where an operator says so (`group`, `head`, `head_dim`).
    """

    __slots__ = ("batch", "forward", "frozen", "size", "unit")

    def __init__(self, size: int, frozen: str | None = None, unit: str | None = None, batch: bool = False) -> None:
        self.size = size
        self.frozen = frozen if size != 1 else (frozen or "has a single unit")
        self.forward: Expression | None = None
        self.unit = unit
        self.batch = batch


class Product(tuple["Expression", ...]):
    """Row-major product of its factors, the last one fastest."""

    __slots__ = ()


class Sum(tuple["Expression", ...]):
    """Concatenation of its parts."""

    __slots__ = ()


Expression: TypeAlias = Atom | Product | Sum


def constant(size: int, reason: str) -> Atom:
    """A dimension that never shrinks."""
    return Atom(size, frozen=reason)


def size(expression: Expression) -> int:
    """The size in the trained model (the batch counts with its size in the trace)."""
    if isinstance(expression, Atom):
        return expression.size
    if isinstance(expression, Product):
        return math.prod(size(factor) for factor in expression)
    return sum(size(part) for part in expression)


def product(factors: Iterable[Expression]) -> Expression:
    """Row-major product, flattened; factors of size one vanish."""
    flat: list[Expression] = []
    for factor in factors:
        resolved = resolve(factor)
        flat.extend(resolved if isinstance(resolved, Product) else [resolved])
    rest = [factor for factor in flat if size(factor) != 1]
    if not rest:
        return constant(1, "has a single unit")
    return rest[0] if len(rest) == 1 else Product(rest)


def concatenation(parts: Iterable[Expression]) -> Expression:
    """Concatenation, flattened; empty parts vanish, neighbouring parts of one unit each become one constant."""
    flat: list[Expression] = []
    for part in parts:
        resolved = resolve(part)
        for piece in resolved if isinstance(resolved, Sum) else [resolved]:
            if _is_constant(piece) and flat and _is_constant(flat[-1]):
                left = cast(Atom, flat.pop())
                flat.append(constant(left.size + size(piece), left.frozen or ""))
            elif size(piece) != 0:
                flat.append(piece)
    return flat[0] if len(flat) == 1 else Sum(flat)


def _is_constant(expression: Expression) -> bool:
    return isinstance(expression, Atom) and expression.frozen is not None and not expression.batch


def resolve(expression: Expression) -> Expression:
    """The expression with every refinement made so far applied."""
    if isinstance(expression, Atom):
        if expression.forward is None:
            return expression
        expression.forward = resolve(expression.forward)
        return expression.forward
    if isinstance(expression, Product):
        return expression if all(_settled(factor) for factor in expression) else product(expression)
    return expression if all(_settled(part) for part in expression) else concatenation(expression)


def _settled(expression: Expression) -> bool:
    if isinstance(expression, Atom):
        return expression.forward is None
    return all(_settled(child) for child in expression)


def leaves(expression: Expression) -> list[Atom]:
    """Its atoms, in order."""
    resolved = resolve(expression)
    if isinstance(resolved, Atom):
        return [resolved]
    return [atom for child in resolved for atom in leaves(child)]


def freeze(expression: Expression, reason: str) -> None:
    """No unit of any atom in it may be removed. The first reason given is kept."""
    for atom in leaves(expression):
        if atom.frozen is None:
            atom.frozen = reason


def split(expression: Expression, left: int) -> tuple[Expression, Expression]:
    """Refine to a product of `left` times the rest.

    Raises:
        AlgebraError: it cannot be written as such a product.
    """
    whole = resolve(expression)
    total = size(whole)
    if left == 1:
        return constant(1, "has a single unit"), whole
    if left == total:
        return whole, constant(1, "has a single unit")
    if total % left:
        raise AlgebraError(f"{total} units do not divide into {left}")
    if isinstance(whole, Atom):
        if whole.batch:
            raise AlgebraError("the batch cannot be split")
        first, second = Atom(left, whole.frozen), Atom(total // left, whole.frozen)
        whole.forward = Product((first, second))
        return first, second
    if isinstance(whole, Product):
        first_dim, second_dim = factor([whole], [left, total // left])
        return first_dim, second_dim
    right = total // left  # a concatenation has a common right factor: a*r + b*r = (a + b)*r
    if any(size(part) % right for part in whole):
        raise AlgebraError(f"parts of {[size(part) for part in whole]} units have no common factor {right}")
    pairs = [split(part, size(part) // right) for part in whole]
    for _, tail in pairs[1:]:
        unify(pairs[0][1], tail, "parts of a concatenation that is split")
    return concatenation(head for head, _ in pairs), resolve(pairs[0][1])


def factor(expressions: Sequence[Expression], sizes: Sequence[int]) -> list[Expression]:
    """The row-major product of `expressions`, regrouped into dimensions of `sizes`: what a reshape does.

    Raises:
        AlgebraError: the sizes do not fit the factors.
    """
    whole = product(expressions)
    queue: list[Expression] = list(whole) if isinstance(whole, Product) else [whole]
    result: list[Expression] = []
    for wanted in sizes:
        taken: list[Expression] = []
        remaining = wanted
        while remaining > 1:
            if not queue:
                raise AlgebraError("sizes do not fit")
            head = resolve(queue.pop(0))
            if isinstance(head, Product):
                queue[:0] = list(head)
                continue
            units = size(head)
            if units == 1:
                continue
            common = math.gcd(units, remaining)
            if common == 1:
                raise AlgebraError(f"{units} units do not fit into {remaining}")
            if common != units:
                head, tail = split(head, common)
                queue.insert(0, tail)
            taken.append(head)
            remaining //= common
        result.append(product(taken))
    if any(size(rest) != 1 for rest in queue):
        raise AlgebraError("sizes do not fit")
    return [resolve(dimension) for dimension in result]


def cut(expression: Expression, sizes: Sequence[int]) -> list[Expression]:
    """Refine to a concatenation with parts of `sizes`, and return the parts: what a slice or a chunk does.

    Raises:
        AlgebraError: it cannot be cut there.
    """
    whole = resolve(expression)
    queue: list[Expression] = list(whole) if isinstance(whole, Sum) else [whole]
    result: list[Expression] = []
    for wanted in sizes:
        taken: list[Expression] = []
        remaining = wanted
        while remaining > 0:
            if not queue:
                raise AlgebraError("sizes do not fit")
            head = resolve(queue.pop(0))
            if isinstance(head, Sum):
                queue[:0] = list(head)
                continue
            if size(head) > remaining:
                head, tail = _cut_in_two(head, remaining)
                queue.insert(0, tail)
            taken.append(head)
            remaining -= size(head)
        result.append(concatenation(taken) if taken else constant(0, "empty"))
    return [resolve(part) for part in result]


def _cut_in_two(expression: Expression, left: int) -> tuple[Expression, Expression]:
    if isinstance(expression, Atom):
        if expression.batch:
            raise AlgebraError("the batch cannot be cut")
        first, second = Atom(left, expression.frozen), Atom(expression.size - left, expression.frozen)
        expression.forward = Sum((first, second))
        return first, second
    head, rest = expression[0], product(expression[1:])
    if left % size(rest):
        raise AlgebraError(f"a cut at {left} falls inside a block of {size(rest)} units")
    first_head, second_head = cut(head, [left // size(rest), size(head) - left // size(rest)])
    return product([first_head, rest]), product([second_head, rest])


def unify(first: Expression, second: Expression, why: str) -> None:
    """Both must shrink together, unit by unit; both are frozen where that cannot be expressed."""
    a, b = resolve(first), resolve(second)
    if a is b:
        return
    if size(a) != size(b):
        _freeze_both(a, b, why)
    elif isinstance(a, Atom) and isinstance(b, Atom):
        _merge(a, b)
    elif isinstance(a, Atom):
        _bind(a, b, why)
    elif isinstance(b, Atom):
        _bind(b, a, why)
    else:
        try:
            _unify_structures(a, b, why)
        except AlgebraError:
            _freeze_both(a, b, why)


def _freeze_both(a: Expression, b: Expression, why: str) -> None:
    freeze(a, f"{why}: its operands cannot be matched unit by unit")
    freeze(b, f"{why}: its operands cannot be matched unit by unit")


def _merge(a: Atom, b: Atom) -> None:
    if b.batch:
        a, b = b, a
    b.forward = a
    a.frozen = a.frozen or b.frozen
    a.unit = a.unit or b.unit


def _bind(atom: Atom, structure: Expression, why: str) -> None:
    if any(leaf is atom for leaf in leaves(structure)):
        freeze(structure, f"{why}: ties it to a part of itself")
        return
    if atom.frozen is not None:
        freeze(structure, atom.frozen)
    atom.forward = structure


def _unify_structures(a: Expression, b: Expression, why: str) -> None:
    if isinstance(a, Sum) and isinstance(b, Sum):
        boundaries = sorted(_boundaries(a) | _boundaries(b))
        sizes = [end - start for start, end in zip([0, *boundaries], boundaries, strict=False)]
        pairs = zip(cut(a, sizes), cut(b, sizes), strict=True)
    elif isinstance(a, Product) and isinstance(b, Product):
        sizes = _common_factors([size(f) for f in a], [size(f) for f in b])
        pairs = zip(factor([a], sizes), factor([b], sizes), strict=True)
    else:
        shape = b if isinstance(b, Product) else a
        sizes = [size(f) for f in cast(Product, shape)]
        pairs = zip(factor([a], sizes), factor([b], sizes), strict=True)
    for left, right in list(pairs):
        unify(left, right, why)


def _boundaries(parts: Sum) -> set[int]:
    ends, end = set(), 0
    for part in parts:
        end += size(part)
        ends.add(end)
    return ends


def _common_factors(a: list[int], b: list[int]) -> list[int]:
    a, b, common = list(a), list(b), []
    while a and b:
        shared = math.gcd(a[0], b[0])
        if shared == 1:
            raise AlgebraError("factors do not align")
        common.append(shared)
        for queue in (a, b):
            queue[0] //= shared
            if queue[0] == 1:
                queue.pop(0)
    return common

"""The language of `where` and constraints, parsed by hand: text in, a small tree out, nothing ever evaluated as code.

expression := term ("or" term)*
term       := factor ("and" factor)*
factor     := "(" expression ")" | NAME OPERATOR QUANTITY
OPERATOR   := "<=" | "<" | ">=" | ">" | "==" | "!="
QUANTITY   := a number with an optional unit: 5ms, 4MB, 300M, 97%
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from autoprune.core.errors import InputError
from autoprune.pareto.columns import parse_quantity

MAX_LENGTH = 10_000
MAX_DEPTH = 50

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<name>[A-Za-z_][A-Za-z0-9_.\-]*(?:@[A-Za-z0-9_.\-]+)?)
    |(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?:\s*(?!(?i:and|or)\b)[A-Za-z\u00b5\u03bc%]+)?)
    |(?P<operator><=|>=|==|!=|<|>)
    |(?P<bracket>[()])""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Comparison:
    """`name operator value`; the value in the unit of the name's column.  `position` counts characters from 1."""

    name: str
    operator: str
    value: float
    position: int


@dataclass(frozen=True)
class AllOf:
    """True where every part is."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class AnyOf:
    """True where one part is."""

    parts: tuple[Expression, ...]


Expression: TypeAlias = Comparison | AllOf | AnyOf


def comparisons(expression: Expression) -> Iterator[Comparison]:
    """All comparisons of an expression, left to right."""
    if isinstance(expression, Comparison):
        yield expression
        return
    for part in expression.parts:
        yield from comparisons(part)


def parse(text: str, what: str = "where") -> Expression:
    """The tree of an expression.

    Args:
        text: such as `latency_p50 <= 5ms and (size <= 4MB or accuracy > 0.97)`.
        what: what the text is, for messages.

    Raises:
        InputError: says what was expected, what stands there instead, and at which character.
    """
    if not isinstance(text, str):
        raise InputError(f"{what}: expected text such as 'latency_p50 <= 5ms', got {type(text).__name__}.")
    if len(text) > MAX_LENGTH:
        raise InputError(f"{what}: expected at most {MAX_LENGTH} characters, got {len(text)}.")
    return _Parser(text, what).parse()


@dataclass(frozen=True)
class _Token:
    kind: str  # "name", "number", "operator", "(", ")", "and", "or" or "end"
    text: str
    position: int


class _Parser:
    """Recursive descent over the tokens; `_next` is the token that is looked at."""

    def __init__(self, text: str, what: str) -> None:
        self._text = text
        self._what = what
        self._tokens = self._scan()
        self._next = next(self._tokens)

    def parse(self) -> Expression:
        result = self._any_of(0)
        if self._next.kind != "end":
            raise self._error("'and', 'or' or the end")
        return result

    def _any_of(self, depth: int) -> Expression:
        parts = [self._all_of(depth)]
        while self._next.kind == "or":
            self._advance()
            parts.append(self._all_of(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all_of(self, depth: int) -> Expression:
        parts = [self._factor(depth)]
        while self._next.kind == "and":
            self._advance()
            parts.append(self._factor(depth))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _factor(self, depth: int) -> Expression:
        if self._next.kind != "(":
            return self._comparison()
        if depth >= MAX_DEPTH:
            raise self._error(f"at most {MAX_DEPTH} nested parentheses")
        self._advance()
        inner = self._any_of(depth + 1)
        if self._next.kind != ")":
            raise self._error("'and', 'or' or ')'")
        self._advance()
        return inner

    def _comparison(self) -> Comparison:
        if self._next.kind != "name":
            raise self._error("a column such as latency_p50")
        name = self._advance()
        if self._next.kind != "operator":
            raise self._error(f"<=, <, >=, >, == or != after '{name.text}'")
        operator = self._advance()
        if self._next.kind != "number":
            raise self._error(f"a number such as 5, 5ms or 4MB after '{operator.text}'")
        number = self._advance()
        try:
            value = parse_quantity(name.text, number.text)
        except InputError as error:
            raise InputError(f"{self._what}: at character {number.position}, for '{name.text}': {error}") from error
        return Comparison(name.text, operator.text, value, name.position)

    def _advance(self) -> _Token:
        token = self._next
        self._next = next(self._tokens)
        return token

    def _error(self, expected: str) -> InputError:
        got = "the end" if self._next.kind == "end" else f"'{_short(self._next.text)}'"
        place = f"at character {self._next.position} of '{_short(self._text)}'"
        return InputError(f"{self._what}: expected {expected} {place}, got {got}.")

    def _scan(self) -> Iterator[_Token]:
        place = 0
        while place < len(self._text):
            found = _TOKEN.match(self._text, place)
            if found is None:
                hint = " Write == to compare." if self._text[place] == "=" else ""
                where = f"at character {place + 1} of '{_short(self._text)}'"
                raise InputError(f"{self._what}: unexpected '{self._text[place]}' {where}.{hint}")
            text, kind = found.group(), str(found.lastgroup)
            if kind == "bracket" or (kind == "name" and text.lower() in ("and", "or")):
                kind = text.lower()
            if kind != "space":
                yield _Token(kind, text, place + 1)
            place = found.end()
        yield _Token("end", "", len(self._text) + 1)


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."

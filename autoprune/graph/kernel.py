"""Kernels as text: one fused operation at given sizes, from which its program can be rebuilt.

A *family* is a small program in which the widths a policy may change are named `c0`, `c1`, ...; a kernel is a family
at given sizes. The text is a subset of Python's grammar (and is parsed as such, never run):

    x0:(1,c0,28,28);y0:(1,c1,28,28)=conv2d.default(x0,w(c1,c0,3,3),w(c1,),(1,1),(1,1),(1,1),1);
    y1:(1,c1,28,28)=relu.default(y0)

`x0` is an activation that comes in, `y0` a result (`y0[1]` the second of several; None stands for the shape of one that
nothing reads), `w(...)` a parameter of that shape (`w('int64',...)` of another type), `w0` the first of them again.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.core.errors import InputError, shortened
from autoprune.graph.dimension import Constant
from autoprune.graph.program import Operation, Program, Ref, Value

MAX_KEY_CHARACTERS = 16_384
MAX_SIZE, MAX_RANK, MAX_LITERAL = 2**40, 64, 2**63
_SEPARATOR = " @ "


@dataclass(frozen=True)
class Kernel:
    """A fused operation at given sizes: the key of the lookup table.

    Attributes:
        family: the small program as text, widths named `c0`, `c1`, ...
        sizes: what the widths are.
    """

    family: str
    sizes: tuple[int, ...]

    @property
    def key(self) -> str:
        """Canonical text; equal kernels, equal keys, and `Kernel.from_key` gives the kernel back."""
        return self.family + _SEPARATOR + " ".join(str(size) for size in self.sizes)

    @classmethod
    def from_key(cls, key: str) -> Kernel:
        """The inverse of `key`.

        Raises:
            InputError: not the key of a kernel.
        """
        family, separator, sizes = key.rpartition(_SEPARATOR)
        parts = sizes.split() if len(sizes) <= MAX_KEY_CHARACTERS else [""]
        if not separator or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            raise InputError(f"kernel: expected '<family> @ <sizes>', got '{shortened(key, 120)}'.")
        return cls(family, tuple(int(part) for part in parts))

    def program(self) -> Program:
        """The kernel as a program of its own, every size a constant.

        Raises:
            InputError: the family does not parse.
        """
        return _Reader(self.family, self.sizes).program()


def target_text(target: str) -> str:
    """`aten.relu.default` -> `relu.default`; other targets as they are."""
    return target.removeprefix("aten.")


def literal_text(item: Any) -> str:
    """A literal argument as the grammar writes it."""
    if isinstance(item, float) and math.isinf(item):
        return "1e999" if item > 0 else "-1e999"
    if isinstance(item, (tuple, list)):
        return "(" + ",".join(literal_text(part) for part in item) + ("," if len(item) == 1 else "") + ")"
    if item is None or isinstance(item, (bool, int, float, str)):
        return repr(item)
    return repr(str(item))


def _target(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise ValueError("an operator's name")
    name = ".".join([node.id, *parts])
    return name if node.id in ("operator", "getitem") else f"aten.{name}"


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and value >= MAX_LITERAL:
        raise ValueError("whole numbers of 64 bits")
    return value


class _Reader:
    """One pass over a family's text that builds its program."""

    def __init__(self, family: str, sizes: Sequence[int]) -> None:
        self._family = family
        self._sizes = tuple(sizes)
        self._values: dict[str, Value] = {}
        self._inputs: list[str] = []
        self._parameters: list[str] = []
        self._operations: list[Operation] = []

    def program(self) -> Program:
        try:
            if len(self._family) > MAX_KEY_CHARACTERS:
                raise ValueError(f"at most {MAX_KEY_CHARACTERS} characters")
            for statement in ast.parse(self._family).body:
                self._statement(statement)
            if not self._operations:
                raise ValueError("at least one operation")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(
                f"kernel: expected {error if isinstance(error, ValueError) else 'text in the grammar of kernels'}, "
                f"got '{shortened(self._family, 160)}'. The file was edited by hand or written by another version; "
                "profile anew."
            ) from error
        read = {name for operation in self._operations for name in operation.refs()}
        results = [name for op in self._operations for name in op.results]
        outputs = tuple(name for name in results if name not in read and name in self._values)
        return Program(
            inputs=tuple(self._inputs),
            outputs=outputs,
            operations=tuple(self._operations),
            values=self._values,
            parameters=tuple(self._parameters),
            buffers=(),
            input_tree="",
            output_tree="",
        )

    def _statement(self, statement: ast.stmt) -> None:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            raise ValueError("statements of the form 'name:shape' or 'name:shape=operator(...)'")
        name = statement.target.id
        if statement.value is None:
            self._declare(name, statement.annotation)
            self._inputs.append(name)
            return
        if not isinstance(statement.value, ast.Call):
            raise ValueError("an operator's call after '='")
        results = self._results(name, statement.annotation)
        call = statement.value
        self._operations.append(
            Operation(
                name=name,
                target=_target(call.func),
                args=tuple(self._argument(item) for item in call.args),
                kwargs=tuple((str(item.arg), self._argument(item.value)) for item in call.keywords),
                module=None,
                results=results,
            )
        )

    def _results(self, name: str, annotation: ast.expr) -> tuple[str, ...]:
        if isinstance(annotation, ast.List):
            names = tuple(name if i == 0 else f"{name}.{i}" for i in range(len(annotation.elts)))
            for result, shape in zip(names, annotation.elts, strict=True):
                if not (isinstance(shape, ast.Constant) and shape.value is None):
                    self._declare(result, shape)
            return names
        self._declare(name, annotation)
        return (name,)

    def _declare(self, name: str, annotation: ast.expr) -> None:
        if name in self._values:
            raise ValueError(f"each name once ('{name}' is there twice)")
        dtype, shape = "float32", annotation
        if isinstance(annotation, ast.Call) and isinstance(annotation.func, ast.Name):
            dtype, shape = annotation.func.id, ast.Tuple(annotation.args, ast.Load())
        if not isinstance(shape, ast.Tuple):
            raise ValueError("a shape such as (1,c0,28,28)")
        sizes = [self._size(item) for item in shape.elts]
        if len(sizes) > MAX_RANK or not all(0 <= one <= MAX_SIZE for one in sizes):
            raise ValueError(f"shapes of at most {MAX_RANK} sizes from 0 to {MAX_SIZE}")
        self._values[name] = Value(name, tuple(map(Constant, sizes)), dtype)

    def _size(self, node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int() as value) if not isinstance(value, bool) and value < MAX_LITERAL:
                return value
            case ast.Name(id=name) if name[:1] == "c" and name[1:].isdigit() and int(name[1:]) < len(self._sizes):
                return self._sizes[int(name[1:])]
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return self._size(left) * self._size(right)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._size(left) + self._size(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return self._size(left) - self._size(right)
            case ast.BinOp(left=left, op=ast.FloorDiv(), right=right) if self._size(right):
                return self._size(left) // self._size(right)
        raise ValueError(f"a size (a number or c0..c{len(self._sizes) - 1})")

    def _parameter(self, node: ast.Call) -> Ref:
        name, shape = f"w{len(self._parameters)}", list(node.args)
        annotation: ast.expr = ast.Tuple(shape, ast.Load())
        if shape and isinstance(shape[0], ast.Constant) and isinstance(shape[0].value, str):
            annotation = ast.Call(ast.Name(shape[0].value, ast.Load()), shape[1:], [])
        self._declare(name, annotation)
        self._parameters.append(name)
        return Ref(name)

    def _argument(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, (bool, int, float, str)):
                return _bounded(value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=(int() | float()) as value)):
                return -_bounded(value)
            case ast.Tuple(elts=items):
                return tuple(self._argument(item) for item in items)
            case ast.Call(func=ast.Name(id="w")):
                return self._parameter(node)
            case ast.Name(id=name) if name in self._values:
                return Ref(name)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int() as index)):
                return Ref(f"{name}.{index}")
            case _:
                return self._size(node)

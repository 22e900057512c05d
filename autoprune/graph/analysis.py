"""One walk over the traced operators: dimensions unify, and what is left of them are the dependency groups."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from autoprune.graph import algebra
from autoprune.graph.algebra import Atom, Expression, constant, freeze, leaves, resolve
from autoprune.graph.dimension import Batch, Concatenation, Constant, Dimension, Product, Width, groups_of, has_batch
from autoprune.graph.graph import DependencyGroup, Frozen, Member
from autoprune.graph.lift import module_path, owner_of
from autoprune.graph.program import Operation, Program, Ref, Size, Value
from autoprune.graph.rules import Call, Dims, apply

_PERMUTATIONS = (
    "aten.permute.default", "aten.transpose.int", "aten.t.default", "aten.numpy_T.default", "aten.detach.default",
    "aten.alias.default", "aten.contiguous.default", "aten.clone.default", "aten.to.dtype", "aten._to_copy.default",
)  # fmt: skip


_HIDDEN = re.compile("linear|mm|matmul|einsum|embedding|lstm|gru|rnn")  # their outputs are features, not channels


@dataclass
class _Draft:
    """An operation before group names are known."""

    name: str
    target: str
    args: list[Any]
    kwargs: dict[str, Any]
    followed: dict[int, Any]
    module: str | None
    results: tuple[str, ...]


class Analysis:
    """Collects values and operations in program order; `finish` turns them into a program and its groups.

    Args:
        batch: the traced size of the batch, or None where the batch is fixed.
    """

    def __init__(self, batch: int | None) -> None:
        self._batch = Atom(batch or 0, frozen="is the batch", batch=True)
        self._batched = batch is not None
        self._dims: dict[str, Dims] = {}
        self._dtypes: dict[str, str] = {}
        self._names: dict[str, str] = {}  # node of a parameter or buffer -> state-dict name
        self._drafts: list[_Draft] = []
        self._consumed: set[tuple[str, int]] = set()
        self._read: list[Expression] = []
        self._origins: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._parts: dict[str, tuple[str, ...]] = {}
        self._lifted: dict[str, str] = {}  # module -> the operator that it was lifted from

    def state(self, node: str, name: str, sizes: list[int], dtype: str) -> None:
        """A parameter, buffer or constant: every dimension a fresh atom (tied tensors share them)."""
        self._names[node] = name
        if name not in self._dims:
            self._dims[name] = [Atom(units) for units in sizes]
            self._dtypes[name] = dtype.removeprefix("torch.")
            self._origins[name] = (name, tuple(range(len(sizes))))

    def input(self, name: str, sizes: list[int], dtype: str) -> None:
        """A model input: frozen, dimension 0 the batch."""
        self._dims[name] = [
            self._batch if axis == 0 and self._batched else constant(units, f"is dimension {axis} of input '{name}'")
            for axis, units in enumerate(sizes)
        ]
        self._dtypes[name] = dtype.removeprefix("torch.")

    def getitem(self, name: str, source: str, index: int) -> None:
        """One of several results."""
        parts = self._parts.get(source)
        if parts is None:
            self.integer(name, "getitem", [Ref(source), index])
            return
        self._names[name] = parts[index]

    def integer(self, name: str, target: str, args: list[Any]) -> None:
        """A run-time integer (sizes that contain the batch)."""
        self._drafts.append(_Draft(name, target, self._canonical(args), {}, {}, None, (name,)))
        self._dtypes[name] = "int"

    def _canonical(self, item: Any) -> Any:
        if isinstance(item, Ref):
            return Ref(self._names.get(item.name, item.name))
        if isinstance(item, (list, tuple)):
            return [self._canonical(part) for part in item]
        return item

    def call(
        self,
        name: str,
        target: str,
        args: list[Any],
        kwargs: dict[str, Any],
        shapes: list[list[int]],
        dtypes: list[str],
        path: str,
        single: bool,
    ) -> None:
        """One ATen operator call with tensor results."""
        args = [self._canonical(item) for item in args]
        kwargs = {key: self._canonical(item) for key, item in kwargs.items()}
        module = module_path(target, tuple(args), kwargs)
        if target == "aten.dropout.default":
            module = path or None
        if module is not None and self._lifted.setdefault(module, target) != target:
            module = None  # a tied weight that another kind of operator reads
        call = Call(target, args, kwargs, shapes, self._dims, self._batch, self._origins)
        results = (name,) if single else tuple(f"{name}.{index}" for index in range(len(shapes)))
        for result, dims, dtype in zip(results, apply(call), dtypes, strict=True):
            self._dims[result] = dims
            self._dtypes[result] = dtype.removeprefix("torch.")
        self._consumed.update(call.consumed)
        self._read.extend(call.read)
        self._follow_view(name, target, args)
        if not single:
            self._parts[name] = results
        self._drafts.append(_Draft(name, call.retarget or target, args, call.kwargs, call.followed, module, results))

    def _follow_view(self, name: str, target: str, args: list[Any]) -> None:
        """Remember which parameter a permuted view is of: contracting the view contracts the parameter."""
        source = args[0].name if args and isinstance(args[0], Ref) else None
        if source not in self._origins or target not in (*_PERMUTATIONS, "aten.index.Tensor"):
            return
        state, axes = self._origins[source]
        if target == "aten.index.Tensor":  # rows of a table, such as the weights of chosen experts
            if len(args[1]) == 1:
                self._origins[name] = (state, axes[:1] * len(self._dims[args[1][0].name]) + axes[1:])
            return
        order = list(range(len(axes)))
        if target == "aten.permute.default":
            order = [axis % len(axes) for axis in args[1]]
        elif target in ("aten.transpose.int", "aten.t.default", "aten.numpy_T.default") and len(axes) > 1:
            first, second = (args[1], args[2]) if len(args) > 2 else (0, -1)
            order[first], order[second] = order[second], order[first]
        self._origins[name] = (state, tuple(axes[axis] for axis in order))

    def finish(
        self,
        inputs: tuple[str, ...],
        outputs: tuple[str | None, ...],
        input_tree: str,
        output_tree: str,
        parameters: frozenset[str],
        state: frozenset[str],
    ) -> tuple[Program, dict[str, DependencyGroup], tuple[Frozen, ...]]:
        """Freeze the outputs, name the groups, write every dimension over them."""
        outputs = tuple(None if name is None else self._names.get(name, name) for name in outputs)
        for name in outputs:
            for dimension in self._dims.get(name or "", []):
                freeze(dimension, "is an output of the model")
        drafts = _live(self._drafts, outputs)
        used = [name for draft in drafts for name in _refs((draft.args, draft.kwargs))]
        tracked = [f"{d.module}.num_batches_tracked" for d in drafts if d.target == "aten.batch_norm.default"]
        made = {result for draft in drafts for result in draft.results}
        known = {*self._names.values(), *state}
        names = [n for n in dict.fromkeys([*used, *tracked]) if n in state or (n in known and n not in made)]
        labels = self._label(drafts, [name for name in names if name in parameters])
        convert = _Converter(labels)
        values = {
            name: Value(name, tuple(convert(d) for d in self._dims.get(name, [])), self._dtypes[name])
            for name in [*inputs, *names, *(result for draft in drafts for result in draft.results)]
            if name in self._dtypes
        }
        operations = tuple(self._operation(draft, convert) for draft in drafts)
        program = Program(
            inputs, outputs, operations, values,
            tuple(n for n in names if n in parameters and n in values),
            tuple(n for n in names if n not in parameters and n in values),
            input_tree, output_tree,
        )  # fmt: skip
        groups = self._groups(labels, program)
        return program, groups, self._frozen(program)

    def _label(self, drafts: list[_Draft], parameters: list[str]) -> dict[Atom, tuple[str, str]]:
        """Atom -> (group id, unit), for every atom that may shrink: produced and consumed by parameters, not frozen."""
        produced: dict[Atom, tuple[str, str]] = {}
        consumed = {atom for dimension in self._read for atom in leaves(dimension)}
        owners = {name: draft for draft in reversed(drafts) for name in _refs((draft.args, draft.kwargs))}
        for name in dict.fromkeys(n for d in drafts for n in _refs((d.args, d.kwargs)) if n in parameters):
            for axis, dimension in enumerate(self._dims[name]):
                for atom in leaves(dimension):
                    if (name, axis) not in self._consumed:
                        unit = "hidden" if _HIDDEN.search(owners[name].target) else "channel"
                        produced.setdefault(atom, (owners[name].module or owner_of(name), atom.unit or unit))
        labels: dict[Atom, tuple[str, str]] = {}
        taken: set[str] = set()
        for atom, (base, unit) in produced.items():
            if atom.frozen is None and atom not in consumed:
                atom.frozen = "is read by no layer that could make up for it"
            if atom.frozen is not None:
                continue
            identifier = base
            if identifier in taken:
                identifier = f"{base}:{unit}"
            counter = 2
            while identifier in taken:
                identifier, counter = f"{base}:{unit}{counter}", counter + 1
            taken.add(identifier)
            labels[atom] = (identifier, unit)
        for atom in consumed:
            if atom not in labels and atom.frozen is None:
                atom.frozen = "is produced by no parameter"
        return labels

    def _groups(self, labels: dict[Atom, tuple[str, str]], program: Program) -> dict[str, DependencyGroup]:
        members: dict[str, list[Member]] = {identifier: [] for identifier, _ in labels.values()}
        for name in program.parameters:
            for axis, dimension in enumerate(program.values[name].dimensions):
                role = "consumer" if (name, axis) in self._consumed else "producer"
                for group in groups_of(dimension):
                    members[group].append(Member(name, axis, dimension, role))
        removable = program.depth.removable
        return {
            identifier: DependencyGroup(
                identifier, atom.size, unit, tuple(members[identifier]), removable=identifier in removable
            )
            for atom, (identifier, unit) in labels.items()
        }

    def _frozen(self, program: Program) -> tuple[Frozen, ...]:
        found = []
        for name in program.parameters:
            for axis, dimension in enumerate(program.values[name].dimensions):
                atoms = leaves(self._dims[name][axis])
                reasons = [a.frozen for a in atoms if a.frozen and a.size > 1 and "kernel dimension" not in a.frozen]
                if not groups_of(dimension) and reasons:
                    found.append(Frozen(name, axis, algebra.size(self._dims[name][axis]), reasons[0]))
        return tuple(found)

    def _operation(self, draft: _Draft, convert: _Converter) -> Operation:
        args = list(draft.args)
        for position, expression in draft.followed.items():
            args += [None] * (position + 1 - len(args))
            args[position] = _written(expression, convert)
        kwargs = tuple((k, _tuples(value)) for k, value in draft.kwargs.items() if k not in ("device", "layout"))
        return Operation(
            draft.results[0], draft.target, tuple(_tuples(a) for a in args), kwargs, draft.module, draft.results
        )


def _written(item: Any, convert: _Converter) -> Any:
    """A followed argument: expressions become sizes (or integers where nothing in them follows), the rest stays."""
    if isinstance(item, (algebra.Product, algebra.Sum, Atom)):
        dimension = convert(item)
        if has_batch(dimension) or groups_of(dimension):
            return Size(dimension)
        return algebra.size(item)
    if isinstance(item, (list, tuple)):
        return tuple(_written(part, convert) for part in item)
    return item


def _tuples(item: Any) -> Any:
    return tuple(_tuples(part) for part in item) if isinstance(item, (list, tuple)) else item


def _refs(item: Any) -> list[str]:
    if isinstance(item, Ref):
        return [item.name]
    if isinstance(item, dict):
        return _refs(list(item.values()))
    if isinstance(item, (list, tuple)):
        return [name for part in item for name in _refs(part)]
    return []


def _live(drafts: list[_Draft], outputs: Iterable[str | None]) -> list[_Draft]:
    """Operations whose results are read; explicit sizes replaced, integers are mostly dead."""
    wanted = {name for name in outputs if name is not None}
    live = []
    for draft in reversed(drafts):
        if wanted.intersection(draft.results):
            live.append(draft)
            remaining = [a for position, a in enumerate(draft.args) if position not in draft.followed]
            wanted.update(_refs((remaining, draft.kwargs, list(draft.followed.values()))))
    return live[::-1]


class _Converter:
    """Analysis expressions -> dimensions over named groups."""

    def __init__(self, labels: dict[Atom, tuple[str, str]]) -> None:
        self._labels = labels

    def __call__(self, expression: Expression) -> Dimension:
        resolved = resolve(expression)
        if isinstance(resolved, Atom):
            if resolved.batch:
                return Batch()
            label = self._labels.get(resolved)
            return Constant(resolved.size) if label is None else Width(label[0], resolved.size)
        children = [self(child) for child in resolved]
        if isinstance(resolved, algebra.Sum):
            parts = _merged(children, operator.add)
            return parts[0] if len(parts) == 1 else Concatenation(parts)
        factors = _merged(children, operator.mul)
        return factors[0] if len(factors) == 1 else Product(factors)


def _merged(children: list[Dimension], combine: Callable[[int, int], int]) -> tuple[Dimension, ...]:
    """Neighbouring constants as one."""
    merged: list[Dimension] = []
    for child in children:
        if isinstance(child, Constant) and merged and isinstance(merged[-1], Constant):
            merged[-1] = Constant(combine(merged[-1].value, child.value))
        else:
            merged.append(child)
    return tuple(merged)

"""One rule an ATen operator: which dimensions of its operands and results shrink together.

A rule receives a `Call` and returns the dimensions of the result (a list of them where there are several results). It
unifies dimensions that must shrink together, marks the parameter dimensions that are contracted (`call.consume`), names
the integer arguments that follow the policy (`call.follow`) and freezes the rest with a reason. An operator without a
rule freezes everything that it touches. To add one, see CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from autoprune.graph.algebra import (
    AlgebraError,
    Atom,
    Expression,
    concatenation,
    constant,
    cut,
    factor,
    freeze,
    leaves,
    product,
    resolve,
    size,
    unify,
)
from autoprune.graph.program import Ref

Dims: TypeAlias = list[Expression]


@dataclass
class Call:
    """One operator call under analysis.

    Attributes:
        target: the ATen overload (`aten.conv2d.default`).
        args, kwargs: as in `Operation`; sizes still as traced.
        shapes: traced sizes of each result, the batch at its traced size.
        dims: dimensions of every tensor value so far, by name.
        batch: the batch.
        origins: permuted views of parameters and buffers: value -> (state name, its axis for each axis of the view).
        followed: argument position -> expression (or list of them) that replaces the traced integers.
        consumed: (parameter, axis) pairs that this call contracts with activations.
        read: dimensions that are contracted or that statistics run over: their units may go.
        retarget: another overload to call instead, once sizes are explicit.
    """

    target: str
    args: list[Any]
    kwargs: dict[str, Any]
    shapes: list[list[int]]
    dims: dict[str, Dims]
    batch: Atom
    origins: dict[str, tuple[str, tuple[int, ...]]]
    followed: dict[int, Any] = field(default_factory=dict)
    consumed: list[tuple[str, int]] = field(default_factory=list)
    read: list[Expression] = field(default_factory=list)
    retarget: str | None = None

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or by name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def of(self, argument: Any) -> Dims:
        """Dimensions of a tensor argument."""
        return [resolve(dimension) for dimension in self.dims[argument.name]]

    def follow(self, position: int, value: Any) -> None:
        """The argument at `position` is an integer, or a list of them, that follows the policy."""
        self.followed[position] = value

    def contract(self, argument: Any, axis: int) -> None:
        """This dimension of an operand is summed over; where the operand is a parameter, it is a consumer."""
        dims = self.dims[argument.name]
        self.read.append(dims[axis])
        if argument.name in self.origins:
            name, axes = self.origins[argument.name]
            self.consumed.append((name, axes[axis]))

    def fixed(self, result: int = 0, start: int = 0) -> Dims:
        """Constant dimensions with the traced sizes of a result, from axis `start`."""
        return [constant(units, f"is set by {self.target}") for units in self.shapes[result][start:]]

    def tensors(self) -> list[Ref]:
        """All tensor operands."""
        found: list[Ref] = []

        def visit(item: Any) -> None:
            if isinstance(item, Ref) and item.name in self.dims:
                found.append(item)
            elif isinstance(item, (list, tuple)):
                for part in item:
                    visit(part)

        visit(self.args)
        visit(list(self.kwargs.values()))
        return found


Rule: TypeAlias = Callable[[Call], "Dims | list[Dims]"]
RULES: dict[str, Rule] = {}


def rule(*targets: str) -> Callable[[Rule], Rule]:
    """Register a rule for these overloads (without the leading `aten.`)."""

    def register(function: Rule) -> Rule:
        for target in targets:
            RULES[f"aten.{target}"] = function
        return function

    return register


def apply(call: Call) -> list[Dims]:
    """Dimensions of every result of a call; what the operator's rule cannot express is frozen."""
    function = RULES.get(call.target)
    if function is None:
        return _frozen(call, f"operator {call.target} has no rule")
    try:
        dims: Any = function(call)
    except AlgebraError as error:
        call.followed, call.retarget = {}, None
        return _frozen(call, f"{call.target}: {error}")
    return dims if dims and isinstance(dims[0], list) else [dims]


def _frozen(call: Call, reason: str) -> list[Dims]:
    for tensor in call.tensors():
        for dimension in call.dims[tensor.name]:
            freeze(dimension, reason)
    return [[_batch_or_constant(call, units, reason) for units in shape] for shape in call.shapes]


def _batch_or_constant(call: Call, units: int, reason: str) -> Expression:
    """A dimension of an opaque result: the batch where its size is a multiple of the batch's, else a constant."""
    if call.batch.size and units % call.batch.size == 0:  # its size is 0 where the model fixes it
        return product([call.batch, constant(units // call.batch.size, reason)])
    return constant(units, reason)


# ----------------------------------------------------------------------------------- elementwise


_ELEMENTWISE = (
    "relu relu_ relu6 sigmoid tanh silu gelu hardtanh hardswish hardsigmoid elu leaky_relu mish softplus selu celu",
    "hardshrink softshrink logsigmoid log_sigmoid softsign neg exp sqrt rsqrt abs log square reciprocal",
    "expm1 log1p sin cos tan erf clamp clamp_min clamp_max floor ceil round trunc sign nan_to_num isnan isinf",
    "logical_not bitwise_not",
    "dropout feature_dropout alpha_dropout contiguous clone alias detach to type_as _to_copy lift_fresh_copy",
    "zeros_like ones_like full_like rand_like randn_like add sub rsub mul div pow maximum minimum remainder fmod",
    "eq ne lt le gt ge logical_and logical_or where masked_fill addcmul lerp fill copy",
)
_OVERLOADS = (
    "default Tensor Scalar dtype device dtype_layout Tensor_Scalar Tensor_Tensor Tensor_mode Scalar_mode other",
    "Scalar_Tensor prim_Device self this",
)


def elementwise(call: Call) -> Dims:
    """`..., ... -> ...` with NumPy broadcasting; operands of size one broadcast."""
    rank = len(call.shapes[0])
    operands = [call.of(tensor) for tensor in call.tensors()]
    result: Dims = []
    for axis in range(rank):
        shared: Expression | None = None
        for dims in operands:
            position = axis - rank + len(dims)
            if position < 0 or (size(dims[position]) == 1 and call.shapes[0][axis] != 1):
                continue
            if shared is None:
                shared = dims[position]
            else:
                unify(shared, dims[position], call.target)
        result.append(resolve(shared) if shared is not None else constant(1, "has a single unit"))
    return result


for _name in " ".join(_ELEMENTWISE).split():
    for _overload in " ".join(_OVERLOADS).split():
        RULES[f"aten.{_name}.{_overload}"] = elementwise


@rule("prelu.default")
def prelu(call: Call) -> Dims:
    """`n c ..., c -> n c ...`"""
    x, weight = call.of(call.args[0]), call.of(call.args[1])
    if size(weight[0]) != 1:
        unify(x[1], weight[0], call.target)
    return x


# ----------------------------------------------------------------------------------- contractions


def _spatial(call: Call, x: Dims, weight: Dims, what: str) -> None:
    for dimension in x[2:]:
        freeze(dimension, f"is a spatial dimension of {what}")
    for dimension in weight[2:]:
        freeze(dimension, f"is a kernel dimension of {what}")


@rule("conv1d.default", "conv2d.default", "conv3d.default", "conv1d.padding", "conv2d.padding", "conv3d.padding")
def conv(call: Call) -> Dims:
    """`n (g i) ..., (g o) i ..., (g o) -> n (g o) ...`; depthwise where i is one."""
    x, weight = call.of(call.args[0]), call.of(call.args[1])
    bias, groups = call.get(2, "bias"), call.get(6, "groups", 1)
    _spatial(call, x, weight, call.target)
    if groups == 1:
        unify(x[1], weight[1], call.target)
        channels = weight[0]
    else:
        group_in, inner = factor([x[1]], [groups, size(x[1]) // groups])
        group_out, outer = factor([weight[0]], [groups, size(weight[0]) // groups])
        unify(group_in, group_out, f"groups of {call.target}")
        unify(inner, weight[1], call.target)
        group = resolve(group_in)
        if isinstance(group, Atom) and size(inner) > 1:
            group.unit = "group"
        channels = product([group, outer])
        call.follow(6, group)
    call.contract(call.args[1], 1)
    if bias is not None:
        unify(channels, call.of(bias)[0], call.target)
    return [x[0], resolve(channels), *call.fixed(start=2)]


@rule("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
def conv_transpose(call: Call) -> Dims:
    """`n i ..., i o ..., o -> n o ...`; grouped ones are frozen."""
    x, weight, bias = call.of(call.args[0]), call.of(call.args[1]), call.get(2, "bias")
    _spatial(call, x, weight, call.target)
    if call.get(6, "groups", 1) != 1:
        raise AlgebraError("grouped transposed convolution")
    unify(x[1], weight[0], call.target)
    call.contract(call.args[1], 0)
    if bias is not None:
        unify(weight[1], call.of(bias)[0], call.target)
    return [x[0], resolve(weight[1]), *call.fixed(start=2)]


@rule("linear.default")
def linear(call: Call) -> Dims:
    """`... i, o i, o -> ... o`"""
    x, weight, bias = call.of(call.args[0]), call.of(call.args[1]), call.get(2, "bias")
    unify(x[-1], weight[1], call.target)
    call.contract(call.args[1], 1)
    if bias is not None:
        unify(weight[0], call.of(bias)[0], call.target)
    return [*x[:-1], resolve(weight[0])]


@rule("matmul.default", "bmm.default", "mm.default")
def matmul(call: Call) -> Dims:
    """`... m k, ... k n -> ... m n`"""
    return _product(call, call.args[0], call.args[1])


@rule("addmm.default", "baddbmm.default", "addbmm.default")
def addmm(call: Call) -> Dims:
    """`... m n, ... m k, ... k n -> ... m n`"""
    result = _product(call, call.args[1], call.args[2])
    added = call.of(call.args[0])
    for mine, theirs in zip(result[::-1], added[::-1], strict=False):
        if size(theirs) != 1:
            unify(mine, theirs, call.target)
    return [resolve(dimension) for dimension in result]


def _product(call: Call, first: Any, second: Any) -> Dims:
    a, b = call.of(first), call.of(second)
    if len(a) < 2 or len(b) < 2:
        raise AlgebraError("a vector operand")
    unify(a[-1], b[-2], call.target)
    call.contract(first, len(a) - 1)
    call.contract(second, len(b) - 2)
    batch = _broadcast(call, [a[:-2], b[:-2]])
    if first.name not in call.origins and second.name not in call.origins:
        _name_units(batch, "head")
        _name_units([a[-1]], "head_dim")
    return [*batch, resolve(a[-2]), resolve(b[-1])]


def _broadcast(call: Call, operands: list[Dims]) -> Dims:
    """Dimensions aligned from the right; those of size one give way."""
    rank = max(map(len, operands))
    result: Dims = []
    for axis in range(rank):
        column = [d[axis - rank + len(d)] for d in operands if axis - rank + len(d) >= 0]
        wide = [d for d in column if size(d) != 1] or column
        for other in wide[1:]:
            unify(wide[0], other, call.target)
        result.append(resolve(wide[0]))
    return result


def _name_units(dimensions: Dims, unit: str) -> None:
    for dimension in dimensions:
        for atom in leaves(dimension):
            atom.unit = atom.unit or unit


@rule("scaled_dot_product_attention.default")
def attention(call: Call) -> Dims:
    """`... (h r) n d, ... h m d, ... h m e -> ... (h r) n e`; r query heads share a key-value head."""
    q, k, v = (call.of(argument) for argument in call.args[:3])
    mask = call.get(3, "attn_mask")
    if call.kwargs.get("scale") is None:
        call.kwargs["scale"] = size(q[-1]) ** -0.5  # the default follows the width; the trained one does not
    unify(q[-1], k[-1], call.target)
    for argument, dims in zip(call.args[:2], (q, k), strict=True):
        call.contract(argument, len(dims) - 1)
    unify(k[-2], v[-2], call.target)
    freeze(k[-2], f"{call.target} runs along it")
    for axis in range(len(q) - 2):
        unify(k[axis], v[axis], call.target)
        heads = q[axis]
        if size(heads) != size(k[axis]) and size(k[axis]) > 1:
            heads, _ = factor([heads], [size(k[axis]), size(heads) // size(k[axis])])
        if size(k[axis]) > 1:
            unify(heads, k[axis], call.target)
    _name_units([resolve(d) for d in q[:-2]], "head")
    _name_units([resolve(q[-1]), resolve(v[-1])], "head_dim")
    if mask is not None:
        _broadcast(call, [[*map(resolve, q[:-1]), resolve(k[-2])], call.of(mask)])
    return [*map(resolve, q[:-1]), resolve(v[-1])]


@rule("einsum.default")
def einsum(call: Call) -> Dims:
    """As the equation says; letters that vanish are contracted."""
    equation = call.args[0].replace(" ", "")
    left, arrow, right = equation.partition("->")
    operands = left.split(",")
    if "." in equation or not arrow or any(len(set(letters)) != len(letters) for letters in operands):
        raise AlgebraError(f"equation {equation}")
    named: dict[str, Expression] = {}
    for letters, argument in zip(operands, call.args[1], strict=True):
        for axis, letter in enumerate(letters):
            dimension = call.of(argument)[axis]
            if letter in named and size(named[letter]) != 1 and size(dimension) != 1:
                unify(named[letter], dimension, call.target)
            elif letter not in named or size(dimension) != 1:
                named[letter] = dimension
    for letters, argument in zip(operands, call.args[1], strict=True):
        for axis, letter in enumerate(letters):
            if letter not in right:
                call.contract(argument, axis)
    return [resolve(named[letter]) for letter in right]


@rule("embedding.default")
def embedding(call: Call) -> Dims:
    """`v d, ... -> ... d`"""
    table, index = call.of(call.args[0]), call.of(call.args[1])
    freeze(table[0], "is the vocabulary of an embedding")
    return [*index, table[1]]


# ----------------------------------------------------------------------------------- norms


@rule("batch_norm.default", "instance_norm.default")
def batch_norm(call: Call) -> Dims:
    """`n c ..., c, c, c, c -> n c ...`"""
    x = call.of(call.args[0])
    for position in range(1, 5):
        if isinstance(call.args[position], Ref):
            unify(x[1], call.of(call.args[position])[0], call.target)
    return x


@rule("layer_norm.default", "rms_norm.default")
def layer_norm(call: Call) -> Dims:
    """`... c, c, c -> ... c`; statistics run over the units that are there."""
    x, count = call.of(call.args[0]), len(call.args[1])
    for tensor in call.tensors()[1:]:
        for mine, theirs in zip(x[-count:], call.of(tensor), strict=True):
            unify(mine, theirs, call.target)
    normalised = [resolve(dimension) for dimension in x[-count:]]
    call.read.extend(normalised)
    call.follow(1, normalised)
    return [*x[:-count], *normalised]


@rule("group_norm.default")
def group_norm(call: Call) -> Dims:
    """`n (g c) ..., (g c), (g c) -> n (g c) ...`; statistics run over the c that are there."""
    x, groups = call.of(call.args[0]), call.args[1]
    for tensor in call.tensors()[1:]:
        unify(x[1], call.of(tensor)[0], call.target)
    group, channels = factor([x[1]], [groups, size(x[1]) // groups])
    call.read.append(channels)
    call.follow(1, group)
    return [x[0], resolve(x[1]), *x[2:]]


# ----------------------------------------------------------------------------------- pooling


@rule(
    "max_pool1d.default", "max_pool2d.default", "max_pool3d.default", "avg_pool1d.default", "avg_pool2d.default",
    "avg_pool3d.default", "adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default",
    "adaptive_max_pool2d.default", "upsample_nearest2d.vec", "upsample_bilinear2d.vec", "upsample_nearest2d.default",
    "upsample_bilinear2d.default", "upsample_bicubic2d.vec",
)  # fmt: skip
def pool(call: Call) -> list[Dims]:
    """`n c ... -> n c ...`; space is resampled."""
    x = call.of(call.args[0])
    kept = len(x) - (int(call.target.split(".")[1].rstrip("_")[-2]) if "pool" in call.target else 2)
    for dimension in x[kept:]:
        freeze(dimension, f"is a spatial dimension of {call.target}")
    return [[*x[:kept], *call.fixed(result, kept)] for result in range(len(call.shapes))]


@rule("mean.dim", "mean.default", "var.dim", "var.correction", "std.dim", "std.correction", "sum.dim_IntList",
      "sum.default", "linalg_vector_norm.default")  # fmt: skip
def statistic(call: Call) -> Dims:
    """`... d ... -> ... (1) ...` over the units that are there."""
    return _reduced(call, call.read.append)


@rule("amax.default", "amin.default", "argmax.default", "argmin.default", "any.dim", "all.dim", "prod.dim_int")
def extremum(call: Call) -> Dims:
    """`... d ... -> ... (1) ...`; what it runs over stays."""
    return _reduced(call, lambda dimension: freeze(dimension, f"is reduced by {call.target}"))


@rule("max.dim", "min.dim", "topk.default", "sort.default")
def extrema(call: Call) -> list[Dims]:
    """Values and places along a dimension, which stays."""
    x = call.of(call.args[0])
    axis = call.get(2 if "topk" in call.target else 1, "dim", -1) % len(x)
    freeze(x[axis], f"is reduced by {call.target}")
    rest = [*x[:axis], *x[axis + 1 :]] if len(call.shapes[0]) < len(x) else x
    return [[_same_or_fixed(d, units, call) for d, units in zip(rest, s, strict=True)] for s in call.shapes]


def _same_or_fixed(dimension: Expression, units: int, call: Call) -> Expression:
    if size(dimension) == units:
        return dimension
    freeze(dimension, f"is changed by {call.target}")
    return _batch_or_constant(call, units, f"is set by {call.target}")


def _reduced(call: Call, over: Callable[[Expression], None]) -> Dims:
    x = call.of(call.args[0])
    first = 2 if "vector_norm" in call.target else 1
    axes = call.get(first, "dim")
    wanted = range(len(x)) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    reduced = {axis % len(x) for axis in wanted}
    keep = call.get(3 if call.target in ("aten.var.dim", "aten.std.dim") or first == 2 else 2, "keepdim", False)
    for axis in reduced:
        over(x[axis])
    if keep is True:
        return [constant(1, "reduced") if axis in reduced else d for axis, d in enumerate(x)]
    return [d for axis, d in enumerate(x) if axis not in reduced]


@rule("softmax.int", "log_softmax.int", "_softmax.default", "cumsum.default")
def along(call: Call) -> Dims:
    """`... d ... -> ... d ...`; units of d depend on each other."""
    x = call.of(call.args[0])
    freeze(x[call.args[1]], f"{call.target} runs along it")
    return x


# ----------------------------------------------------------------------------------- shapes


@rule(
    "view.default", "reshape.default", "_unsafe_view.default", "unflatten.int", "flatten.using_ints", "view_as.default",
    "reshape_as.default",
)  # fmt: skip
def reshape(call: Call) -> Dims:
    """The row-major product of all dimensions, regrouped; what does not regroup stays, the rest follows."""
    x = call.of(call.args[0])
    dims: Dims = []
    for old, new in _segments([size(d) for d in x], call.shapes[0]):
        try:
            dims += factor(x[old], call.shapes[0][new])
        except AlgebraError as error:
            for dimension in x[old]:
                freeze(dimension, f"{call.target}: {error}")
            dims += [_batch_or_constant(call, units, "is reshaped") for units in call.shapes[0][new]]
    call.args[:], call.kwargs, call.retarget = [call.args[0], None], {}, "aten.reshape.default"
    call.follow(1, dims)
    return dims


def _segments(old: list[int], new: list[int]) -> list[tuple[slice, slice]]:
    """The finest cuts of both shapes into parts of equal products."""
    parts, i, j, start_i, start_j = [], 0, 0, 0, 0
    left = right = 1
    while i < len(old) or j < len(new):
        if (left <= right and i < len(old)) or j == len(new):
            left, i = left * old[i], i + 1
        else:
            right, j = right * new[j], j + 1
        if left == right and i > start_i and j > start_j:
            parts.append((slice(start_i, i), slice(start_j, j)))
            start_i, start_j, left, right = i, j, 1, 1
    if start_i < len(old) or start_j < len(new):  # trailing dimensions of size one
        last = parts.pop() if parts else (slice(0, 0), slice(0, 0))
        parts.append((slice(last[0].start, len(old)), slice(last[1].start, len(new))))
    return parts


@rule("permute.default")
def permute(call: Call) -> Dims:
    """Dimensions in another order."""
    x = call.of(call.args[0])
    return [x[axis] for axis in call.args[1]]


@rule("transpose.int", "swapaxes.default", "t.default", "numpy_T.default")
def transpose(call: Call) -> Dims:
    """Two dimensions swapped."""
    x = call.of(call.args[0])
    first, second = (call.args[1], call.args[2]) if len(call.args) > 2 else (0, -1)
    if len(x) > 1:
        x[first], x[second] = x[second], x[first]
    return x


@rule("squeeze.dim", "squeeze.dims", "squeeze.default")
def squeeze(call: Call) -> Dims:
    """Dimensions of size one vanish; the list of them is made explicit."""
    x = call.of(call.args[0])
    axes = call.get(1, "dim", list(range(len(x))))
    wanted = {axis % len(x) for axis in ([axes] if isinstance(axes, int) else axes)}
    gone = [axis for axis in sorted(wanted) if size(x[axis]) == 1]
    call.args[:], call.kwargs, call.retarget = [call.args[0], None], {}, "aten.squeeze.dims"
    call.follow(1, gone)
    return [d for axis, d in enumerate(x) if axis not in gone]


@rule("unsqueeze.default")
def unsqueeze(call: Call) -> Dims:
    """A dimension of size one appears."""
    x = call.of(call.args[0])
    axis = call.args[1] % (len(x) + 1)
    return [*x[:axis], constant(1, "has a single unit"), *x[axis:]]


@rule("expand.default")
def expand(call: Call) -> Dims:
    """Dimensions of size one repeat."""
    x, sizes = call.of(call.args[0]), call.args[1]
    offset = len(sizes) - len(x)
    result: Dims = []
    explicit: list[Any] = []
    for axis, units in enumerate(call.shapes[0]):
        source = x[axis - offset] if axis >= offset else None
        if source is not None and (size(source) == units):
            result.append(source)
            explicit.append(-1)
        elif isinstance(sizes[axis], int):
            result.append(Atom(units))
            explicit.append(result[-1])
        else:
            result.append(call.batch)
            explicit.append(sizes[axis])
    call.follow(1, explicit)
    return result


@rule("select.int")
def select(call: Call) -> Dims:
    """One index of a dimension, which stays whole."""
    x = call.of(call.args[0])
    axis = call.args[1] % len(x)
    freeze(x[axis], "is indexed by select")
    return [d for position, d in enumerate(x) if position != axis]


@rule("slice.Tensor", "narrow.default")
def slice_(call: Call) -> Dims:
    """A part of a dimension; where that is no concatenation (a step, a cut inside a block), the dimension stays."""
    x = call.of(call.args[0])
    axis = call.get(1, "dim", 0) % len(x)
    total, length = size(x[axis]), call.shapes[0][axis]
    start, step = call.get(2, "start") or 0, call.get(4, "step", 1)
    if call.target == "aten.slice.Tensor" and length == total and step == 1:
        call.args[:] = [call.args[0], axis, 0, 2**63 - 1]
        return x
    try:
        if step != 1 or not isinstance(start, int):
            raise AlgebraError("slice with a step")
        start = start + total if start < 0 else start
        before, middle, _ = cut(x[axis], [start, length, total - start - length])
    except AlgebraError as error:
        freeze(x[axis], f"{call.target}: {error}")
        x[axis] = _batch_or_constant(call, length, "is sliced")
        return x
    call.args[:], call.kwargs = [call.args[0], axis, start, start + length], {}
    call.retarget = "aten.slice.Tensor"
    call.follow(2, before if start else 0)
    call.follow(3, concatenation([before, middle]) if start else middle)
    return [*x[:axis], middle, *x[axis + 1 :]]


@rule("chunk.default", "split.Tensor", "split_with_sizes.default", "split.sizes", "tensor_split.sections")
def split(call: Call) -> list[Dims]:
    """A dimension cut into parts, whose sizes are made explicit."""
    x = call.of(call.args[0])
    axis = call.get(2, "dim", 0) % len(x)
    sizes = [shape[axis] for shape in call.shapes]
    try:
        parts = cut(x[axis], sizes)
    except AlgebraError as error:
        freeze(x[axis], f"{call.target}: {error}")
        parts = [_batch_or_constant(call, units, "is split") for units in sizes]
    call.args[:], call.kwargs = [call.args[0], None, axis], {}
    call.retarget = "aten.split_with_sizes.default"
    call.follow(1, parts)
    return [[*x[:axis], part, *x[axis + 1 :]] for part in parts]


@rule("unbind.int")
def unbind(call: Call) -> list[Dims]:
    """All indices of a dimension, which stays whole."""
    x = call.of(call.args[0])
    axis = call.get(1, "dim", 0) % len(x)
    freeze(x[axis], "is unbound")
    return [[d for position, d in enumerate(x) if position != axis] for _ in call.shapes]


@rule("cat.default")
def cat(call: Call) -> Dims:
    """`... a ..., ... b ... -> ... (a + b) ...`"""
    parts = [call.of(part) for part in call.args[0] if call.of(part) != [] and 0 not in map(size, call.of(part))]
    axis = call.get(1, "dim", 0) % len(parts[0])
    for other in parts[1:]:
        for position in range(len(other)):
            if position != axis:
                unify(parts[0][position], other[position], call.target)
    joined = concatenation(part[axis] for part in parts)
    return [joined if position == axis else resolve(d) for position, d in enumerate(parts[0])]


@rule("stack.default")
def stack(call: Call) -> Dims:
    """A new dimension over equal operands."""
    parts = [call.of(part) for part in call.args[0]]
    for other in parts[1:]:
        for a, b in zip(parts[0], other, strict=True):
            unify(a, b, call.target)
    axis = call.get(1, "dim", 0) % (len(parts[0]) + 1)
    return [*map(resolve, parts[0][:axis]), constant(len(parts), "is stacked"), *map(resolve, parts[0][axis:])]


@rule("pad.default", "constant_pad_nd.default")
def pad(call: Call) -> Dims:
    """Constants around a dimension: a concatenation with them; other modes only where nothing shrinks."""
    x, amounts = call.of(call.args[0]), call.args[1]
    mode = call.get(2, "mode", "constant") if call.target == "aten.pad.default" else "constant"
    for pair in range(len(amounts) // 2):
        axis = len(x) - 1 - pair
        before, after = amounts[2 * pair], amounts[2 * pair + 1]
        if before == 0 and after == 0:
            continue
        if mode != "constant" or before < 0 or after < 0:
            freeze(x[axis], f"is padded by {call.target}")
            x[axis] = constant(call.shapes[0][axis], "is padded")
        else:
            padding = [constant(n, "is padding") for n in (before, after)]
            x[axis] = concatenation([padding[0], x[axis], padding[1]])
    return x


@rule(
    "full.default", "zeros.default", "ones.default", "arange.default", "arange.start", "arange.start_step",
    "empty.default", "scalar_tensor.default", "new_zeros.default", "new_ones.default", "new_full.default",
)  # fmt: skip
def create(call: Call) -> Dims:
    """A constant; its sizes are as traced."""
    return call.fixed()


@rule("pixel_shuffle.default")
def pixel_shuffle(call: Call) -> Dims:
    """`n (c r r) h w -> n c (h r) (w r)`"""
    x, upscale = call.of(call.args[0]), call.args[1]
    channels, square = factor([x[-3]], [size(x[-3]) // upscale**2, upscale**2])
    for dimension in (square, *x[-2:]):
        freeze(dimension, "is rearranged by pixel_shuffle")
    return [*x[:-3], channels, *call.fixed(start=len(x) - 2)]


@rule("pixel_unshuffle.default")
def pixel_unshuffle(call: Call) -> Dims:
    """`n c (h r) (w r) -> n (c r r) h w`"""
    x, downscale = call.of(call.args[0]), call.args[1]
    for dimension in x[-2:]:
        freeze(dimension, "is rearranged by pixel_unshuffle")
    blocks = constant(downscale**2, "is rearranged by pixel_unshuffle")
    return [*x[:-3], product([x[-3], blocks]), *call.fixed(start=len(x) - 2)]


@rule("channel_shuffle.default", "native_channel_shuffle.default")
def channel_shuffle(call: Call) -> Dims:
    """`n (g c) ... -> n (c g) ...`"""
    x, groups = call.of(call.args[0]), call.args[1]
    group, channels = factor([x[1]], [groups, size(x[1]) // groups])
    freeze(group, "is the number of groups of a channel shuffle")
    return [x[0], product([channels, group]), *x[2:]]


# ------------------------------------------------------------------------------------------------- indices and repeats


@rule("index.Tensor")
def index(call: Call) -> Dims:
    """Indexed dimensions stay, the others follow; the index's own stand where the first indexed one stood."""
    x, indices = call.of(call.args[0]), call.args[1]
    used = [axis for axis, item in enumerate(indices) if item is not None]
    for axis in used:
        freeze(x[axis], "is indexed by a tensor")
    picked = _broadcast(call, [call.of(indices[axis]) for axis in used])
    if used != list(range(used[0], used[0] + len(used))):
        raise AlgebraError("indices that are not neighbours")
    return [*x[: used[0]], *picked, *x[used[-1] + 1 :]]


@rule("index_select.default", "gather.default")
def pick(call: Call) -> Dims:
    """Places along a dimension, which stays."""
    x, axis = call.of(call.args[0]), call.args[1]
    freeze(x[axis], f"is indexed by {call.target}")
    if "gather" in call.target:
        where = call.of(call.args[2])
        for position, (mine, theirs) in enumerate(zip(x, where, strict=True)):
            if position != axis % len(x):
                unify(mine, theirs, call.target) if size(mine) == size(theirs) else freeze(mine, "is gathered from")
        return [resolve(d) for d in where]
    x[axis] = _batch_or_constant(call, call.shapes[0][axis], "is indexed")
    return x


@rule("slice_scatter.default", "select_scatter.default")
def scatter(call: Call) -> Dims:
    """A part of a dimension replaced; the dimension stays."""
    x, part = call.of(call.args[0]), call.of(call.args[1])
    axis = call.get(2, "dim", 0) % len(x)
    freeze(x[axis], f"is written in part by {call.target}")
    rest = part if "select" in call.target else [*part[:axis], *part[axis + 1 :]]
    for mine, theirs in zip([*x[:axis], *x[axis + 1 :]], rest, strict=True):
        unify(mine, theirs, call.target)
    if "slice" in call.target:
        freeze(part[axis], f"is written by {call.target}")
    return [resolve(dimension) for dimension in x]


@rule("roll.default", "flip.default")
def roll(call: Call) -> Dims:
    """`... d ... -> ... d ...`; units change places."""
    x = call.of(call.args[0])
    axes = call.get(2, "dims", []) if "roll" in call.target else call.args[1]
    for axis in axes or range(len(x)):
        freeze(x[axis], f"is reordered by {call.target}")
    return x


@rule("repeat.default", "tile.default")
def repeat(call: Call) -> Dims:
    """`... d -> ... (r d)`"""
    x, shape = call.of(call.args[0]), call.shapes[0]
    padded: Dims = [constant(1, "has a single unit") for _ in range(len(shape) - len(x))] + x
    result: Dims = []
    for dimension, units in zip(padded, shape, strict=True):
        times = units // max(size(dimension), 1)
        result.append(dimension if times == 1 else product([_batch_or_constant(call, times, "is repeated"), dimension]))
    return result


@rule("repeat_interleave.self_int")
def repeat_interleave(call: Call) -> Dims:
    """`... d ... -> ... (d r) ...`"""
    x, times, axis = call.of(call.args[0]), call.args[1], call.get(2, "dim")
    if axis is None or not isinstance(times, int):
        raise AlgebraError("repeated over all dimensions")
    x[axis] = product([x[axis], constant(times, "is repeated")])
    call.args[:], call.kwargs = [call.args[0], times, axis], {}
    return x


@rule("tril.default", "triu.default")
def triangle(call: Call) -> Dims:
    """`... n m -> ... n m`; places matter."""
    x = call.of(call.args[0])
    for dimension in x[-2:]:
        freeze(dimension, f"{call.target} depends on places in it")
    return x


@rule("movedim.int")
def movedim(call: Call) -> Dims:
    """One dimension in another place."""
    x = call.of(call.args[0])
    moved = x.pop(call.args[1])
    x.insert(call.args[2] % (len(x) + 1), moved)
    return x

"""Operators that work place by place, with broadcasting."""

from __future__ import annotations

from autoprune.graph.algebra import Expression, constant, cut, resolve, size, unify
from autoprune.graph.rules.call import RULES, Call, Dims, rule

_ELEMENTWISE = (
    "relu relu_ relu6 sigmoid tanh silu gelu hardtanh hardswish hardsigmoid elu leaky_relu mish softplus selu celu",
    "hardshrink softshrink logsigmoid log_sigmoid softsign tanhshrink threshold heaviside logit",
    "neg exp exp2 expm1 sqrt rsqrt abs log log2 log10 log1p square reciprocal sin cos tan asin acos atan sinh cosh",
    "asinh acosh atanh atan2 sinc erf erfc erfinv hypot sign sgn signbit floor ceil round trunc frac positive",
    "nan_to_num isnan isinf isfinite clamp clamp_min clamp_max clip",
    "logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or bitwise_xor",
    "__and__ __or__ __xor__ __lshift__ __rshift__ bitwise_left_shift bitwise_right_shift",
    "dropout feature_dropout alpha_dropout contiguous clone alias detach to _to_copy lift_fresh_copy lift_fresh",
    "zeros_like ones_like full_like zero add sub rsub mul multiply div divide true_divide floor_divide pow float_power",
    "maximum minimum fmax fmin max min remainder fmod eq ne lt le gt ge not_equal less greater less_equal",
    "where masked_fill addcmul addcdiv lerp fill copy xlogy polar complex real imag conj _conj resolve_conj",
    "greater_equal resolve_neg angle conj_physical",
)
_OVERLOADS = (
    "default Tensor Scalar dtype device dtype_layout Tensor_Scalar Tensor_Tensor Tensor_mode Scalar_mode",
    "Scalar_Tensor self this ScalarSelf ScalarOther decimals",
)
_NO_REDUCTION = ("max.default", "min.default")  # these reduce to a scalar


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
        if f"{_name}.{_overload}" not in _NO_REDUCTION:
            RULES[f"aten.{_name}.{_overload}"] = elementwise
RULES["aten.max.other"] = RULES["aten.min.other"] = elementwise


def is_elementwise(target: str) -> bool:
    """Whether an operator works place by place: constant operands, constant result."""
    return RULES.get(target) is elementwise


@rule(
    "type_as.default", "to.other", "rand_like.default", "randn_like.default", "bernoulli.default", "empty_like.default"
)
def like(call: Call) -> Dims:
    """`..., _ -> ...`: of a second operand, only the type counts."""
    return call.of(call.args[0])


@rule("prelu.default")
def prelu(call: Call) -> Dims:
    """`n c ..., c -> n c ...`"""
    x, weight = call.of(call.args[0]), call.of(call.args[1])
    if size(weight[0]) != 1:
        call.unify(x[min(1, len(x) - 1)], weight[0])
    return call.of(call.args[0])


@rule("glu.default")
def glu(call: Call) -> Dims:
    """`... (c + c) ... -> ... c ...`: the first half, gated by the second."""
    x = call.of(call.args[0])
    axis = call.get(1, "dim", -1) % len(x)
    half = size(x[axis]) // 2
    values, gates = cut(x[axis], [half, half])
    call.unify(values, gates)
    return [*x[:axis], resolve(values), *x[axis + 1 :]]


@rule("view_as_complex.default", "view_as_real.default")
def complex_view(call: Call) -> Dims:
    """`... d 2 <-> ... d`: pairs of numbers as complex ones."""
    x = call.of(call.args[0])
    if "view_as_real" in call.target:
        return [*x, constant(2, f"{call.target}: is real and imaginary part")]
    call.freeze(x[-1], "is real and imaginary part")
    return x[:-1]

"""Operators that work place by place, with broadcasting."""

from __future__ import annotations

from autoprune.graph.algebra import Expression, constant, resolve, size, unify
from autoprune.graph.rules.call import RULES, Call, Dims, rule

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


def is_elementwise(target: str) -> bool:
    """Whether an operator works place by place: constant operands, constant result."""
    return RULES.get(target) is elementwise


@rule("prelu.default")
def prelu(call: Call) -> Dims:
    """`n c ..., c -> n c ...`"""
    x, weight = call.of(call.args[0]), call.of(call.args[1])
    if size(weight[0]) != 1:
        unify(x[1], weight[0], call.target)
    return x

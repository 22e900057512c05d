"""Exported programs rewritten for XNNPACK: core ATen at once, attention and its masks of operators that it has."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


class _Decomposed(torch.export.ExportedProgram):
    """A program in core ATen: to decompose it again, as ExecuTorch does twice over, would give the same."""

    def run_decompositions(self, *args: Any, **kwargs: Any) -> torch.export.ExportedProgram:
        return self


def decomposed(program: Any, kept: set[Any]) -> Any:
    """The program in core ATen, operators `kept` as they are.

    `ExportedProgram.run_decompositions` goes through all composite operators of torch, hundreds, each time; its inner
    part takes only those that are to be kept. Where a version of torch has no such part, the program is given back and
    ExecuTorch decomposes it, more slowly.
    """
    try:
        from torch._export.utils import _is_preservable_cia_op, _special_op_to_preserve_cia
        from torch.export.exported_program import _decompose_exported_program
    except ImportError:
        return program
    table = {target: rule for target, rule in _core_table().items() if target not in kept}
    composite = {target: _special_op_to_preserve_cia for target in kept if _is_preservable_cia_op(target)}
    if all(_plain_attention(node) for node in program.graph.nodes if node.target is _ATTENTION):
        composite[_ATTENTION] = _attention
    made = _decompose_exported_program(
        program,
        cia_to_decomp=composite,
        python_decomp_table=table,
        joint_loss_index=None,
        decompose_custom_triton_ops=False,
    )
    _with_float_scalars(made)
    made.__class__ = _Decomposed
    return made


@functools.cache
def _core_table() -> dict[Any, Any]:
    """How operators decompose into core ATen; composite ones decompose by themselves."""
    from executorch.exir.program._program import _default_decomposition_table
    from torch._export.utils import _is_preservable_cia_op

    return {k: rule for k, rule in _default_decomposition_table().items() if not _is_preservable_cia_op(k)}


def _with_float_scalars(program: Any) -> None:
    """`x + 3` of floats as `x + 3.0`: an integer becomes a tensor that is cast in every run, outside the delegate."""
    aten = torch.ops.aten
    for node in program.graph.nodes:
        arithmetic = node.target in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
        if arithmetic and isinstance(node.args[1], int) and node.meta["val"].is_floating_point():
            node.update_arg(1, float(node.args[1]))


def add_masks(program: Any) -> None:
    """Boolean masks of attention that are the same in every run, as numbers that are added."""
    signature = program.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    for node in program.graph.nodes:
        name = names.get(node.name)
        tensors = program.state_dict if name in program.state_dict else program.constants
        mask = tensors.get(name)
        if mask is None or mask.dtype != torch.bool or not bool(mask.any(-1).all()):
            continue  # what hides all of a row is left to torch, which then gives zeros
        if all(user.target is _ATTENTION and _attention_arguments(user)["attn_mask"] is node for user in node.users):
            dtype = next(iter(node.users)).meta["val"].dtype
            least = torch.finfo(dtype).min / 2  # a score added to it stays finite
            added = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, least)
            tensors[name] = nn.Parameter(added, requires_grad=False) if isinstance(mask, nn.Parameter) else added
            node.meta["val"] = node.meta["val"].to(dtype)


def _attention_arguments(node: Any) -> dict[str, Any]:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    return {**dict.fromkeys(names), **dict(zip(names, node.args, strict=False)), **node.kwargs}


def _plain_attention(node: Any) -> bool:
    """Whether `_attention` computes what the call does."""
    given = _attention_arguments(node)
    query, key, value = (given[name].meta["val"] for name in ("query", "key", "value"))
    mask = given["attn_mask"]
    return (
        not (given["is_causal"] or given["dropout_p"] or given.get("enable_gqa"))
        and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
        and (mask is None or mask.meta["val"].is_floating_point())
    )


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention of operators that XNNPACK has: two batched products around a softmax.

    Torch's own decomposition guards rows that a mask hides entirely with five operators that XNNPACK does not have; a
    mask of finite numbers, or none, hides none. (..., L, E), (..., S, E), (..., S, V) -> (..., L, V)
    """
    heads, length, source = query.shape[:-2], query.shape[-2], key.shape[-2]
    scaled = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    products = torch.bmm(scaled.reshape(-1, *query.shape[-2:]), key.reshape(-1, *key.shape[-2:]).transpose(1, 2))
    if attn_mask is not None:
        products = (products.view(*heads, length, source) + attn_mask).view(-1, length, source)
    mixed = torch.bmm(torch.softmax(products, -1), value.reshape(-1, *value.shape[-2:]))
    return mixed.view(*heads, length, value.shape[-1])

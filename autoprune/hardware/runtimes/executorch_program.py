"""A torch module as an ExecuTorch program delegated to XNNPACK: what `executorch.py` runs.

Everything that imports ExecuTorch's exporter is here. It writes to stderr, warns and adds a handler to the root logger
when it is imported and used; none of that reaches the user.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoprune.core.errors import InputError

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def package_version() -> str:
    """The installed version, without importing the exporter.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from executorch.version import __version__
    except ImportError as error:
        raise InputError(
            "the runtime 'executorch' needs its package, which is not installed: pip install 'autoprune[executorch]'."
        ) from error
    return str(__version__)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While it lasts, ExecuTorch's warnings, log lines and its C++ part's lines on stderr go nowhere."""
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), logging.root.manager.disable
    with warnings.catch_warnings(), _no_stderr():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
            for handler in [handler for handler in root.handlers if handler not in handlers]:
                root.removeHandler(handler)


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """The process's file 2 leads nowhere: C++ knows no other way to be silenced."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # closed by who started the process: there is nobody to disturb
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


@dataclass(frozen=True)
class Lowered:
    """A program as ExecuTorch loads it.

    Attributes:
        data: the bytes of a `.pte` file.
        delegates: how many parts XNNPACK runs.
        portable: operators left to ExecuTorch's own kernels, in order.
    """

    data: bytes
    delegates: int
    portable: tuple[str, ...]


def lower(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Lowered:
    """Export, delegate to XNNPACK and serialise; inputs stay where the caller has them, outputs are planned.

    Args:
        module: in eval mode, its outputs tensors.
        inputs: of the sizes that it will be run with.

    Raises:
        Exception: what ExecuTorch raises where it cannot lower the module.
    """
    with quiet(), torch.no_grad():
        tools = _tools()
        exported = tools.fold_constants(torch.export.export(module, inputs))
        _add_masks(exported)
        with _needed_passes():
            edge = tools.to_edge(exported, partitioner=[tools.partitioner()], compile_config=tools.compile_config())
        called = [node for node in edge.exported_program().graph.nodes if node.op == "call_function"]
        delegates = [node for node in called if node.target is tools.delegate]
        left = [name for node in called if (name := node.target.__name__) not in ("getitem", tools.delegate.__name__)]
        return Lowered(edge.to_executorch(tools.backend_config()).buffer, len(delegates), tuple(left))


class _Decomposed(torch.export.ExportedProgram):
    """A program in core ATen: to decompose it again, as ExecuTorch does twice over, would give the same."""

    def run_decompositions(self, *args: Any, **kwargs: Any) -> torch.export.ExportedProgram:
        return self


@dataclass(frozen=True)
class _Tools:
    """What is used of the exporter, imported once."""

    fold_constants: Any
    to_edge: Any
    partitioner: Any
    compile_config: Any
    backend_config: Any
    delegate: Any


@functools.cache
def _tools() -> _Tools:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    class Partitioner(XnnpackPartitioner):  # type: ignore[misc]  # the package has no type hints
        """XNNPACK's, spared of work that takes three quarters of the time to lower a kernel."""

        def transform_for_pre_decomposition(self, program: Any) -> Any:
            """Decompose once, with a table of what is there instead of every operator torch knows."""
            wanted, accepts = self.ops_to_not_decompose(program)
            called = [node for node in program.graph.nodes if node.op == "call_function"]
            kept = {node.target for node in called if node.target in wanted}
            if any(node.target in kept and not accepts(node) for node in called):
                return program  # XNNPACK takes some calls of an operator and not others: the long way tells them apart
            return _decomposed(program, kept)

        def partition(self, program: Any) -> Any:
            """Without the walk up the stack that looks for a deprecated caller."""
            return super(XnnpackPartitioner, self).partition(program)

    return _Tools(
        fold_constants=constant_prop_pass,
        to_edge=to_edge_transform_and_lower,
        partitioner=functools.cache(Partitioner),
        compile_config=functools.partial(EdgeCompileConfig, _check_ir_validity=False),
        backend_config=functools.partial(
            ExecutorchBackendConfig, memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False)
        ),
        delegate=torch.ops.higher_order.executorch_call_delegate,
    )


def _decomposed(program: Any, kept: set[Any]) -> Any:
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


def _add_masks(program: Any) -> None:
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


# XNNPACK's passes over a delegated graph, each of which interprets all of it anew -> what has to be in an operator's
# name for the pass to have anything to do. Passes that are not named always run.
_PASSES_FOR = {
    "ConvertToLinearPass": ("mm.", "linear"),
    "ConvertToSDPAPass": ("softmax",),
    "ConvertToUpsampleBilinear2d": ("upsample", "index", "arange"),
    "DecomposeBatchNorm": ("batch_norm",),
    "DecomposeConcatenate": ("cat.",),
    "FuseBatchNormPass": ("batch_norm",),
    "InsertPadQDQPass": ("pad",),
    "PReLUReshapePass": ("prelu",),
    "PropagateCustomMetaPass": ("quantize",),
    "RemoveGetItemPass": ("getitem",),
}


def _has_work(name: str, operators: set[str]) -> bool:
    return any(part in operator for part in _PASSES_FOR.get(name, ("",)) for operator in operators)


@contextlib.contextmanager
def _needed_passes() -> Iterator[None]:
    """While it lasts, XNNPACK leaves out the passes that have nothing to do; each takes as long as an export."""
    from executorch.backends.xnnpack import xnnpack_preprocess as backend

    every = backend.XNNPACKPassManager

    class Needed(every):  # type: ignore[misc, valid-type]  # the package has no type hints
        def __init__(self, program: Any, passes: Any = None) -> None:
            super().__init__(program, passes)
            names = {getattr(node.target, "__name__", "") for node in program.graph.nodes}
            self.passes: list[Any] = [item for item in self.passes if _has_work(item.__name__, names)]

    backend.XNNPACKPassManager = Needed
    try:
        yield
    finally:
        backend.XNNPACKPassManager = every

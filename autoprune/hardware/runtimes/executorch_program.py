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
from autoprune.hardware.runtimes.executorch_rewrites import add_masks, decomposed


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
class Step:
    """One operator of a lowered program.

    Attributes:
        kind: as ExecuTorch or XNNPACK names it.
        source: the exported node that it came of; empty for what lowering added, such as changes of layout.
    """

    kind: str
    source: str


@dataclass(frozen=True)
class Call:
    """One instruction of a lowered program: a part that XNNPACK runs, or one operator that it does not have."""

    delegated: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Lowered:
    """A program as ExecuTorch loads it.

    Attributes:
        data: the bytes of a `.pte` file.
        calls: what it runs, in order.
        exported: (name, operator) of the nodes of the exported program that sources are among, in order.
    """

    data: bytes
    calls: tuple[Call, ...]
    exported: tuple[tuple[str, str], ...]

    @property
    def portable(self) -> tuple[str, ...]:
        """Operators left to ExecuTorch's own kernels, in order."""
        return tuple(call.steps[0].kind for call in self.calls if not call.delegated)


def lower(module: nn.Module, inputs: tuple[torch.Tensor, ...], quantised: bool = False) -> Lowered:
    """Export, delegate to XNNPACK and serialise; inputs stay where the caller has them, outputs are planned.

    Args:
        module: in eval mode, its outputs tensors.
        inputs: of the sizes that it will be run with.
        quantised: weights by channel and activations by tensor as int8, their ranges those of `inputs`.

    Raises:
        Exception: what ExecuTorch raises where it cannot lower the module.
    """
    with quiet(), torch.no_grad():
        tools = _tools()
        exported = torch.export.export(module, inputs)
        nodes = tuple((node.name, str(node.target)) for node in exported.graph.nodes if node.op == "call_function")
        exported = tools.fold_constants(exported)
        add_masks(exported)
        if quantised:
            exported = torch.export.export(_quantised(exported.module(), inputs), inputs)
        with _watched() as parts:
            edge = tools.to_edge(exported, partitioner=[tools.partitioner()], compile_config=tools.compile_config())
        calls = _calls(edge.exported_program().graph_module, parts)
        return Lowered(edge.to_executorch(tools.backend_config()).buffer, calls, nodes)


def _quantised(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> nn.Module:
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantiser = xnnpack.XNNPACKQuantizer()
    quantiser.set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(module, quantiser)
    prepared(*inputs)
    made: nn.Module = convert_pt2e(prepared)
    return made


Parts = dict[bytes, list[tuple[Step, ...]]]  # serialised delegate -> its operators, once for each that is alike


def _calls(module: Any, parts: Parts) -> tuple[Call, ...]:
    found = []
    for node in module.graph.nodes:
        if node.target is torch.ops.higher_order.executorch_call_delegate:
            found.append(Call(True, parts[getattr(module, node.args[0].target).processed_bytes].pop(0)))
        elif node.op == "call_function" and node.target.__name__ != "getitem":
            found.append(Call(False, (Step(node.target.__name__, _source(node)),)))
    return tuple(found)


def _source(node: Any) -> str:
    """The exported node that a node came of; what lowering added came of none, or of itself."""
    origins = node.meta.get("from_node") if "debug_handle" in node.meta else None
    if not origins:
        return ""
    origin = origins[-1]
    while origin.from_node:
        origin = origin.from_node[-1]
    return str(origin.name)


@dataclass(frozen=True)
class _Tools:
    """What is used of the exporter, imported once."""

    fold_constants: Any
    to_edge: Any
    partitioner: Any
    compile_config: Any
    backend_config: Any


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
            return decomposed(program, kept)

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
    )


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
def _watched() -> Iterator[Parts]:
    """While it lasts, XNNPACK leaves out passes that have nothing to do, and what its parts are made of is kept.

    Each pass takes as long as an export.
    """
    from executorch.backends.xnnpack import xnnpack_preprocess as backend

    manager, serialise = backend.XNNPACKPassManager, backend.serialize_xnnpack_binary
    parts: Parts = {}
    sources: dict[int, str] = {}

    class Needed(manager):  # type: ignore[misc, valid-type]  # the package has no type hints
        def __init__(self, program: Any, passes: Any = None) -> None:
            super().__init__(program, passes)
            names = {getattr(node.target, "__name__", "") for node in program.graph.nodes}
            self.passes: list[Any] = [item for item in self.passes if _has_work(item.__name__, names)]

        def transform(self) -> Any:
            program = super().transform()
            sources.update({node.meta["debug_handle"]: _source(node) for node in program.graph.nodes if _source(node)})
            return program

    def watching(graph: Any, constants: Any) -> bytes:
        data: bytes = serialise(graph, constants)
        steps = (Step(type(n.xnode_union).__name__, sources.get(n.debug_handle, "")) for n in graph.xnodes)
        parts.setdefault(data, []).append(tuple(steps))
        return data

    backend.XNNPACKPassManager, backend.serialize_xnnpack_binary = Needed, watching
    try:
        yield parts
    finally:
        backend.XNNPACKPassManager, backend.serialize_xnnpack_binary = manager, serialise

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
        exported = torch.export.export(module, inputs)
        edge = tools.to_edge(exported, partitioner=[tools.partitioner()], compile_config=tools.compile_config())
        called = [node for node in edge.exported_program().graph.nodes if node.op == "call_function"]
        delegates = [node for node in called if node.target is tools.delegate]
        left = [str(node.target) for node in called if node.target is not tools.delegate and _computes(node)]
        return Lowered(edge.to_executorch(tools.backend_config()).buffer, len(delegates), tuple(left))


def _computes(node: Any) -> bool:
    return getattr(node.target, "__name__", "") != "getitem"


class _Decomposed(torch.export.ExportedProgram):
    """A program in core ATen: to decompose it again, as ExecuTorch does twice over, would give the same."""

    def run_decompositions(self, *args: Any, **kwargs: Any) -> torch.export.ExportedProgram:
        return self


@dataclass(frozen=True)
class _Tools:
    """What is used of the exporter, imported once."""

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
    made = _decompose_exported_program(
        program,
        cia_to_decomp={target: _special_op_to_preserve_cia for target in kept if _is_preservable_cia_op(target)},
        python_decomp_table=table,
        joint_loss_index=None,
        decompose_custom_triton_ops=False,
    )
    made.__class__ = _Decomposed
    return made


@functools.cache
def _core_table() -> dict[Any, Any]:
    """How operators decompose into core ATen; composite ones decompose by themselves."""
    from executorch.exir.program._program import _default_decomposition_table
    from torch._export.utils import _is_preservable_cia_op

    return {k: rule for k, rule in _default_decomposition_table().items() if not _is_preservable_cia_op(k)}

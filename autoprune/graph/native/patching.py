"""`patch`: the user's model with a traced module's tensors and sizes, or the reason why its class cannot hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.core.errors import InputError
from autoprune.graph.capture import unwrapped
from autoprune.graph.module import TracedModule
from autoprune.graph.native.attributes import assign
from autoprune.graph.native.compare import Call, Reference, calls_of, evaluating
from autoprune.graph.native.copying import copied, dense_tensors, place_sizes, place_tensors
from autoprune.graph.native.evidence import Evidence
from autoprune.graph.native.queries import Query, Scaling, changed_queries, scaled, scaling_of
from autoprune.graph.native.recording import Recording, Sample, record, traced_samples
from autoprune.graph.native.solve import solve
from autoprune.graph.program import Program

# What a model's own code may raise at sizes it was not written for.
_REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError, ArithmeticError,
             NotImplementedError, InputError)  # fmt: skip


def patch(dense_model: nn.Module, module: TracedModule, example_inputs: Any = ()) -> tuple[nn.Module | None, str]:
    """The user's model with the traced module's tensors and sizes, and an empty reason; or None and the reason.

    Where the class computes the scale of attention from the width of a head, the query projection is multiplied so
    that the outputs stay the same; all other tensors are the traced module's.

    Args:
        dense_model: the model that was traced; not changed.
        module: what a policy made of it.
        example_inputs: as for `trace`, or the flattened tensors in the program's order: what both are compared on
            (and on other batch sizes, where the batch is free). Without them random inputs of the program's shapes.

    Returns:
        A model in the modes of `dense_model`, its tensors shared with nothing; branches that only run in training are
        not in a traced program and keep their dense tensors. Its state dict has the names and shapes of the traced
        module's.
    """
    dense_model = unwrapped(dense_model)
    gone = [group for group, units in module.widths.items() if units == 0]
    if gone:
        return None, f"a block was removed ('{gone[0]}' has width 0): the model's class has no way to leave it out"
    try:
        native = copied(dense_model)
    except _REFUSALS as error:
        return None, f"the model cannot be copied: {_first_line(error)}"
    with evaluating(native):
        native.train().eval()  # a class may drop what it keeps from earlier runs when its mode changes
        reason = _Patching(dense_model, native, module, calls_of(module, example_inputs)).run()
    return (None, reason) if reason else (native, "")


class _Patching:
    """One attempt: what is known of the attributes, and the search over what is not."""

    def __init__(self, dense_model: nn.Module, native: nn.Module, module: TracedModule, calls: list[Call]) -> None:
        self._dense = dense_model
        self._native = native
        self._module = module
        self._calls = calls

    def run(self) -> str:
        """Patch the copy; why it cannot be done, or an empty text."""
        try:
            reference = Reference(self._module, self._calls)
        except _REFUSALS as error:
            return f"the traced module does not run on these inputs: {_first_line(error)}"
        recording = self._recorded()
        samples = self._samples(recording)
        solution = solve(self._native, recording, Evidence(self._module.program, self._module.widths, samples))
        if reason := place_tensors(self._native, self._dense, self._module):
            return reason
        placed = place_sizes(self._native, self._module)
        if reason := _unequal_attention(self._native):
            return reason
        scalings = list(self._scalings(recording, samples))
        first = ""
        for values in solution.assignments(self._native):
            others = {place: n for place, n in values.items() if (place.module, place.path[0]) not in placed}
            revert = assign(self._native, others)
            reason = self._compared(reference, scalings)
            if not reason:
                return ""
            revert()
            first = first or reason
        return "; ".join([first, *solution.conflicts[:1]])

    def _recorded(self) -> Recording:
        try:
            return record(self._native, self._calls[0])
        except _REFUSALS:  # a class that looks into its integers: what its parameters say has to do
            return Recording((), (), frozenset())

    def _samples(self, recording: Recording) -> dict[str, Sample]:
        shapes = {s.shape for use in recording.uses for s in (*use.results, *use.operands) if isinstance(s, Sample)}
        shapes |= {found.shape for found in recording.attentions}
        tensors = dense_tensors(self._dense, self._module)
        batch = next(t.shape[0] for t in pytree.tree_leaves(self._calls[0]) if isinstance(t, torch.Tensor))
        return traced_samples(self._module.program, tensors, self._calls[0], shapes, batch)

    def _scalings(self, recording: Recording, samples: dict[str, Sample]) -> Iterator[Scaling]:
        """What queries are multiplied by, likeliest first: attention without a scale of its own, none, all."""
        queries = changed_queries(self._module)
        default = {name for name, known in samples.items() if any(known.is_like(s) for s in recording.attentions)}
        chosen = [query for query in queries if query.product in default or _of_torch_attention(self._native, query)]
        tried: list[list[Query]] = []
        for option in (chosen, [], queries):
            if option not in tried:
                tried.append(option)
                yield scaling_of(self._module, option, self._calls[0])

    def _compared(self, reference: Reference, scalings: list[Scaling]) -> str:
        """Try each scaling on the patched copy; why none will do, or an empty text."""
        reasons = []
        for scaling in scalings:
            restore = _multiply(self._native, scaling)
            try:
                reason = reference.difference(self._native, partial(scaled, scaling))
            except _REFUSALS as error:
                restore()
                where = _place_of_failure(self._native, self._module.program, self._calls)
                return f"the model's class does not run at these sizes: {where}{_first_line(error)}"
            if not reason:
                return ""
            restore()
            reasons.append(reason)
        return f"the model's class {reasons[0]} at these sizes"


def _of_torch_attention(native: nn.Module, query: Query) -> bool:
    """Whether `nn.MultiheadAttention` makes the query: its scale is always the default one."""
    owners = [native.get_submodule(name.rpartition(".")[0]) for name, _ in query.parameters]
    return any(isinstance(owner, nn.MultiheadAttention) for owner in owners)


def _unequal_attention(native: nn.Module) -> str:
    """`nn.MultiheadAttention` reads the width of its input as that of its heads together."""
    for path, module in native.named_modules():
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            heads, width = module.in_proj_weight.shape[0] // 3, module.in_proj_weight.shape[1]
            if heads != width:
                return (
                    f"nn.MultiheadAttention '{path}' cannot have heads of {heads} features together on inputs of "
                    f"{width}; keep as many of both"
                )
    return ""


def _multiply(native: nn.Module, scaling: Scaling) -> Callable[[], None]:
    """Multiply parameters; returns what undoes it."""
    before = {name: native.get_parameter(name).detach().clone() for name in scaling}

    def restore() -> None:
        with torch.no_grad():
            for name, value in before.items():
                native.get_parameter(name).copy_(value)

    with torch.no_grad():
        for name, factor in scaling.items():
            native.get_parameter(name).mul_(factor)
    return restore


def _place_of_failure(native: nn.Module, program: Program, calls: list[Call]) -> str:
    """The innermost module that raises, as `in 'blocks.0.attn' (Attention): `."""
    entered: list[str] = []
    handles = []
    try:
        for path, module in native.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, p=path: entered.append(p)))
            handles.append(module.register_forward_hook(lambda *_: entered.pop() and None))
        with torch.no_grad():
            for args, kwargs in calls:
                native(*args, **kwargs)
    except _REFUSALS:
        if entered and entered[-1]:
            failed = native.get_submodule(entered[-1])
            unread = [name for name, _ in failed.named_parameters(entered[-1]) if name not in program.parameters]
            note = ", which the traced program does not read" if unread else ""
            return f"in '{entered[-1]}' ({type(failed).__name__}{note}): "
    finally:
        for handle in handles:
            handle.remove()
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

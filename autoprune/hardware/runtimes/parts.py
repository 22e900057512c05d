"""What a model is made of, as far as a runtime's report on it needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from onnx import GraphProto

from autoprune.graph.fusion import kernel_slots, storage
from autoprune.graph.program import Program

INPUT = -1


@dataclass(frozen=True, eq=False)
class Parts:
    """The kernels of a model: what each does and what it reads.

    Attributes:
        places: name of an operation -> index of the kernel it is part of, as in `NamedKernels`.
        names: a name for each kernel, by its index.
        work: floating-point operations of each kernel, and its bytes to break ties.
        sources: the kernels whose results each kernel reads, in the order it reads them; `INPUT` for what none makes.
    """

    places: Mapping[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    work: tuple[tuple[float, float], ...] = ()
    sources: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of_program(cls, program: Program) -> Parts:
        """The kernels of a traced program, sized as in the dense model."""
        slots = kernel_slots(program)
        viewed = storage(program)
        makers = {name: place for place, slot in enumerate(slots) for name in slot.outputs}
        return cls(
            {name: place for place, slot in enumerate(slots) for name in (slot.name, *slot.operations)},
            tuple(slot.name for slot in slots),
            tuple((float(slot.flops({})), float(slot.bytes({}))) for slot in slots),
            tuple(tuple(makers.get(viewed.get(name, name), INPUT) for name in slot.inputs) for slot in slots),
        )

    @classmethod
    def of_onnx(cls, graph: GraphProto) -> Parts:
        """The nodes of an ONNX graph that have names, each a kernel; nothing is known of their work."""
        nodes = [node for node in graph.node if node.name]
        makers = {name: place for place, node in enumerate(nodes) for name in node.output}
        return cls(
            {node.name: place for place, node in enumerate(nodes)},
            tuple(node.name for node in nodes),
            ((0.0, 0.0),) * len(nodes),
            tuple(tuple(makers.get(name, INPUT) for name in node.input) for node in nodes),
        )

    @cached_property
    def followers(self) -> tuple[frozenset[int], ...]:
        """The kernels that read, directly or through others, what each kernel makes."""
        found: list[set[int]] = [set() for _ in self.names]
        for place in reversed(range(len(self.names))):  # readers come after what they read
            for source in set(self.sources[place]) - {INPUT}:
                found[source] |= {place, *found[place]}
        return tuple(map(frozenset, found))

"""Which models a kit holds, and the order in which they are run. Pure: nothing is written or timed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autoprune.core.errors import InputError
from autoprune.graph.kernel import Kernel
from autoprune.hardware import edges, quantum
from autoprune.hardware.cost import Graph
from autoprune.hardware.kit.manifest import SENTINEL, KitProtocol
from autoprune.hardware.plan import PlannedKernel
from autoprune.hardware.profiling.target import Target

EVERY = 12  # models between two readings of the sentinel
EMPTY = Kernel("x0:(1,1);y0:(1,1)=relu.default(x0)", ())


@dataclass(frozen=True)
class KitSettings:
    """What a kit is to hold, and how it is run.

    Attributes:
        runtime: whose tool runs it.
        threads, batch, precision: how.
        kernels: at most so many, coarse grids first; None for all that the plan has.
        whole_models: pruned models that the composition is fitted on.
        quantum: width multiple that the plan goes by; the kit itself measures the device's.
        protocol: how often what is run.
        python: interpreter at the far end, for tools that are Python.
    """

    runtime: str = "onnxruntime"
    threads: int = 1
    batch: int = 1
    precision: str = "float32"
    kernels: int | None = 600
    whole_models: int = 16
    quantum: int = 8
    protocol: KitProtocol = field(default_factory=KitProtocol)
    python: str = "python3"


@dataclass(frozen=True, eq=False)
class PlannedModel:
    """A model of a kit before it is written; fields as of `KitModel`."""

    id: str
    role: str
    kernel: Kernel | None = None
    operator: str = ""
    target: int | None = None
    widths: tuple[int, ...] = ()
    detail: int = 0


@dataclass(frozen=True, eq=False)
class KitPlan:
    """Models of a kit.

    Attributes:
        models: what to write.
        planned: kernels that the plan has in all.
    """

    models: tuple[PlannedModel, ...]
    planned: int


def plan_kit(graph: Graph, widths: Mapping[str, Sequence[int]] | None, settings: KitSettings) -> KitPlan:
    """The models of a kit for one model.

    Args:
        graph: the traced model.
        widths: allowed widths by group; without, eight even steps of every group.
        settings: how much of it.

    Raises:
        InputError: a model without operations, or widths that do not fit its groups.
    """
    model = Target.of(graph, widths)
    planned = model.planned(settings.batch, settings.quantum)
    if not planned:
        raise InputError("kit: expected a model with at least one operation, got none to time.")
    kept = planned if settings.kernels is None else planned[: max(settings.kernels, 1)]
    models = [
        PlannedModel(f"k{index:05d}", "kernel", item.kernel, item.operator, detail=item.detail)
        for index, item in enumerate(kept)
    ]
    models.append(PlannedModel(SENTINEL, "sentinel", _middling(kept).kernel))
    models += _machine_models(settings.batch)
    models += [
        PlannedModel(f"w{index:03d}", "whole", target=0, widths=row)
        for index, row in enumerate(model.policies(settings.whole_models, settings.protocol.seed))
    ]
    return KitPlan(tuple(models), len(planned))


def _middling(planned: Sequence[PlannedKernel]) -> PlannedKernel:
    """A kernel of middling work."""
    work = sorted(planned, key=lambda item: (np.prod(item.kernel.sizes), item.kernel.key))
    return work[len(work) // 2]


def _machine_models(batch: int) -> list[PlannedModel]:
    """What the device itself is measured by: an empty run, its quantum, what convolutions pay at their edges."""
    models = [PlannedModel("empty", "empty", EMPTY)]
    family = quantum.FAMILY.format(n=batch)
    models += [PlannedModel(f"q{width:03d}", "probe", Kernel(family, (32, width))) for width in quantum.PROBED]
    for (width, side), (name, text) in itertools.product(edge_sizes(), (("one", edges.ONE), ("two", edges.TWO))):
        kernel = Kernel(text.format(n=batch, s=side), (width,))
        models.append(PlannedModel(edge_id(name, width, side), "edge", kernel))
    return models


def edge_sizes() -> list[tuple[int, int]]:
    """(channels, side) of the convolutions that edges are measured by."""
    return list(itertools.product(edges.WIDTHS, edges.SIDES))


def edge_id(name: str, width: int, side: int) -> str:
    """Id of one ("one") convolution, or of two ("two") in a row."""
    return f"{name}-{width}-{side}"


def run_order(models: Sequence[PlannedModel], sessions: int, seed: int) -> list[tuple[str, str]]:
    """(log, model id) in the order they are run: the sentinel between all others, every session in a new order.

    The first session goes from coarse grids to fine, whole models spread over it, so that a kit that is cut off has
    what matters most.
    """
    random = np.random.default_rng(seed)
    others = [model for model in models if model.role != "sentinel"]
    order: list[tuple[str, str]] = []
    for session in range(sessions):
        keys = random.permutation(len(others))
        ranked = sorted(zip(_ranks(others) if session == 0 else [0.0] * len(others), keys, strict=True))
        place = {int(key): index for index, key in enumerate(keys)}
        ids = [others[place[int(key)]].id for _, key in ranked]
        order.append((f"s{session}-{SENTINEL}-000", SENTINEL))
        for reading, first in enumerate(range(0, len(ids), EVERY), start=1):
            order += [(f"s{session}-{model}", model) for model in ids[first : first + EVERY]]
            order.append((f"s{session}-{SENTINEL}-{reading:03d}", SENTINEL))
    return order


def _ranks(models: Sequence[PlannedModel]) -> list[float]:
    """How early a model is wanted: the machine's first, kernels by detail, whole models between them."""
    deepest = max((model.detail for model in models), default=0) + 1
    whole = [model.id for model in models if model.role == "whole"]
    spread = {name: deepest * (index + 1) / (len(whole) + 1) for index, name in enumerate(whole)}
    return [
        spread[model.id] if model.role == "whole" else float(model.detail) if model.role == "kernel" else -1.0
        for model in models
    ]

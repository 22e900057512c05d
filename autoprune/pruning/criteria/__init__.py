"""Criteria: which units of a group are worth keeping.

A criterion is a class without arguments that implements `Criterion`; others are added under the entry-point group
`autoprune.criteria`. Built in:

| name | a unit is worth | needs data | source |
|---|---|---|---|
| `obs` (default) | what is lost if it goes and the others make up for it as well as they can | yes | Hassibi & Stork 1993; Kurtic et al. 2022 |
| `l1`, `l2` | the weight of its filters | no | Li et al. 2017 |
| `bn_scale` | the scales of its batch norms | no | Liu et al. 2017 |
| `fpgm` | how far its filters are from the others' | no | He et al. 2019 |
| `activation` | the energy of its activations | yes | Molchanov et al. 2017 |
| `taylor` | weight x gradient, squared | yes | Molchanov et al. 2019 |
| `fisher` | activation x gradient, squared a sample | yes | Theis et al. 2018; Liu et al. 2021 |
| `random` | a throw of the dice | no | |
"""  # noqa: E501 (a table)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from torch import Tensor

from autoprune.core.registry import Registry
from autoprune.graph import DependencyGroup
from autoprune.graph.dimension import Indices
from autoprune.pruning.obs import LeastSquares

Need: TypeAlias = Literal["consumers", "activation", "taylor", "fisher"]
"""What takes calibration data to know: `Evidence.consumers`, or an entry of `Evidence.measured`."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion may look at for one group.

    Attributes:
        state: parameters and buffers of the dense model by state-dict name; not to be written to.
        consumers: what reads the group as regressions on calibration data: convolutions, linear layers, matrix
            products with a parameter, and query-key products of two activations. A consumer that cannot be re-fitted
            (a tied weight, an input too wide) has the diagonal of its Gram matrix only. Empty where nothing of this
            kind reads the group; there for criteria that need them, maybe for others.
        seed: for criteria that draw; the same for every group.
        batch_norms: state-dict names of the scales of batch norms.
        measured: of the statistics that the criterion needs, a number a unit; the more, the more it matters. One is
            missing where nothing that it is measured at carries the group.  # each (size,) float64
    """

    state: Mapping[str, Tensor]
    consumers: tuple[LeastSquares, ...]
    seed: int
    batch_norms: frozenset[str] = frozenset()
    measured: Mapping[Need, Tensor] = field(default_factory=dict)


class Criterion(Protocol):
    """Orders the units of a group."""

    @property
    def needs(self) -> frozenset[Need]:
        """What must be measured for it; where there is anything, calibration batches must be given."""

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices | None:
        """Unit indices, most worth keeping first: a permutation, the same for the same arguments.  # (size,) int64

        None where the criterion has nothing to go by: the group is then ordered by `l2`, and `Pruner.notes` says so. A
        model of whose groups it has nothing to say at all is refused.
        """


criteria: Registry[type[Criterion]] = Registry(
    "criterion",
    "autoprune.criteria",
    {
        "obs": "autoprune.pruning.criteria.obs:OBS",
        "l1": "autoprune.pruning.criteria.magnitude:L1",
        "l2": "autoprune.pruning.criteria.magnitude:L2",
        "bn_scale": "autoprune.pruning.criteria.batch_norm:BatchNormScale",
        "fpgm": "autoprune.pruning.criteria.median:FPGM",
        "activation": "autoprune.pruning.criteria.measured:Activation",
        "taylor": "autoprune.pruning.criteria.measured:Taylor",
        "fisher": "autoprune.pruning.criteria.measured:Fisher",
        "random": "autoprune.pruning.criteria.random:Random",
    },
)

__all__ = ["Criterion", "Evidence", "Need", "criteria"]

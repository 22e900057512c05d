"""Criteria: which units of a group are worth keeping.

A criterion is a class without arguments that implements `Criterion`; others are added under the entry-point group
`autoprune.criteria`. Built in: `obs` (default), `l1`, `l2`, `random`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from autoprune.core.registry import Registry
from autoprune.graph import DependencyGroup
from autoprune.graph.dimension import Indices
from autoprune.pruning.obs import LeastSquares


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion may look at for one group.

    Attributes:
        state: parameters and buffers of the dense model by state-dict name; not to be written to.
        consumers: what reads the group as regressions on calibration data: convolutions, linear layers, matrix
            products with a parameter, and query-key products of two activations. A consumer that cannot be re-fitted
            (a tied weight, an input too wide) has the diagonal of its Gram matrix only. Empty without calibration, or
            where nothing of this kind reads the group.
        seed: for criteria that draw; the same for every group.
    """

    state: Mapping[str, Tensor]
    consumers: tuple[LeastSquares, ...]
    seed: int


class Criterion(Protocol):
    """Orders the units of a group."""

    @property
    def needs_calibration(self) -> bool:
        """Whether calibration batches must be given."""

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        """Unit indices, most worth keeping first: a permutation, the same for the same arguments.  # (size,) int64"""


criteria: Registry[type[Criterion]] = Registry(
    "criterion",
    "autoprune.criteria",
    {
        "obs": "autoprune.pruning.criteria.obs:OBS",
        "l1": "autoprune.pruning.criteria.magnitude:L1",
        "l2": "autoprune.pruning.criteria.magnitude:L2",
        "random": "autoprune.pruning.criteria.random:Random",
    },
)

__all__ = ["Criterion", "Evidence", "criteria"]

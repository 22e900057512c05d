"""What whole models say of their kernels: how much longer or shorter each family takes inside them.

The time of a model is a sum over its kernels, so the times of many pruned models say something of every family even
where no profiler looks inside. `inside / predicted - 1` is taken as a Gaussian process: a part shared by an operator
class, a part of the family's own, and a part that varies smoothly with the widths. A model's time is linear in it, so
the posterior is closed (Rasmussen and Williams 2006, eq. 2.25, for sums of the process).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.hardware.analytical import matern
from autoprune.hardware.fit import Floats
from autoprune.hardware.interpolation import Integers

CLASS, FAMILY, SMOOTH = 0.2, 0.2, 0.15  # standard deviations of the three parts
SCALE = 2.0  # of the smooth part, in the logarithm of a width
NOISE = 0.02  # of a model's time
LEAST, MOST = 0.5, 2.0  # no factor is beyond these


@dataclass(frozen=True, eq=False)
class Part:
    """One kernel of a model under several policies.

    Attributes:
        family, operator: which.
        sizes: (n, d)
        times_us: predicted; 0 where it does not run.  # (n,)
    """

    family: str
    operator: str
    sizes: Integers
    times_us: Floats


@dataclass(frozen=True, eq=False)
class _Entries:
    """All that is known of one family: which model, at which widths, for how long."""

    operator: str
    models: Integers  # (m,)
    logs: Floats  # (m, d)
    times_us: Floats  # (m,)


class Correction:
    """Corrections of families, conditioned on whole models.

    Args:
        targets: for each profiled model, its parts; policies are numbered through over all models.
        times_us: measured, less what is no kernel's.  # (n,)
        scale_us: measured; noise is relative to it.  # (n,)
    """

    def __init__(self, targets: Sequence[Sequence[Part]], times_us: Floats, scale_us: Floats) -> None:
        self._families = _entries(targets)
        count = len(times_us)
        covariance: Floats = np.diag((NOISE * scale_us) ** 2)
        self._sums: dict[str, Floats] = {}
        classes: dict[str, Floats] = {}
        for name, own in self._families.items():
            total: Floats = np.bincount(own.models, own.times_us, count).astype(np.float64)
            self._sums[name] = total
            classes[own.operator] = classes.get(own.operator, np.zeros(count)) + total
            weights = np.zeros((count, len(own.models)))
            weights[own.models, np.arange(len(own.models))] = own.times_us
            covariance += FAMILY**2 * np.outer(total, total)
            covariance += SMOOTH**2 * weights @ matern(own.logs / SCALE, own.logs / SCALE) @ weights.T
        for together in classes.values():
            covariance += CLASS**2 * np.outer(together, together)
        known = sum(self._sums.values(), np.zeros(count))
        self._alpha = np.linalg.solve(covariance, times_us - known)
        self._shared = {name: CLASS**2 * float(total @ self._alpha) for name, total in classes.items()}

    def factor(self, family: str, operator: str, sizes: Integers) -> Floats:
        """What predicted times of a family are to be multiplied by.  # (m,)

        Args:
            family, operator: which; of families that no model holds only the class speaks.
            sizes: (m, d)
        """
        factors: Floats = np.full(len(sizes), 1.0 + self._shared.get(operator, 0.0))
        own = self._families.get(family)
        if own is not None:
            factors += FAMILY**2 * float(self._sums[family] @ self._alpha)
            weighted = own.times_us * self._alpha[own.models]
            factors += SMOOTH**2 * matern(_logs(sizes) / SCALE, own.logs / SCALE) @ weighted
        return np.clip(factors, LEAST, MOST)


def _entries(targets: Sequence[Sequence[Part]]) -> dict[str, _Entries]:
    found: dict[str, list[tuple[Part, Integers]]] = {}
    first = 0
    for parts in targets:
        count = len(parts[0].times_us) if parts else 0
        models = np.arange(first, first + count)
        for part in parts:
            found.setdefault(part.family, []).append((part, models))
        first += count
    return {
        family: _Entries(
            own[0][0].operator,
            np.concatenate([models for _, models in own]),
            np.concatenate([_logs(part.sizes) for part, _ in own]),
            np.concatenate([part.times_us for part, _ in own]),
        )
        for family, own in found.items()
    }


def _logs(sizes: Integers) -> Floats:
    logs: Floats = np.log(np.maximum(sizes, 1))
    return logs

"""What each width of a group costs, from calibration data alone: damage without an evaluation.

How the damage of a group grows as units go is told by its consumers: with the columns of a regression in the order they
are kept and `G = L L^T`, what the best fit from the first k columns leaves of the output `W x` has the energy
`sum_{j >= k} |(W L)_j|^2`, as column j of L is what the columns before it do not tell. One factorisation gives the
error at every width. Such errors rank the widths of a layer well, and layers once they are scaled (SPDY, Frantar &
Alistarh 2022, section 4; ZipLM, Kurtic et al. 2023, section 3.2). What the whole of a group is worth is its Fisher
information (`gradients.py`): what the outputs would change by, squared, to first order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.graph.dimension import Indices
from autoprune.pruning.obs import ROWS, LeastSquares, column_ranks

Floats: TypeAlias = npt.NDArray[np.float64]


def reconstruction_errors(problems: Sequence[LeastSquares], order: Indices) -> Floats:
    """Share of its consumers' output energy that is lost with a group's first units kept and the weights re-fitted.

    Args:
        problems: the group's consumers.
        order: units, the ones to keep longest first.  # (size,) int64

    Returns:
        By units kept, none to all: lost shares, summed over consumers; never rising.  # (size + 1,)
    """
    total = np.zeros(len(order) + 1)
    for problem in problems:
        energies, whole = _lost(problem, order)
        if whole > 0.0:
            total[:-1] += np.cumsum(energies[::-1])[::-1] / whole
    return total


def predicted_damage(errors: Mapping[str, Floats], fisher: Mapping[str, Tensor]) -> dict[str, Floats]:
    """The errors of each group scaled so that its narrowest width costs what the group is worth.

    Args:
        errors: group -> `reconstruction_errors`.  # (size + 1,)
        fisher: group -> a number a unit; groups without one are scaled as the others are on average.  # (size,)

    Returns:
        Group -> damage by units kept.  # (size + 1,)
    """
    told = {group: float(fisher[group].sum()) / error[0] for group, error in errors.items()
            if group in fisher and error[0] > 0.0}  # fmt: skip
    usual = float(np.median(list(told.values()))) if told else 1.0
    return {group: told.get(group, usual) * error for group, error in errors.items()}


def _lost(problem: LeastSquares, order: Indices) -> tuple[Floats, float]:
    """What goes with each unit, in order, once all behind it are gone; and the energy of the whole output.

    Returns:
        Energies.  # (size,)
        Their sum, and that of columns of no unit.
    """
    ranks = column_ranks(problem.units, order)
    sequence = torch.from_numpy(np.argsort(ranks, kind="stable"))
    energies = _energies(problem, sequence).numpy()
    found = np.zeros(len(order) + 1)
    np.add.at(found, 1 + ranks[sequence.numpy()], energies)
    return found[1:], float(energies.sum())


def _energies(problem: LeastSquares, sequence: Tensor) -> Tensor:
    """Energy of the outputs that each column adds to those before it.  # (columns,)"""
    whole = problem.gram.dim() == 3
    gram = problem.gram[:, sequence[:, None], sequence] if whole else problem.gram[:, sequence]
    factor = torch.linalg.cholesky(gram) if whole else gram.sqrt()[:, None, :]
    energies = torch.zeros(len(sequence), dtype=torch.float64)
    for rows in torch.split(problem.rows[:, :, sequence], ROWS, dim=1):
        scaled = rows.double() @ factor if whole else rows.double() * factor
        energies += scaled.square().sum(dim=(0, 1))
    return energies

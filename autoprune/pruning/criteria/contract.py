"""The contract of criteria, for those built in and for those that other packages add.

from autoprune.pruning.criteria.contract import check_criterion

def test_mine():
    check_criterion(MyCriterion)
"""

from __future__ import annotations

from typing import get_args

import torch

from autoprune.graph import DependencyGroup, Member
from autoprune.graph.dimension import Width
from autoprune.pruning.criteria import Criterion, Evidence, Need
from autoprune.pruning.obs import LeastSquares

_SIZE = 9


def check_criterion(kind: type[Criterion]) -> None:
    """Raise AssertionError, saying what, where a criterion breaks its contract.

    It orders a group of nine channels with all evidence there is and (unless it needs calibration) with the weights
    alone: a permutation each time, the same for the same evidence, the evidence left as it was. With the weights alone
    it may have nothing to say.
    """
    group, evidence = _sample()
    bare = Evidence(evidence.state, (), evidence.seed)
    unknown = set(kind().needs) - set(get_args(Need))
    if unknown:
        raise AssertionError(f"{kind.__name__}: expected needs among {get_args(Need)}, got {sorted(unknown)}.")
    for given in (evidence,) if kind().needs else (evidence, bare):
        before = [tensor.clone() for tensor in _tensors(given)]
        order = kind().order(group, given)
        if order is None and given is bare:
            continue
        if order is None or sorted(order.tolist()) != list(range(_SIZE)):
            raise AssertionError(f"{kind.__name__}: expected each of 0..{_SIZE - 1} once, got {order}.")
        again = kind().order(group, given)
        if again is None or order.tolist() != again.tolist():
            raise AssertionError(f"{kind.__name__}: expected the same order twice, got {order} and {again}.")
        if not all(torch.equal(a, b) for a, b in zip(before, _tensors(given), strict=True)):
            raise AssertionError(f"{kind.__name__}: expected to only read the evidence, but a tensor changed.")


def _sample() -> tuple[DependencyGroup, Evidence]:
    generator = torch.Generator().manual_seed(0)
    width = Width("conv", _SIZE)
    members = (
        Member("conv.weight", 0, width, "producer"),
        Member("conv.bias", 0, width, "producer"),
        Member("norm.weight", 0, width, "producer"),
        Member("next.weight", 1, width, "consumer"),
    )
    state = {
        "conv.weight": torch.randn(_SIZE, 3, 3, 3, generator=generator),
        "conv.bias": torch.randn(_SIZE, generator=generator),
        "norm.weight": torch.randn(_SIZE, generator=generator),
        "next.weight": torch.randn(5, _SIZE, 1, 1, generator=generator),
    }
    x = torch.randn(40, _SIZE, generator=generator, dtype=torch.float64)
    rows = state["next.weight"].double().reshape(1, 5, _SIZE)
    regression = LeastSquares((x.T @ x / 40)[None], rows, torch.arange(_SIZE).numpy())
    names: tuple[Need, ...] = get_args(Need)
    measured = {name: torch.rand(_SIZE, generator=generator, dtype=torch.float64) for name in names}
    evidence = Evidence(state, (regression,), 7, frozenset({"norm.weight"}), measured)
    return DependencyGroup("conv", _SIZE, "channel", members), evidence


def _tensors(evidence: Evidence) -> list[torch.Tensor]:
    regressions = (tensor for problem in evidence.consumers for tensor in (problem.gram, problem.rows))
    return [*evidence.state.values(), *evidence.measured.values(), *regressions]

"""Every registered criterion keeps the contract, and the contract catches those that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGroup, Member
from autoprune.graph.dimension import Concatenation, Constant, Indices, Product, Width
from autoprune.pruning.criteria import Criterion, Evidence, Need, criteria
from autoprune.pruning.criteria.contract import check_criterion
from autoprune.pruning.criteria.magnitude import L1, L2
from autoprune.pruning.criteria.obs import OBS


@pytest.mark.parametrize("name", criteria.names())
def test_contract(name: str) -> None:
    check_criterion(criteria.get(name))


class _Short:
    needs: frozenset[Need] = frozenset()

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        return np.arange(group.size - 1)


class _Moody:
    needs: frozenset[Need] = frozenset()
    _calls = 0

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        _Moody._calls += 1
        return np.roll(np.arange(group.size), _Moody._calls)


class _Greedy:
    needs = frozenset({"hessian"})

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        return np.arange(group.size)


class _Silent:
    needs: frozenset[Need] = frozenset({"taylor"})

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices | None:
        return None


class _Vandal:
    needs: frozenset[Need] = frozenset()

    def order(self, group: DependencyGroup, evidence: Evidence) -> Indices:
        for tensor in evidence.state.values():
            tensor.zero_()
        return np.arange(group.size)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Short, r"each of 0\.\.8 once"),
        (_Moody, "same order twice"),
        (_Vandal, "only read"),
        (_Silent, r"each of 0\.\.8 once, got None"),
        (_Greedy, r"needs among \('consumers', 'activation', 'taylor', 'fisher'\), got \['hessian'\]"),
    ],
)
def test_contract_catches(kind: type[Criterion], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_criterion(kind)


def test_unknown_names_list_the_known() -> None:
    known = "activation, bn_scale, fisher, fpgm, l1, l2, obs, random, taylor"
    with pytest.raises(InputError, match=f"unknown criterion 'tailor'. Did you mean 'taylor'\\? Known: {known}"):
        criteria.get("tailor")


def test_magnitude_counts_every_producer_and_every_copy_of_a_unit() -> None:
    width = Width("g", 3)
    repeated = Product((width, Constant(2)))
    beside = Concatenation((Constant(1), width))
    members = (
        Member("a", 0, width, "producer"),
        Member("b", 0, repeated, "producer"),
        Member("c", 1, beside, "producer"),
        Member("next", 1, width, "consumer"),
    )
    state = {
        "a": torch.tensor([[1.0, -1.0], [0.0, 3.0], [0.0, 0.0]]),
        "b": torch.tensor([[0.0], [0.0], [0.0], [0.0], [-2.0], [2.0]]),
        "c": torch.tensor([[100.0, 0.5, 0.0, 0.0]]),
        "next": torch.full((1, 3), 50.0),
    }
    group, evidence = DependencyGroup("g", 3, "channel", members), Evidence(state, (), 0)
    assert L1().order(group, evidence).tolist() == [2, 1, 0]  # 2.5, 3, 4
    assert L2().order(group, evidence).tolist() == [1, 2, 0]  # 2.25, 9, 8


def test_magnitude_without_matrices_looks_at_vectors() -> None:
    group = DependencyGroup("g", 3, "channel", (Member("scale", 0, Width("g", 3), "producer"),))
    evidence = Evidence({"scale": torch.tensor([0.1, -3.0, 2.0])}, (), 0)
    assert L1().order(group, evidence).tolist() == [1, 2, 0]
    assert OBS().order(group, evidence).tolist() == [1, 2, 0]  # no consumer: by L2

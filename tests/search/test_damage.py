"""Damage curves: the plan, monotone interpolation against closed forms, prediction on a real network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.graph import DependencyGraph, SparsityPolicy
from autoprune.pareto.correlation import spearman_rho
from autoprune.search.damage import (
    DamageCurves,
    damage_curves,
    damage_plan,
    interpolate_monotone,
    isotonic_decreasing,
)
from autoprune.search.evaluation import Evaluator
from autoprune.search.space import SearchSpace
from tests.search.models import SPACE, small_graph, small_pruner, small_task


@pytest.fixture(scope="module")
def graph() -> DependencyGraph:
    return small_graph()


@pytest.fixture(scope="module")
def space(graph: DependencyGraph) -> SearchSpace:
    return SearchSpace.load({"rules": [{"match": "*"}]}, graph)


def quadratic(policies: Sequence[SparsityPolicy]) -> list[float | Failure]:
    """A loss that is a sum over groups: 1 + (1 - share kept)^2 each."""
    dense = {"stem": 8, "block1.conv1": 16, "block2.conv1": 12}
    return [0.5 + sum((1.0 - policy[g] / size) ** 2 for g, size in dense.items()) for policy in policies]


def test_plan_cuts_one_variable_at_a_time(space: SearchSpace) -> None:
    plan = damage_plan(space, points=4)
    assert plan[0] == space.dense
    assert len(plan) == 1 + 3 * 4 == len(set(plan))
    for choice in plan[1:]:
        assert sum(level != top for level, top in zip(choice, space.dense, strict=True)) == 1
    assert {choice[1] for choice in plan[1:]} == {0, 3, 7, 11, 15}
    assert len(damage_plan(space, points=100)) == 1 + 7 + 15 + 11
    with pytest.raises(InputError, match="at least 1 width"):
        damage_plan(space, points=0)


def test_curves_recover_an_additive_loss(space: SearchSpace) -> None:
    curves = damage_curves(space, quadratic, points=5)
    assert curves.dense_loss == 0.5
    rng = np.random.default_rng(0)
    choices = [space.random(rng) for _ in range(100)]
    true = np.array([float(loss) - 0.5 for loss in quadratic([space.policy(c) for c in choices]) if loss])  # type: ignore[arg-type]
    np.testing.assert_allclose(curves.predict(choices), true, atol=0.03)
    assert spearman_rho(curves.predict(choices).tolist(), true.tolist()) > 0.995


def test_curves_never_rise_with_width_and_end_at_zero(space: SearchSpace) -> None:
    rng = np.random.default_rng(1)

    def noisy(policies: Sequence[SparsityPolicy]) -> list[float | Failure]:
        return [float(loss) + rng.normal(0, 0.2) for loss in quadratic(policies)]  # type: ignore[arg-type]

    for table in damage_curves(space, noisy).tables:
        assert table[-1] == 0.0
        assert (np.diff(table) <= 1e-12).all()
        assert (table >= 0.0).all()


def test_failed_cuts_count_as_worse_than_any_other(space: SearchSpace) -> None:
    def breaks(policies: Sequence[SparsityPolicy]) -> list[float | Failure]:
        losses = quadratic(policies)
        return [
            Failure("not finite", "loss is nan") if policy["stem"] == 1 else loss
            for policy, loss in zip(policies, losses, strict=True)
        ]

    curves = damage_curves(space, breaks)
    assert curves.tables[0][0] > max(curves.tables[1][0], curves.tables[2][0])


def test_dense_model_that_fails_is_an_error(space: SearchSpace) -> None:
    with pytest.raises(AutopruneError, match="the dense model cannot be evaluated: ValueError: no"):
        damage_curves(space, lambda policies: [Failure("ValueError", "no")] * len(policies))
    with pytest.raises(AutopruneError, match="expected 7 losses, got 1"):
        damage_curves(space, lambda policies: [0.0])


def test_data_round_trip(space: SearchSpace, graph: DependencyGraph) -> None:
    curves = damage_curves(space, quadratic)
    again = DamageCurves.from_data(curves.to_data(), space)
    for one, two in zip(curves.tables, again.tables, strict=True):
        np.testing.assert_array_equal(one, two)
    assert (again.names, again.measured, again.dense_loss) == (curves.names, curves.measured, curves.dense_loss)
    with pytest.raises(InputError, match="expected those of this search space"):
        DamageCurves.from_data(curves.to_data(), SearchSpace.load(SPACE, graph))
    with pytest.raises(InputError, match="expected dense_loss and curves"):
        DamageCurves.from_data({"curves": [{"name": "stem"}]}, space)


def test_prediction_ranks_a_real_network(graph: DependencyGraph) -> None:
    torch.set_num_threads(1)
    space = SearchSpace.load({"rules": [{"match": "*", "multiple": 2}]}, graph)
    evaluator = Evaluator(small_pruner(graph), small_task())
    curves = damage_curves(space, lambda policies: [evaluator.loss(policy) for policy in policies], points=3)
    rng = np.random.default_rng(0)
    choices = [space.random(rng) for _ in range(25)]
    losses = [evaluator.loss(space.policy(choice)) for choice in choices]
    assert all(isinstance(loss, float) for loss in losses)
    assert np.isfinite(spearman_rho(curves.predict(choices).tolist(), np.array(losses, dtype=np.float64).tolist()))


def test_interpolation_is_exact_at_the_points_and_on_lines() -> None:
    x = np.array([0.0, 0.2, 0.7, 1.0])
    np.testing.assert_allclose(interpolate_monotone(x, 3 - 2 * x, np.linspace(0, 1, 11)), 3 - 2 * np.linspace(0, 1, 11))
    y = np.array([5.0, 1.0, 0.9, 0.0])
    np.testing.assert_allclose(interpolate_monotone(x, y, x), y)
    np.testing.assert_allclose(interpolate_monotone(x[:2], y[:2], np.array([0.1])), [3.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_interpolation_of_falling_data_falls(values: list[float]) -> None:
    y = np.sort(np.array(values))[::-1]
    x = np.arange(len(y), dtype=np.float64)
    filled = interpolate_monotone(x, y, np.linspace(0, len(y) - 1, 101))
    assert (np.diff(filled) <= 1e-9).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6))
def test_isotonic_regression_is_the_nearest(values: list[float]) -> None:
    y = np.array(values)
    fitted = isotonic_decreasing(y)
    assert (np.diff(fitted) <= 1e-9).all()
    assert fitted.sum() == pytest.approx(y.sum(), abs=1e-9)
    rng = np.random.default_rng(0)
    others = np.sort(rng.uniform(-10, 10, (200, len(y))), axis=1)[:, ::-1]
    assert ((others - y) ** 2).sum(axis=1).min() >= ((fitted - y) ** 2).sum() - 1e-9

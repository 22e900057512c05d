"""The eliminations and reconstructions against brute-force least squares."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.pruning.obs import (
    LeastSquares,
    complement,
    damped,
    damping_for,
    elimination_order,
    prefix_reconstruction,
    reconstruction,
)

Problem = tuple[LeastSquares, np.ndarray, np.ndarray]


def make_problem(seed: int, columns: int, rows: int, units: np.ndarray, blocks: int = 1) -> Problem:
    """A regression with correlated inputs: itself, x (blocks, samples, columns) and W (blocks, rows, columns)."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(blocks, columns, columns)) + np.eye(columns)
    x = generator.normal(size=(blocks, 60, columns)) @ mixing
    weight = generator.normal(size=(blocks, rows, columns))
    gram = torch.from_numpy(x.swapaxes(1, 2) @ x / 60)
    return LeastSquares(gram, torch.from_numpy(weight), units), x, weight


def lstsq_error(problem: Problem, removed_units: set[int]) -> float:
    """Share of the output energy that the best fit without these units misses, by numpy's lstsq."""
    regression, x, weight = problem
    keep = ~np.isin(regression.units, list(removed_units))
    missed = energy = 0.0
    for block in range(x.shape[0]):
        y = x[block] @ weight[block].T
        fit = np.linalg.lstsq(x[block][:, keep], y, rcond=None)[0]
        missed += float(((y - x[block][:, keep] @ fit) ** 2).sum())
        energy += float((y**2).sum())
    return missed / energy


def brute_force_order(problems: list[Problem], size: int) -> list[int]:
    removed: list[int] = []
    while len(removed) < size - 1:
        left = [unit for unit in range(size) if unit not in removed]
        errors = [sum(lstsq_error(p, {*removed, unit}) for p in problems) for unit in left]
        removed.append(left[int(np.argmin(errors))])
    last = [unit for unit in range(size) if unit not in removed]
    return last + removed[::-1]


@pytest.mark.parametrize("seed", range(5))
def test_order_is_the_greedy_least_squares_order(seed: int) -> None:
    problem = make_problem(seed, columns=7, rows=4, units=np.arange(7))
    assert elimination_order([problem[0]], 7).tolist() == brute_force_order([problem], 7)


@pytest.mark.parametrize("seed", range(3))
def test_order_with_several_consumers_units_of_several_columns_and_foreign_columns(seed: int) -> None:
    interleaved = make_problem(seed, columns=10, rows=3, units=np.array([0, 1, 2, 3, -1, 0, 1, 2, 3, -1]))
    grouped = make_problem(seed + 100, columns=4, rows=5, units=np.array([2, 0, 3, 1]), blocks=3)
    problems = [interleaved, grouped]
    assert elimination_order([p[0] for p in problems], 4).tolist() == brute_force_order(problems, 4)


def test_order_of_many_units_between_columns_that_stay() -> None:
    units = np.random.default_rng(5).permutation(np.concatenate([np.repeat(np.arange(12), 2), np.full(6, -1)]))
    problem = make_problem(5, columns=30, rows=4, units=units)
    assert elimination_order([problem[0]], 12).tolist() == brute_force_order([problem], 12)


@pytest.mark.parametrize("seed", range(3))
def test_pools_keep_the_greedy_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eliminated three at a time from a pool: hardly any loss, and the first to go are those of plain elimination."""
    problems = [make_problem(seed + place, columns=24, rows=4, units=np.arange(24)) for place in (0, 50)]
    plain = elimination_order([p[0] for p in problems], 24)
    monkeypatch.setattr("autoprune.pruning.obs.POOL_UNITS", 4)
    monkeypatch.setattr("autoprune.pruning.obs.POOL_COLUMNS", 1)
    pooled = elimination_order([p[0] for p in problems], 24)
    assert pooled[-4:].tolist() == plain[-4:].tolist()
    for width in (6, 12, 18):
        errors = [sum(lstsq_error(p, set(order[width:].tolist())) for p in problems) for order in (pooled, plain)]
        assert errors[0] <= 1.1 * errors[1]


def test_consumers_of_one_input_are_eliminated_together() -> None:
    one, two = (make_problem(7, columns=9, rows=rows, units=np.arange(9))[0] for rows in (3, 5))
    shared = LeastSquares(one.gram, two.rows, two.units)
    apart = LeastSquares(one.gram.clone(), two.rows, two.units)
    assert elimination_order([one, shared], 9).tolist() == elimination_order([one, apart], 9).tolist()


def test_energies_order_what_is_not_refitted() -> None:
    gram = torch.tensor([[1.0, 4.0, 1.0, 1.0]], dtype=torch.float64)
    rows = torch.tensor([[[1.0, 1.0, 3.0, 1.5]]])
    assert elimination_order([LeastSquares(gram, rows, np.arange(4))], 4).tolist() == [2, 1, 3, 0]


def test_the_scale_of_a_consumer_does_not_matter() -> None:
    one, two = (make_problem(seed, columns=6, rows=3, units=np.arange(6))[0] for seed in (1, 2))
    louder = LeastSquares(two.gram * 1e4, two.rows * 1e3, two.units)
    assert elimination_order([one, two], 6).tolist() == elimination_order([one, louder], 6).tolist()


def test_copies_and_dead_units_go_first() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(100, 5))
    x[:, 3] = x[:, 1]
    x[:, 4] = 0.0
    gram = damped(torch.from_numpy(x.T @ x / 100)[None], damping=1e-8)
    order = elimination_order([LeastSquares(gram, torch.ones(1, 2, 5, dtype=torch.float64), np.arange(5))], 5)
    assert set(order[-2:].tolist()) in ({3, 4}, {1, 4})
    assert len({1, 3} & set(order[:3].tolist())) == 1


def test_a_consumer_without_signal_has_no_say() -> None:
    problem = make_problem(3, columns=5, rows=2, units=np.arange(5))[0]
    silent = LeastSquares(problem.gram, torch.zeros_like(problem.rows), problem.units)
    assert elimination_order([problem, silent], 5).tolist() == elimination_order([problem], 5).tolist()


def test_greedy_is_close_to_the_best_subset() -> None:
    problem = make_problem(11, columns=8, rows=4, units=np.arange(8))
    gone = set(elimination_order([problem[0]], 8)[4:].tolist())
    errors = [lstsq_error(problem, set(subset)) for subset in itertools.combinations(range(8), 4)]
    assert lstsq_error(problem, gone) <= float(np.quantile(errors, 0.1))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), columns=st.integers(2, 9), blocks=st.integers(1, 3), data=st.data())
def test_reconstruction_is_lstsq_and_prefixes_agree(seed: int, columns: int, blocks: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, columns - 1))
    regression, x, _ = make_problem(seed, columns, 1, np.arange(columns), blocks)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(columns))
    ascending = order[:kept].sort().values
    removed, matrix = reconstruction(regression.gram, ascending)
    assert removed.tolist() == complement(ascending, columns).tolist()
    for block in range(blocks):
        fit = np.linalg.lstsq(x[block][:, ascending.numpy()], x[block][:, removed.numpy()], rcond=None)[0]
        np.testing.assert_allclose(matrix[block].numpy(), fit.T, rtol=1e-5, atol=1e-6)

    factor = torch.linalg.cholesky(regression.gram[:, order[:, None], order])
    prefix = prefix_reconstruction(factor, kept)[:, :, torch.argsort(order[:kept])]
    torch.testing.assert_close(prefix[:, torch.argsort(order[kept:])], matrix, rtol=1e-6, atol=1e-7)


def test_damping_grows_as_samples_get_few() -> None:
    assert [damping_for(100, samples) for samples in (10, 1000, 10**7)] == [1.0, 0.1, 1e-3]


def test_shrinkage_generalises_where_samples_are_few() -> None:
    """Columns as many as samples: without shrinkage the fit to the samples is exact and worthless."""
    columns, samples = 80, 90
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    mixing = torch.linalg.qr(noise).Q * torch.arange(1, columns + 1) ** -0.25
    x, unseen = (torch.randn(n, columns, generator=generator, dtype=torch.float64) @ mixing.T for n in (samples, 2000))
    rows = torch.randn(1, 5, columns, generator=generator, dtype=torch.float64)

    def lost(damping: float) -> float:
        gram = damped((x.T @ x / samples)[None], damping)
        order = elimination_order([LeastSquares(gram, rows, np.arange(columns))], columns)
        kept = torch.from_numpy(np.sort(order[:40]))
        removed, matrix = reconstruction(gram, kept)
        gap = (unseen[:, removed] - unseen[:, kept] @ matrix[0].T) @ rows[0][:, removed].T
        return float(gap.square().sum() / (unseen @ rows[0].T).square().sum())

    assert lost(damping_for(columns, samples)) < 0.7 * lost(1e-6)


def test_damping_leaves_dense_and_dead_inputs_solvable() -> None:
    dead = damped(torch.zeros(2, 3, 3, dtype=torch.float64), 1e-3)
    assert torch.equal(dead, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))

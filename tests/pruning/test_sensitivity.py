"""Errors by width from one factorisation, against least squares width by width."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.pruning.obs import LeastSquares
from autoprune.pruning.sensitivity import reconstruction_errors
from tests.pruning.test_obs import lstsq_error, make_problem


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), blocks=st.integers(1, 2), size=st.integers(2, 5), each=st.integers(1, 2))
def test_every_width_is_the_error_of_the_best_fit(seed: int, blocks: int, size: int, each: int) -> None:
    rng = np.random.default_rng(seed)
    units = rng.permutation(np.r_[np.repeat(np.arange(size), each), [-1]])  # one column stays whatever goes
    problems = [make_problem(seed + place, len(units), 4, units, blocks) for place in range(2)]
    order = rng.permutation(size)
    found = reconstruction_errors([problem[0] for problem in problems], order)
    for kept in range(size + 1):
        expected = sum(lstsq_error(problem, set(order[kept:].tolist())) for problem in problems)
        assert found[kept] == pytest.approx(expected, abs=1e-8)
    assert found[size] == 0.0


def test_consumers_that_are_not_refitted_lose_what_goes() -> None:
    energy = torch.tensor([[4.0, 1.0, 2.0]], dtype=torch.float64)
    rows = torch.tensor([[[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]])
    problem = LeastSquares(energy, rows, np.array([0, 1, 2]))  # columns lose 4, 4 and 2 of 10
    np.testing.assert_allclose(reconstruction_errors([problem], np.array([2, 0, 1])), [1.0, 0.8, 0.4, 0.0])


def test_outputs_without_energy_cost_nothing() -> None:
    problem = LeastSquares(torch.eye(2, dtype=torch.float64)[None], torch.zeros(1, 3, 2), np.array([0, 1]))
    assert reconstruction_errors([problem], np.array([1, 0])).tolist() == [0.0, 0.0, 0.0]

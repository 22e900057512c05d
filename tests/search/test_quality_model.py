"""The corrected damage model: on landscapes where damage adds up, and where it does not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from autoprune.pareto.correlation import spearman_rho
from autoprune.search.quality_model import (
    DEFAULT_SCALES,
    LEAST_TRIALS,
    Damage,
    QualityModel,
    foretold,
    select_scales,
)
from tests.search.landscape import LandscapeProblem, landscape_problem

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def drawn(problem: LandscapeProblem, count: int, seed: int) -> tuple[Integers, Floats]:
    """Choices cut by shares that differ from one to the next, and their true errors."""
    rng = np.random.default_rng(seed)
    tops = np.array(problem.space.levels) - 1
    kept = rng.beta(2.0, 1.0, (count, 1)) + rng.normal(0.0, 0.2, (count, len(tops)))
    choices = np.clip(np.round(kept * tops), 0, tops).astype(np.int64)
    errors = [problem.landscape.error(problem.space.policy(tuple(map(int, choice)))) for choice in choices]
    return choices, np.array(errors)


def correlation(one: Floats, other: Floats) -> float:
    return spearman_rho(one.tolist(), other.tolist())


@pytest.mark.parametrize("coupling", [0.0, 0.6, 1.5])
def test_trials_correct_the_damage(coupling: float) -> None:
    gains = []
    for seed in range(3):
        problem = landscape_problem(12, seed=seed, coupling=coupling)
        damage = Damage(problem.space.levels, problem.curves().tables)
        seen, errors = drawn(problem, 80, seed)
        asked, true = drawn(problem, 200, seed + 100)
        model = QualityModel(damage, seen, errors, select_scales(damage, seen, errors))
        alone = correlation(damage.of(asked).sum(axis=1), true)
        corrected = correlation(model.predict(asked), true)
        assert corrected > 0.95
        gains.append(corrected - alone)
    assert np.mean(gains) > (0.0 if coupling else -0.005)


def test_quantiles_hold_what_is_true() -> None:
    """Of what is predicted to lie between two quantiles, about so much does."""
    problem = landscape_problem(12, seed=1)
    damage = Damage(problem.space.levels, problem.curves().tables)
    seen, errors = drawn(problem, 60, 1)
    asked, true = drawn(problem, 300, 2)
    model = QualityModel(damage, seen, errors, select_scales(damage, seen, errors))
    low, middle, high = model.quantiles(asked, np.array([-1.645, 0.0, 1.645])).T
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert 0.7 < ((low <= true) & (true <= high)).mean() <= 1.0
    np.testing.assert_allclose(model.predict(asked), middle)


def test_what_was_seen_is_predicted() -> None:
    problem = landscape_problem(6, seed=0)
    damage = Damage(problem.space.levels)
    seen, errors = drawn(problem, 40, 0)
    model = QualityModel(damage, seen, errors, select_scales(damage, seen, errors))
    np.testing.assert_allclose(model.predict(seen), errors, atol=0.05)


def test_few_trials_say_nothing_beyond_the_damage() -> None:
    damage = Damage((4, 4), ([3.0, 2.0, 1.0, 0.0], [1.0, 0.5, 0.2, 0.0]))
    choices = np.array([[3, 3], [0, 3], [3, 0]])
    model = QualityModel(damage, choices, [0.1, 0.5, 0.2])
    assert not model.informed
    np.testing.assert_allclose(model.predict(choices), damage.of(choices).sum(axis=1))
    assert model.tables() is damage.tables
    assert select_scales(damage, choices, [0.1, 0.5, 0.2]) == DEFAULT_SCALES
    constant = QualityModel(damage, np.zeros((9, 2), dtype=np.int64), np.ones(9))
    assert not constant.informed


def test_tables_follow_the_trials() -> None:
    """Curves say both variables are alike; trials say that the first matters ten times more."""
    cut = (1.0 - np.arange(8) / 7) ** 2
    damage = Damage((8, 8), (cut, cut))
    every = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2)
    model = QualityModel(damage, every, 10.0 * cut[every[:, 0]] + cut[every[:, 1]])
    first, second = model.tables()
    assert first[0] > 2.0 * second[0]
    assert (np.diff(first) < 0.0).all()
    assert first[-1] == second[-1] == 0.0


def test_metrics_of_any_sign() -> None:
    problem = landscape_problem(6, seed=2)
    damage = Damage(problem.space.levels, problem.curves().tables)
    seen, errors = drawn(problem, 50, 0)
    negative = QualityModel(damage, seen, errors - 1.0).predict(seen)  # as a metric of which more is better
    np.testing.assert_allclose(negative, QualityModel(damage, seen, errors).predict(seen) - 1.0, atol=1e-9)


def test_damage_is_never_free() -> None:
    damage = Damage((3, 1, 4), ([0.0, 0.0, 0.0], [0.0], [2.0, 1.0, 0.5, 0.0]))
    assert damage.tables[0][0] > damage.tables[0][1] > damage.tables[0][2] == 0.0
    assert damage.tables[1].tolist() == [0.0]
    assert damage.of([[0, 0, 3], [2, 0, 3]]).sum(axis=1).tolist() == pytest.approx([damage.tables[0][0], 0.0])
    assert [table.tolist() for table in Damage((1, 1)).tables] == [[0.0], [0.0]]


def test_foretold_is_told_before() -> None:
    problem = landscape_problem(10, seed=4, coupling=1.0)
    damage = Damage(problem.space.levels, problem.curves().tables)
    choices, errors = drawn(problem, 120, 3)
    found = foretold(damage, choices, errors)
    assert np.isnan(found[:16]).all()
    assert np.isfinite(found[16:]).all()
    later = errors.copy()
    later[64:] = 0.5
    np.testing.assert_array_equal(foretold(damage, choices, later)[:64], found[:64])
    assert correlation(found[48:], errors[48:]) > correlation(damage.of(choices[48:]).sum(axis=1), errors[48:])
    assert np.isnan(foretold(damage, choices[:LEAST_TRIALS], errors[:LEAST_TRIALS])).all()

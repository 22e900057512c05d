"""The scale of quality: with and without a cliff past which models only guess."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from autoprune.search.quality_link import RUINED, QualityLink, find_ruined, fitted
from autoprune.search.quality_model import Damage, QualityModel, select_scales

Floats = npt.NDArray[np.float64]


def metric(totals: Floats, cliff: float = 1.0) -> Floats:
    """0 where nothing is lost, 1 for guessing."""
    return np.asarray(1.0 - np.exp(-totals / cliff))


def test_a_plateau_is_ruined() -> None:
    totals = np.array([0.0, 0.5, 1.0, 4.0, 8.0, 30.0])
    measured = np.array([0.0, 0.4, 0.6, 0.97, 1.0, 0.99])
    assert find_ruined(measured, totals).tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize(
    ("measured", "totals"),
    [
        ([0.1, 0.2, 0.9, 0.91], [0.0, 1.0, 5.0, 50.0]),  # two are only bad
        ([0.1, 0.2, 0.30, 0.31, 0.31], [0.0, 1.0, 5.0, 6.0, 7.0]),  # as bad as each other for as much damage
        ([0.5, 0.5, 0.5], [1.0, 10.0, 100.0]),
        ([], []),
    ],
    ids=["few", "alike", "constant", "nothing"],
)
def test_what_is_only_bad_is_not(measured: list[float], totals: list[float]) -> None:
    assert not find_ruined(np.array(measured), np.array(totals)).any()


@pytest.mark.parametrize("cliff", [True, False])
def test_targets_are_values_again(cliff: bool) -> None:
    totals = np.geomspace(0.01, 100.0, 30)
    measured = 0.1 + 0.8 * metric(totals)
    ruined = find_ruined(measured, totals) if cliff else np.zeros(30, dtype=np.bool_)
    link = QualityLink.of(measured, totals, ruined)
    assert (link.reach is not None) == cliff
    inside = ~link.ruined
    np.testing.assert_allclose(link.values(link.target)[inside], measured[inside], atol=1e-12)
    assert (np.diff(link.values(np.linspace(0.0, 60.0, 50))) >= 0.0).all()
    if cliff:
        limit = 0.1 + RUINED * np.ptp(measured)
        np.testing.assert_allclose(link.values(link.target)[link.ruined], limit, atol=0.01)
        assert link.values(np.array([60.0, 1e9])).tolist() == [measured.max()] * 2


def test_with_nothing_but_ruined_trials_the_cliff_may_be_anywhere_before_them() -> None:
    """The dense policy and guesses: what was damaged less is expected to be better, and nobody knows how much."""
    damage = Damage((1001,), (1.0 - np.arange(1001) / 1000,))
    seen = np.array([[1000], [600], [300], [0]])  # damage 0, .4, .7, 1
    model = QualityModel(damage, seen, [0.0, 1.0, 0.99, 1.0])
    low, middle, high = model.quantiles([[990], [900], [600], [100]], np.array([-1.28, 0.0, 1.28])).T
    assert middle[0] < middle[1] < middle[2]
    assert high[1] - low[1] > 0.3
    assert middle[3] > 0.95
    assert low[3] > 0.8


def test_past_the_cliff_nothing_is_promised() -> None:
    """However many ruined trials there are, and however far they lie, they do not hide the slope before the cliff."""
    rng = np.random.default_rng(0)
    tables = [weight * (1.0 - np.arange(20) / 19) ** 2 for weight in rng.lognormal(3.0, 1.0, 12)]
    damage = Damage((20,) * 12, tables)
    kept = np.concatenate([rng.integers(0, 15, (40, 12)), rng.integers(16, 20, (12, 12))])
    totals = sum(table[level] for table, level in zip(tables, kept.T, strict=True))
    measured = metric(totals, 10.0)
    assert find_ruined(measured, totals).sum() >= 35
    model = QualityModel(damage, kept, measured, select_scales(damage, kept, measured))
    near = rng.integers(15, 20, (100, 12))
    true = metric(sum(table[level] for table, level in zip(tables, near.T, strict=True)), 10.0)
    assert np.abs(model.predict(near) - true).mean() < 0.07
    far = rng.integers(0, 8, (100, 12))
    assert model.quantiles(far, np.array([-1.2816])).min() > 0.9


def test_limits_that_hold_anyway_say_nothing() -> None:
    """A trial known to be above 1 where 3 is expected changes little; one where 0 is expected is pulled up to 1."""
    kernel = np.array([[1.0, 0.9], [0.9, 1.0]])
    ruined = np.array([False, True])
    for known, expected in ((3.0, 2.7), (0.0, 0.9)):
        _, weights = fitted(kernel, np.array([known, 1.0]), ruined, 0.05)
        assert (kernel @ weights)[1] == pytest.approx(expected, abs=0.15)
        assert (kernel @ weights)[0] == pytest.approx(known, abs=0.1)


def test_without_limits_it_is_plain_regression() -> None:
    rng = np.random.default_rng(1)
    points = rng.random((8, 1))
    kernel = np.exp(-((points - points.T) ** 2))
    target = rng.random(8)
    whitening, weights = fitted(kernel, target, np.zeros(8, dtype=np.bool_), 0.1)
    inverse = np.linalg.inv(kernel + 0.01 * np.eye(8))
    np.testing.assert_allclose(weights, inverse @ target, atol=1e-8)
    np.testing.assert_allclose(whitening.T @ whitening, inverse, atol=1e-6)

"""Corrections against models whose kernels are known to be off by known factors."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.hardware.correction import MOST, Correction, Part

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
TRUE = {"a": 1.3, "b": 0.8, "c": 1.0}


def model(count: int, seed: int) -> list[Part]:
    """Three families; the times of each follow its own width."""
    random = np.random.default_rng(seed)
    found = []
    for place, family in enumerate(TRUE):
        sizes = random.integers(8, 200, (count, 1))
        times = ((place + 2.0) * sizes[:, 0]).astype(np.float64)
        found.append(Part(family, "conv" if family != "c" else "pool", sizes, times))
    return found


def total(parts: list[Part]) -> Floats:
    return sum((TRUE[part.family] * part.times_us for part in parts), np.zeros(len(parts[0].times_us)))


def test_sums_of_models_tell_families_apart() -> None:
    parts = model(60, seed=0)
    times = total(parts) * np.exp(np.random.default_rng(1).normal(0, 0.01, 60))
    correction = Correction([parts], times, times)
    unseen = model(40, seed=2)
    corrected = sum(p.times_us * correction.factor(p.family, p.operator, p.sizes) for p in unseen)
    plain = sum(p.times_us for p in unseen)
    expected = total(unseen)
    assert np.abs(corrected / expected - 1).mean() < 0.015
    assert np.abs(corrected / expected - 1).mean() < 0.3 * np.abs(plain / expected - 1).mean()
    for part in unseen:
        factor = correction.factor(part.family, part.operator, part.sizes)
        assert factor.mean() == pytest.approx(TRUE[part.family], rel=0.07)


def test_families_that_no_model_holds_follow_their_class() -> None:
    parts = [Part(name, "conv", p.sizes, p.times_us) for name, p in zip("ab", model(50, seed=3), strict=False)]
    times = 1.25 * sum((p.times_us for p in parts), np.zeros(50))
    correction = Correction([parts], times, times)
    same, other = (correction.factor("unseen", operator, np.array([[8]])) for operator in ("conv", "pool"))
    assert 1.05 < same[0] < 1.25
    assert other[0] == 1.0


def test_corrections_are_bounded() -> None:
    parts = model(20, seed=4)
    times = 50.0 * total(parts)
    correction = Correction([parts], times, times)
    for part in parts:
        assert (correction.factor(part.family, part.operator, part.sizes) <= MOST).all()


def test_models_of_several_targets_are_numbered_through() -> None:
    first, second = model(30, seed=5), model(25, seed=6)
    times = np.concatenate([total(first), total(second)])
    correction = Correction([first, second], times, times)
    for part in model(10, seed=7):
        factor = correction.factor(part.family, part.operator, part.sizes)
        assert factor.mean() == pytest.approx(TRUE[part.family], rel=0.07)

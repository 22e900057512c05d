"""Hypervolumes of a search that goes on, plateaus, and time budgets."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.pareto.hypervolume import hypervolume
from autoprune.search.progress import Plateau, TimeBudget, _Volume


def test_two_objectives_are_exact() -> None:
    seen = np.array([[1.0, 3.0], [2.0, 1.0]])
    assert _Volume(seen).of(seen) == pytest.approx(hypervolume(seen, [2.1, 3.2]))


def test_more_are_estimated_and_never_fall() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((60, 3))
    volume = _Volume(points[:20])
    reference = points[:20].max(axis=0) + 0.1 * np.ptp(points[:20], axis=0)
    found = [volume.of(points[:count]) for count in range(1, 61)]
    assert (np.diff(found) >= 0.0).all()
    assert found[-1] == pytest.approx(hypervolume(points, reference), rel=0.05)


def test_a_plateau_is_a_span_without_a_rise() -> None:
    plateau = Plateau(20)
    volumes = [(10, 1.0), (20, 1.1), (30, 1.1), (40, 1.1005)]
    assert [plateau.reached(*pair) for pair in volumes] == [False, False, False, True]
    rising = Plateau(20)
    assert not any(rising.reached(10 * i, 1.0 + 0.01 * i) for i in range(1, 50))
    assert not any(Plateau(None).reached(10 * i, 1.0) for i in range(50))
    unknown = Plateau(5)
    assert not any(unknown.reached(10 * i, None) for i in range(50))


def test_no_evaluation_is_started_that_would_end_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    budget = TimeBudget(10.0)
    for number in range(3):
        assert not budget.over
        budget.started(number)
        now[0] += 3.0
        budget.finished(number)
    assert now[0] == 109.0
    assert budget.over
    assert not TimeBudget(None).over

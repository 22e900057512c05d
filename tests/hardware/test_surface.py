"""Surfaces against times whose formula is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from autoprune.hardware.interpolation import ESTIMATED, INTERPOLATED, MEASURED
from autoprune.hardware.surface import FEWEST, Surface
from tests.hardware.samples import row

Sizes = npt.NDArray[np.int64]


def work(sizes: Sizes) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of a 3 x 3 convolution on 14 x 14 images."""
    inner, outer = sizes[:, 0].astype(float), sizes[:, 1].astype(float)
    return 2 * 196 * 9 * inner * outer, 4 * (196 * (inner + outer) + 9 * inner * outer)


def staircase_us(sizes: Sizes) -> npt.NDArray[np.float64]:
    """Whole blocks of 16 output channels are paid for; inner channels at a rate that changes slowly."""
    flops, bytes_ = work(np.stack([sizes[:, 0], -(-sizes[:, 1] // 16) * 16], axis=1))
    times: npt.NDArray[np.float64] = 3.0 + flops / (4e4 + 40.0 * sizes[:, 0]) + bytes_ / 2e4
    return times


def scattered(count: int, seed: int) -> Sizes:
    return np.unique(np.random.default_rng(seed).integers(16, 256, (count, 2)), axis=0)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_scattered_noisy_times_of_a_staircase_are_predicted(noise: float) -> None:
    random = np.random.default_rng(1)
    known, unseen = scattered(150, seed=2), scattered(100, seed=3)
    times = staircase_us(known) * np.exp(random.normal(0, noise, len(known)))
    surface = Surface(known, times, work(known), quantum=16)
    predicted, _ = surface.predict(unseen, *work(unseen))
    error = np.abs(predicted / staircase_us(unseen) - 1)
    assert error.mean() < 0.02 + noise / 2
    smooth, _ = Surface(known, times, work(known), quantum=1).predict(unseen, *work(unseen))
    assert error.mean() < np.abs(smooth / staircase_us(unseen) - 1).mean()


def test_how_times_are_known() -> None:
    known = scattered(60, seed=4)
    surface = Surface(known, staircase_us(known), work(known), quantum=16)
    inside = np.array([[100, 101]]) if [100, 101] not in known.tolist() else np.array([[101, 103]])
    asked = np.concatenate([known[:1], inside, [[512, 64]]]).astype(np.int64)
    times, kinds = surface.predict(asked, *work(asked))
    assert kinds.tolist() == [MEASURED, INTERPOLATED, ESTIMATED]
    assert times[0] == pytest.approx(staircase_us(known[:1])[0], rel=0.05)
    assert times[2] == pytest.approx(staircase_us(asked[2:])[0], rel=0.5)  # the roofline carries it


def test_too_few_kernels_make_no_surface() -> None:
    rows = [row("f", (width,), 1.0 + width) for width in range(1, FEWEST + 1)]
    assert Surface.of(rows[:-1], 16) is None
    assert Surface.of(rows, 16) is not None
    assert Surface.of([row("f", (), 1.0)] * FEWEST, 16) is None

"""Interpolation against closed forms."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.hardware.interpolation import ESTIMATED, INTERPOLATED, MEASURED, FamilyTable
from tests.hardware.samples import row


def table(sizes: Sequence[tuple[int, ...]], times: list[float]) -> FamilyTable:
    return FamilyTable(np.array(sizes, dtype=np.int64).reshape(len(sizes), -1), np.array(times))


def query(found: FamilyTable, *sizes: tuple[int, ...]) -> tuple[list[float], list[int]]:
    times, kinds = found.predict(np.array(sizes, dtype=np.int64))
    return [float(t) for t in times], [int(k) for k in kinds]


def test_one_width_is_piecewise_linear_and_never_extrapolated() -> None:
    found = table([(4,), (8,), (16,)], [10.0, 20.0, 24.0])
    times, kinds = query(found, (4,), (6,), (8,), (12,), (16,))
    assert times == [10.0, 15.0, 20.0, 22.0, 24.0]
    assert kinds == [MEASURED, INTERPOLATED, MEASURED, INTERPOLATED, MEASURED]
    times, kinds = query(found, (3,), (17,))
    assert np.isnan(times).all()
    assert kinds == [ESTIMATED, ESTIMATED]


@given(st.integers(1, 33), st.integers(1, 65))
def test_two_widths_give_back_a_bilinear_function(first: int, second: int) -> None:
    def formula(a: float, b: float) -> float:
        return 3 + 2 * a + 0.5 * b + 0.25 * a * b

    axes = [1, 8, 16, 33], [1, 20, 65]
    sizes = list(itertools.product(*axes))
    found = table(sizes, [formula(*size) for size in sizes])
    times, kinds = query(found, (first, second))
    assert times[0] == pytest.approx(formula(first, second))
    assert (kinds[0] == MEASURED) == (first in axes[0] and second in axes[1])


@given(st.lists(st.floats(1, 100), min_size=9, max_size=9), st.integers(1, 9), st.integers(1, 9))
def test_interpolated_times_stay_between_their_corners(times: list[float], first: int, second: int) -> None:
    sizes = list(itertools.product([1, 5, 9], repeat=2))
    predicted, _ = query(table(sizes, times), (first, second))
    near = [time for (a, b), time in zip(sizes, times, strict=True) if abs(a - first) <= 4 and abs(b - second) <= 4]
    assert min(near) - 1e-9 <= predicted[0] <= max(near) + 1e-9


def test_nodes_that_were_left_out_are_interpolated_not_measured() -> None:
    sizes = [size for size in itertools.product([0, 4, 8], repeat=2) if size != (4, 4)]
    found = table(sizes, [float(a + b) for a, b in sizes])
    times, kinds = query(found, (4, 4), (2, 4), (0, 4))
    assert times == [8.0, 6.0, 4.0]
    assert kinds == [INTERPOLATED, INTERPOLATED, MEASURED]


def test_cells_with_an_unreachable_corner_are_unknown() -> None:
    found = table([(4, 4), (8, 8)], [1.0, 2.0])
    times, kinds = query(found, (4, 4), (6, 6), (4, 8))
    assert times[0] == 1.0
    assert np.isnan(times[1:]).all()
    assert kinds == [MEASURED, ESTIMATED, ESTIMATED]


def test_families_without_widths_are_one_kernel() -> None:
    found = FamilyTable(np.zeros((1, 0), dtype=np.int64), np.array([7.0]))
    assert query(found, ())[0] == [7.0]
    assert found.nearest(np.zeros((3, 0), dtype=np.int64)).tolist() == [0, 0, 0]


def test_many_widths_are_looked_up_only() -> None:
    sizes = [tuple(int(b) for b in np.binary_repr(i, 7)) for i in range(6)]
    found = table(sizes, [float(i + 1) for i in range(6)])
    times, kinds = query(found, sizes[3], (1,) * 7)
    assert times[0] == 4.0
    assert kinds == [MEASURED, ESTIMATED]


def test_the_nearest_kernel_is_nearest_in_ratio() -> None:
    found = table([(4,), (16,), (64,)], [1.0, 2.0, 3.0])
    sizes: npt.NDArray[np.int64] = np.array([[7], [9], [100]], dtype=np.int64)
    assert found.nearest(sizes).tolist() == [0, 1, 2]


def test_table_of_rows_keeps_their_work() -> None:
    found = FamilyTable.of([row("f", (2,), 3.0, flops=10.0, bytes=20.0), row("f", (4,), 5.0, flops=30.0, bytes=40.0)])
    assert found.work is not None
    assert found.work[0].tolist() == [10.0, 30.0]
    assert query(found, (3,))[0] == [4.0]


def test_widths_within_a_step_cost_the_whole_step() -> None:
    found = table([(4,), (16,), (40,)], [1.0, 2.0, 3.0])
    sizes = np.array([[3], [15], [16], [17], [32], [33], [40], [41]], dtype=np.int64)
    assert found.within_step(sizes, 16).ravel().tolist() == [3, 15, 16, 32, 32, 40, 40, 41]
    assert found.within_step(sizes, 1).tolist() == sizes.tolist()

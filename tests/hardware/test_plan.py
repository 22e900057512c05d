"""Which kernels are timed and in which order, and the policies of whole models."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.graph.fusion import kernel_slots
from autoprune.hardware import plan
from autoprune.hardware.plan import aligned_widths, plan_kernels, sample_policies
from tests.hardware.samples import dense_of, graph_of


def test_plans_begin_with_the_ends_and_cover_the_grid() -> None:
    graph = graph_of("Residual")
    dense = dense_of("Residual")
    widths = {name: tuple(range(1, size + 1)) for name, size in dense.items()}
    planned = plan_kernels(kernel_slots(graph.program), widths, dense, 1)
    assert len({item.kernel for item in planned}) == len(planned)
    details = [item.detail for item in planned]
    assert details == sorted(details)
    for slot in kernel_slots(graph.program):
        for name, size in dense.items():
            for width in (1, size // 2, size):
                kernel = slot.kernel({**dense, name: width})
                assert any(item.kernel == kernel for item in planned), kernel


@pytest.mark.parametrize(
    ("dense", "quantum", "expected"),
    [(128, 16, (10, 16, 32, 48, 64, 80, 96, 112, 128)), (32, 16, (4, 8, 16, 24, 32)), (16, 16, (2, 4, 8, 12, 16)),
     (10, 16, (1, 2, 4, 6, 8, 10)), (3, 16, (1, 2, 3)), (20, 1, (3, 7, 20))],
)  # fmt: skip
def test_aligned_widths(dense: int, quantum: int, expected: tuple[int, ...]) -> None:
    given = (3, 7) if quantum == 1 else tuple(range(max(1, dense // 8) if dense != 128 else 10, dense + 1))
    assert aligned_widths(given, dense, quantum) == expected


def test_multiples_of_the_quantum_come_before_other_widths() -> None:
    graph = graph_of("Sequential")
    dense = dense_of("Sequential")
    widths = {name: tuple(range(1, size + 1)) for name, size in dense.items()}
    plain = plan_kernels(kernel_slots(graph.program), widths, dense, 1)
    aligned = plan_kernels(kernel_slots(graph.program), widths, dense, 1, quantum=4)
    assert {item.kernel for item in plain} == {item.kernel for item in aligned}
    linear = [item for item in aligned if item.operator == "linear" and len(item.kernel.sizes) == 2]
    first = next(i for i, item in enumerate(linear) if item.kernel.sizes[1] == 7)
    assert all(item.kernel.sizes[1] != 7 for item in linear[:first])


def test_many_groups_in_one_dimension_are_sampled() -> None:
    from autoprune.graph.dimension import Concatenation, Width

    whole = Concatenation(tuple(Width(f"g{i}", 8) for i in range(6)))
    dense = {f"g{i}": 8 for i in range(6)}
    sizes = plan._sizes(whole, dict.fromkeys(dense, (1, 2, 4, 8)), dense)
    assert {6, 48} <= sizes
    assert len(sizes) <= 8


def test_policies_for_whole_models_span_the_space_and_follow_the_seed() -> None:
    dense = dense_of("Residual")
    widths = {name: tuple(range(1, size + 1)) for name, size in dense.items()}
    policies = sample_policies(widths, dense, 12, seed=3)
    assert policies.shape == (12, len(dense))
    assert policies[0].tolist() == list(dense.values())
    assert (policies[1] == 1).all()
    assert (policies >= 1).all()
    np.testing.assert_array_equal(policies, sample_policies(widths, dense, 12, seed=3))
    assert not np.array_equal(policies, sample_policies(widths, dense, 12, seed=4))
    assert len(sample_policies(widths, dense, 0, seed=3)) == 0

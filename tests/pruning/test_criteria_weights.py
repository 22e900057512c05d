"""Criteria that look at weights alone: batch-norm scales, and distances to the geometric median."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGroup, Member, trace
from autoprune.graph.dimension import Concatenation, Constant, Product, Width
from autoprune.pruning import Pruner
from autoprune.pruning.criteria import Evidence, units
from autoprune.pruning.criteria.batch_norm import BatchNormScale
from autoprune.pruning.criteria.median import FPGM, median_distances
from autoprune.pruning.norms import batch_norm_scales
from tests.pruning.models import make
from tests.pruning.test_pruner import layer

WIDTH = Width("g", 4)


def group_of(*members: Member, size: int = 4) -> DependencyGroup:
    return DependencyGroup("g", size, "channel", members)


class TestBatchNormScale:
    def test_scales_are_summed_over_the_norms_of_a_stream(self) -> None:
        model, batches = make("residual")
        with torch.no_grad():
            layer(model, "stem.1").weight.copy_(torch.tensor([1.0, -4.0, 0.1, 0.2, 3.0, 0.0, 0.5, 0.6]))
            layer(model, "bn2").weight.copy_(torch.tensor([1.0, 0.5, -9.0, 0.2, 0.0, 0.0, 0.5, 0.7]))
            layer(model, "bn1").weight.copy_(torch.tensor([-3.0, 1.0, 2.0, 0.0, 6.0, -5.0]))
        pruner = Pruner(trace(model, batches[0]), "bn_scale")
        assert pruner.orders["stem.0"].order.tolist() == [2, 1, 4, 0, 7, 6, 3, 5]  # 9.1 4.5 3 2 1.3 1 .4 0
        assert pruner.orders["conv1"].order.tolist() == [4, 5, 0, 2, 1, 3]

    def test_groups_without_batch_norm_are_ordered_by_l2_and_named(self) -> None:
        model, batches = make("residual")
        graph = trace(model, batches[0])
        pruner = Pruner(graph, "bn_scale")
        assert pruner.notes == ("criterion 'bn_scale' has nothing to go by in 1 of 3 groups ('expand'): by l2 there.",)
        by_weight = Pruner(graph, "l2")
        assert by_weight.notes == ()
        assert pruner.orders["expand"].order.tolist() == by_weight.orders["expand"].order.tolist()

    def test_a_model_without_batch_norm_is_refused(self) -> None:
        model, batches = make("grouped")
        with pytest.raises(
            InputError, match=r"'bn_scale': expected at least one group .* got none of 3 .*'l2' without"
        ):
            Pruner(trace(model, batches[0]), "bn_scale")

    def test_a_model_without_groups_has_nothing_to_refuse(self) -> None:
        model = nn.Linear(3, 2).eval()
        assert Pruner(trace(model, torch.zeros(2, 3)), "bn_scale").orders == {}

    def test_norms_behind_a_concatenation_scale_their_own_stretch(self) -> None:
        member = Member("norm.weight", 0, Concatenation((Constant(2), WIDTH, Constant(1))), "producer")
        weight = torch.tensor([90.0, 90.0, 0.1, -0.4, 0.3, 0.2, 90.0])
        evidence = Evidence({"norm.weight": weight}, (), 0, frozenset({"norm.weight"}))
        order = BatchNormScale().order(group_of(member), evidence)
        assert order is not None
        assert order.tolist() == [1, 2, 3, 0]

    def test_only_batch_norms_with_a_scale_of_their_own_count(self) -> None:
        model = nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 6, 1), nn.GroupNorm(2, 6),
            nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 2),
        ).eval()  # fmt: skip
        graph = trace(model, torch.zeros(2, 3, 2, 2))
        assert batch_norm_scales(graph.program) == {"5.weight"}


class TestGeometricMedian:
    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10_000), size=st.integers(1, 9), repeats=st.integers(1, 3))
    def test_scores_are_sums_of_distances(self, seed: int, size: int, repeats: int) -> None:
        """Two producers, one of which holds each unit at several places between others'."""
        rng = np.random.default_rng(seed)
        width = Width("g", size)
        first, second = rng.normal(size=(size, 3, 2, 2)), rng.normal(size=(5, 2 + size * repeats))
        members = (
            Member("a", 0, width, "producer"),
            Member("b", 1, Concatenation((Constant(2), Product((width, Constant(repeats))))), "producer"),
            Member("bias", 0, width, "producer"),
            Member("next", 1, width, "consumer"),
        )
        state = {"a": torch.from_numpy(first), "b": torch.from_numpy(second)}
        state |= {"bias": torch.randn(size), "next": torch.randn(2, size)}
        filters = np.concatenate([first.reshape(size, -1), second[:, 2:].T.reshape(size, -1)], axis=1)
        expected = [sum(float(np.linalg.norm(one - other)) for other in filters) for one in filters]
        group, evidence = group_of(*members, size=size), Evidence(state, (), 0)
        np.testing.assert_allclose(median_distances(group, evidence), expected, rtol=1e-6, atol=1e-6)
        assert FPGM().order(group, evidence).tolist() == np.argsort(-np.round(expected, 5), kind="stable").tolist()

    def test_what_lies_in_the_middle_goes_first_however_large(self) -> None:
        """The median of four filters on a line far from the origin; by its weight it would stay longest but one."""
        weight = torch.tensor([[10.0, 0.0], [10.9, 0.0], [12.0, 0.0], [9.0, 0.0]])
        group = group_of(Member("w", 0, WIDTH, "producer"))
        order = FPGM().order(group, Evidence({"w": weight}, (), 0))
        assert order.tolist() == [2, 3, 0, 1]  # 6.1, 5.9, 3.9, 3.9: ties in the lower index

    def test_copies_go_before_what_is_unlike_all_others(self) -> None:
        torch.manual_seed(0)
        weight = torch.randn(4, 20)
        weight[2] = weight[0]
        group = group_of(Member("w", 0, WIDTH, "producer"))
        assert set(FPGM().order(group, Evidence({"w": weight}, (), 0))[2:].tolist()) == {0, 2}

    def test_many_filters_are_read_in_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        group, state = group_of(Member("w", 0, WIDTH, "producer")), {"w": torch.randn(4, 7, 3)}
        whole = median_distances(group, Evidence(state, (), 0))
        monkeypatch.setattr(units, "_CHUNK", 8)
        torch.testing.assert_close(median_distances(group, Evidence(state, (), 0)), whole)

    def test_without_matrices_scales_are_the_filters(self) -> None:
        state: dict[str, Tensor] = {"scale": torch.tensor([1.0, 5.0, 2.0, 3.0])}
        group = group_of(Member("scale", 0, WIDTH, "producer"))
        assert FPGM().order(group, Evidence(state, (), 0)).tolist() == [1, 0, 2, 3]  # 9, 7, 5, 5

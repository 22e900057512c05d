"""What kernels pay at their edges when they run alone."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.core.errors import Failure
from autoprune.hardware.edges import LEAST, Edges, fit_edges, probe_edges
from autoprune.hardware.measure import Protocol
from autoprune.hardware.runtimes import Runner, RunSettings
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.onnxruntime import OnnxRuntime

TINY = Protocol(sessions=1, minimum_runs=3, maximum_runs=3, warmup_runs=1, warmup_us=0.0, target_us=0.0)


def test_fit_recovers_half_of_what_two_in_a_row_save() -> None:
    bytes_ = np.array([1e3, 1e4, 1e5, 2e5])
    found = fit_edges(bytes_, 1.0 + 4e-5 * bytes_)
    assert found.constant_us == pytest.approx(0.5)
    assert found.us_per_byte == pytest.approx(2e-5)


def test_no_saving_is_no_edge() -> None:
    assert fit_edges(np.array([1e3, 1e5]), np.array([-0.5, -0.2])) == Edges(0.0, 0.0)


def test_only_convolutions_have_edges_and_some_time_is_left() -> None:
    edges = Edges(1.0, 1e-3)
    assert edges.inside_us("conv", 20.0, (1000, 2000)) == pytest.approx(20.0 - 2.0 - 3.0)
    assert edges.inside_us("linear", 20.0, (1000, 2000)) == 20.0
    assert edges.inside_us("conv", 2.0, (1000, 2000)) == pytest.approx(LEAST * 2.0)
    for operator in ("conv", "linear"):
        for alone in (0.5, 2.0, 6.0, 20.0):
            inside = edges.inside_us(operator, alone, (1000, 2000))
            assert edges.alone_us(operator, inside, (1000, 2000)) == pytest.approx(alone)


def test_probe_runs_and_a_refusal_is_no_edge() -> None:
    found = probe_edges(OnnxRuntime(), RunSettings(), 0.0, TINY, None)
    assert found.constant_us >= 0
    assert found.us_per_byte >= 0
    assert probe_edges(OnnxRuntime(), RunSettings(), 0.0, TINY, None, deadline=0.0) == Edges()  # no time for it

    class Refusing(OnnxRuntime):
        def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
            return Failure("compile", "no")

    assert probe_edges(Refusing(), RunSettings(), 0.0, TINY, None) == Edges()

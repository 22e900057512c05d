"""The alignment quantum: of staircases made up here, and probed for real."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.core.errors import Failure
from autoprune.hardware import quantum
from autoprune.hardware.measure import Protocol
from autoprune.hardware.quantum import CANDIDATES, PROBED, quantum_of
from autoprune.hardware.runtimes import Runner, RunSettings
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.onnxruntime import OnnxRuntime

TINY = Protocol(sessions=1, minimum_runs=3, maximum_runs=3, warmup_runs=1, warmup_us=0.0, target_us=0.0)


@pytest.mark.parametrize("step", [1, *CANDIDATES])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_quantum_of_a_staircase(step: int, noise: float) -> None:
    random = np.random.default_rng(step)
    widths = np.array(list(PROBED))
    times = (5.0 + 0.6 * np.ceil(widths / step) * step) * (1.0 + noise * random.standard_normal(len(widths)))
    found = quantum_of(widths.tolist(), times.tolist())
    assert found == step or (found == 1 and step <= 4 and noise > 0) or step <= 2 >= found  # small steps drown in noise


def test_quantum_of_flat_times_is_one() -> None:
    assert quantum_of(list(PROBED), [10.0] * len(PROBED)) == 1


class Refusing(OnnxRuntime):
    """A runtime that refuses everything, and counts what it was asked."""

    asked = 0

    def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
        self.asked += 1
        return Failure("compile", "no")


def test_the_probe_runs_and_a_refusal_is_no_quantum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantum, "PROTOCOL", TINY)
    assert quantum.alignment_quantum() in (1, *CANDIDATES)
    assert quantum.probe_quantum(Refusing(), RunSettings()) == 1


def test_a_probe_that_there_is_no_time_for_is_left_out() -> None:
    runtime = Refusing()
    assert quantum.probe_quantum(runtime, RunSettings(), deadline=0.0) == 1
    assert runtime.asked == 0

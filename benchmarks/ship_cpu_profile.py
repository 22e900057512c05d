"""Measure the CPU profile that ships: ResNet-20 on 28 x 28 images and the demo's network, ONNX Runtime, one thread.

    python benchmarks/ship_cpu_profile.py [--output hardware_profiles] [--budget 120] [--check]

Run it on a machine that does nothing else. `--check` then times models that the profile has not seen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it runs from a checkout

from autoprune.core.errors import Failure
from autoprune.demo import Network
from autoprune.graph import DependencyGraph, trace
from autoprune.hardware.latency import LatencyTable
from autoprune.hardware.measure import measure_models
from autoprune.hardware.profile import HardwareProfile
from autoprune.hardware.profiling import ProfileSettings, profile_graphs
from autoprune.hardware.quantum import alignment_quantum
from autoprune.search.space import SearchSpace
from benchmarks.data import ResNet20

NAME = "cpu-x86-onnxruntime-1t"
DESCRIPTION = "ResNet-20 and small residual and depthwise CNNs at 28 x 28, float32, one thread, batch 1."
CHECKED = 12  # unseen policies a model


def main() -> None:
    """Measure, save, and say how well the profile predicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("hardware_profiles"))
    parser.add_argument("--budget", type=float, default=None, help="seconds; without, every kernel is timed")
    parser.add_argument("--models", type=int, default=48, help="whole models for the composition")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    graphs = {"ResNet-20": trace(ResNet20().eval(), torch.zeros(1, 1, 28, 28)),
              "demo": trace(Network().eval(), torch.zeros(1, 1, 28, 28))}  # fmt: skip
    quantum = int(np.median([alignment_quantum() for _ in range(3)]))
    targets = [(graph, SearchSpace.load("cnn", graph, quantum=quantum).widths) for graph in graphs.values()]
    settings = ProfileSettings(
        budget_s=arguments.budget, whole_models=arguments.models, name=NAME, description=DESCRIPTION
    )
    profile = profile_graphs(targets, settings, progress)
    profile.save(arguments.output / NAME)
    header = profile.header
    print(f"\n{len(profile.kernels)} kernels, quantum {quantum}, drift {header.validation.sentinel_drift:.1%}, "
          f"{header.protocol.seconds:.0f} s")  # fmt: skip
    for percentile, composition in header.composition.items():
        residuals = header.validation.residuals[percentile]
        print(f"{percentile}: {composition.sum_factor:.3f} x sum + {composition.constant_us:.1f} us "
              f"+ {composition.kernel_us:.2f} us a kernel; left out {residuals.mean_absolute:.1%} off "
              f"({residuals.low:+.1%} to {residuals.high:+.1%})")  # fmt: skip
    if arguments.check:
        for name, graph in graphs.items():
            check(name, graph, profile)


def progress(stage: str, done: int, total: int) -> None:
    """One line, rewritten."""
    print(f"\r{stage} {done}/{total}   ", end="", file=sys.stderr, flush=True)


def check(name: str, graph: DependencyGraph, profile: HardwareProfile) -> None:
    """Predicted against measured for policies of the search space that were not used for the fit."""
    random = np.random.default_rng(99)
    space = SearchSpace.load("cnn", graph, quantum=profile.alignment_quantum).widths
    columns = [random.choice(list(space[group]), CHECKED) for group in graph.groups]
    widths = np.stack(columns, axis=1).astype(np.int64)
    widths[0] = [group.size for group in graph.groups.values()]
    modules = [graph.module(dict(zip(graph.groups, map(int, row), strict=True))) for row in widths]
    measured = measure_models(modules)
    predicted = LatencyTable(profile, graph).latency_us(widths)
    for percentile in ("p50", "p95"):
        pairs = [
            (float(predicted[percentile][i]), found.us(percentile))
            for i, found in enumerate(measured)
            if not isinstance(found, Failure)
        ]
        ratios = np.array([p / m - 1.0 for p, m in pairs])
        relative = np.array([(p / pairs[0][0]) / (m / pairs[0][1]) - 1.0 for p, m in pairs])
        print(f"{name} {percentile}: mean error {np.abs(ratios).mean():.1%} (bias {ratios.mean():+.1%}), "
              f"of the speed-up over dense {np.abs(relative[1:]).mean():.1%}; "
              f"dense {pairs[0][0]:.0f} predicted, {pairs[0][1]:.0f} us measured")  # fmt: skip


if __name__ == "__main__":
    main()

"""PyTorch, eager: the traced module's operations one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from autoprune.core.errors import Failure
from autoprune.graph.program import Operation, Program
from autoprune.graph.run import INTEGER, concrete, fill, resolve_target
from autoprune.hardware.profile import RuntimeInfo
from autoprune.hardware.runtimes import Floats, Runner, RunSettings
from autoprune.hardware.runtimes.model import Model
from autoprune.hardware.runtimes.nodes import Node, by_operation, in_turn, without_overhead
from autoprune.hardware.runtimes.torch_runner import Prepared, prepare, runner, threads_of

NAME = "pytorch"
WARM_RUNS = 10  # before the runs that are profiled


class PyTorch:
    """The traced module in inference mode; on CUDA devices as a CUDA graph, timed by events (not run there yet)."""

    def describe(self, settings: RunSettings) -> RuntimeInfo:
        """Name, version and flags."""
        flags = {
            "mode": "inference",
            "threads": str(settings.threads),
            "onednn": str(torch.backends.mkldnn.is_available()).lower(),
            "cuda_graph": str(settings.device == "cuda").lower(),
            **settings.flags(),
        }
        return RuntimeInfo(name=NAME, version=str(torch.__version__), flags=flags)

    def compile(self, model: Model, settings: RunSettings) -> Runner | Failure:
        """The module, run once."""
        prepared = prepare(NAME, model, settings)
        return prepared if isinstance(prepared, Failure) else runner(NAME, prepared, lambda ready: ready.module)

    def node_us(self, model: Model, settings: RunSettings, runs: int) -> Mapping[str, Floats] | Failure:
        """The operations timed one by one, scaled to add up to a run in which nothing is timed between them."""
        if settings.device != "cpu":
            return Failure("unsupported", f"{NAME}: operations are timed one by one on the cpu, not on the gpu")
        prepared = prepare(NAME, model, settings)
        if isinstance(prepared, Failure):
            return prepared
        plain = runner(NAME, prepared, lambda ready: ready.module)
        if isinstance(plain, Failure):
            return plain
        stepwise = _Stepwise(prepared)
        whole_us = float(np.median(in_turn(stepwise, plain, WARM_RUNS, runs)))
        operations = prepared.module.program.operations
        times = np.array(stepwise.times_us[-runs:])  # (runs, n_operations)
        reported = {operation.name: times[:, place] for place, operation in enumerate(operations)}
        nodes = _nodes(prepared.module.program)
        return by_operation(without_overhead(reported, whole_us), nodes, model.parts, whole_us)


class _Stepwise:
    """A program run with the clock read around every operation.

    Attributes:
        times_us: of each run, the time of every operation.
    """

    def __init__(self, prepared: Prepared) -> None:
        program, widths = prepared.module.program, prepared.module.widths
        self._settings = prepared.settings
        self._program = program
        self._given = {
            **prepared.module.state_dict(),
            **dict(zip(program.inputs, prepared.inputs, strict=True)),
        }
        self._calls = [
            (_function(operation), concrete(operation.args, widths), concrete(tuple(operation.kwargs), widths))
            for operation in program.operations
        ]
        self.times_us: list[Floats] = []

    def run_us(self, count: int) -> Floats:
        """Run `count` times; the sum of the operations' times in each.  # (count,)"""
        with torch.inference_mode(), threads_of(self._settings):
            for _ in range(count):
                self._run()
        return np.array([times.sum() for times in self.times_us[-count:]], dtype=np.float64)

    def _run(self) -> None:
        values, clock = dict(self._given), time.perf_counter_ns
        marks = [clock()]
        for operation, last, (call, args, kwargs) in zip(
            self._program.operations, self._program.last_reads, self._calls, strict=True
        ):
            result = call(*fill(args, values), **{name: fill(value, values) for name, value in kwargs})
            if len(operation.results) == 1:
                values[operation.name] = result
            else:
                values.update(zip(operation.results, result, strict=False))
            for name in last:
                values.pop(name, None)
            marks.append(clock())
        self.times_us.append(np.diff(np.array(marks, dtype=np.int64)).astype(np.float64) / 1e3)


def _function(operation: Operation) -> Callable[..., Any]:
    return INTEGER.get(operation.target) or resolve_target(operation.target)


def _nodes(program: Program) -> list[Node]:
    """Every operation a node of its own name."""
    return [Node(one.name, (one.name,), one.refs(), one.results) for one in program.operations]

"""Timing whole pruned models: from end to end against each other, and node by node inside."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.core.errors import Failure, InputError
from autoprune.graph.fusion import kernel_slots
from autoprune.hardware.cost import weight_bytes
from autoprune.hardware.measure import SLOW_WARMUP, Guarded, Measurement, time_guarded
from autoprune.hardware.observation import Observation
from autoprune.hardware.profiling.bench import (
    Bench,
    Block,
    Limits,
    Pace,
    measurement_data,
    take_block,
)
from autoprune.hardware.profiling.records import FailedModel, ModelsLine, TimedModel, lines
from autoprune.hardware.profiling.target import Target
from autoprune.hardware.runtimes import Floats, Runner
from autoprune.hardware.runtimes.model import Model

LIMITS = Limits(count=16, bytes=384e6, seconds=20.0)  # of models that are compiled at once; bytes of weights
NODE_RUNS, SLOW_NODE_RUNS = 25, 12  # of the runtime's own profiler; the fewer ones for slow models
FEWEST = 4  # models of the first block, whatever the deadline: fewer say nothing of errors
END_TO_END = 0.6  # of a block's time; the rest is for the models' nodes


@dataclass(frozen=True)
class Policy:
    """One whole model to time: which target, and its widths."""

    target: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class ModelTimes:
    """What came of the whole models.

    Attributes:
        timed: from end to end as the clock says, and the median time of its nodes at the sentinel's reference, by the
            index of the kernel; None where the runtime does not tell.
        failed: with the reason.
    """

    timed: list[tuple[Policy, Measurement, dict[int, float] | None]]
    failed: list[tuple[Policy, str]]

    def observations(self, correction: float) -> list[Observation]:
        """As calibration reads them: pace and nodes' times relative to the sentinel's typical time."""
        return [
            Observation(
                policy.target,
                policy.widths,
                replace(measured, pace=measured.pace / correction),
                None if nodes is None else {index: correction * time_us for index, time_us in nodes.items()},
            )
            for policy, measured, nodes in self.timed
        ]


def planned_policies(targets: Sequence[Target], count: int, seed: int) -> list[Policy]:
    """The whole models to time, evenly over the targets: dense and smallest ones first, the rest shuffled."""
    first: list[Policy] = []
    rest: list[Policy] = []
    for index, target in enumerate(targets):
        share = count // len(targets) + (index < count % len(targets))
        own = [Policy(index, widths) for widths in target.policies(share, seed)]
        first += own[:2]
        rest += own[2:]
    order = np.random.default_rng(seed).permutation(len(rest))
    return [*first, *(rest[place] for place in order)]


def time_models(
    bench: Bench, targets: Sequence[Target], policies: Sequence[Policy], deadline: float | None
) -> ModelTimes:
    """Times of whole models, until all are done or the deadline has passed; one block is timed whatever it says."""
    found = restored(bench, targets, frozenset(policies))
    done = {policy for policy, *_ in (*found.timed, *found.failed)}
    queue = deque(policy for policy in policies if policy not in done)
    pace, stage = Pace(deadline, len(done)), _Stage(bench, targets)
    while queue:
        admitted = pace.count(len(queue))
        if not admitted:
            break
        stage.done = len(found.timed) + len(found.failed)
        stage.total = stage.done + admitted
        pace.add(stage.block(queue, found, min(admitted, LIMITS.count), deadline))
    count = len(found.timed) + len(found.failed)
    if policies:
        bench.report("models", count, count)
    return found


class _Stage:
    """Blocks of whole models."""

    def __init__(self, bench: Bench, targets: Sequence[Target]) -> None:
        self._bench = bench
        self._targets = targets
        self._places = [
            {name: index for index, slot in enumerate(kernel_slots(target.graph.program)) for name in slot.operations}
            for target in targets
        ]
        self._models: dict[Policy, Model] = {}  # of the block: what a runtime makes of one may serve twice
        self._nodes = True  # until the runtime says that it has no such profile
        self.done = self.total = 0

    def block(self, queue: deque[Policy], found: ModelTimes, most: int, deadline: float | None) -> int:
        """Time the next block and put it into the journal; how many models it had."""
        bench = self._bench
        self._tell(0, 1, 0)
        block = self._compiled(queue, most, deadline)
        share = END_TO_END * min(1.0, len(block) / max(self.total - self.done, 1))
        now = time.perf_counter()
        times = self._end_to_end(block, None if deadline is None else now + share * max(deadline - now, 0.0))
        policies = [policy for policy, _ in block.compiled]
        block.compiled.clear()  # their memory is wanted for what follows
        measured = [(policy, own) for policy, own in zip(policies, times, strict=True) if isinstance(own, Measurement)]
        lost = [(policy, own) for policy, own in zip(policies, times, strict=True) if isinstance(own, Failure)]
        timed = [(policy, own, self._node_us(policy, own)) for policy, own in measured]
        failed = [(policy, str(failure)) for policy, failure in (*block.refused, *lost)]
        self._models.clear()
        bench.keep(
            "models",
            timed=[{**vars(policy), "measured": measurement_data(own), "nodes": nodes} for policy, own, nodes in timed],
            failed=[{**vars(policy), "why": why} for policy, why in failed],
        )
        found.timed.extend(timed)
        found.failed.extend(failed)
        return len(timed) + len(failed)

    def _compiled(self, queue: deque[Policy], most: int, deadline: float | None) -> Block[Policy]:
        """The next block: no more models than there is time for, going by the first one."""

        def compiled(policy: Policy) -> Runner | Failure:
            return self._bench.compile(self._model(policy))

        start = time.perf_counter()
        block = take_block(queue, compiled, self._bytes, replace(LIMITS, count=1))
        if deadline is not None and block.compiled:
            compile_s = (time.perf_counter() - start) / len(block)
            [(_, runner)] = block.compiled
            each_s = compile_s + self._least_s(float(Guarded(runner).run_us(2)[-1]), compile_s)
            fewest = 1 if self.done else FEWEST
            most = max(fewest, min(most, int((deadline - time.perf_counter()) / each_s)))
        if most > 1:
            rest = take_block(queue, compiled, self._bytes, replace(LIMITS, count=most - 1))
            block.compiled.extend(rest.compiled)
            block.refused.extend(rest.refused)
        return block

    def _least_s(self, one_us: float, compile_s: float) -> float:
        """What one more model takes once it is compiled: two sessions, and its nodes with and without a profile."""
        rules = self._bench.settings.model_protocol
        sessions = min(rules.sessions, 2) * (SLOW_WARMUP + rules.runs(one_us))
        nodes = 2 * (SLOW_WARMUP + self._node_runs(one_us)) if self._nodes else 0
        return (sessions + nodes) * one_us / 1e6 + (2 * compile_s if self._nodes else 0.0)

    def _node_runs(self, one_us: float) -> int:
        return SLOW_NODE_RUNS if one_us > self._bench.settings.model_protocol.slow_us else NODE_RUNS

    def _end_to_end(self, block: Block[Policy], deadline: float | None) -> list[Measurement | Failure]:
        runners: list[Runner] = [runner for _, runner in block.compiled]
        number = len(self._bench.journal.of_kind("models"))
        rules = self._bench.settings.model_protocol
        protocol = replace(rules, seed=self._bench.settings.seed + number)
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1
            self._tell(steps, rules.sessions * len(runners), len(block))

        return time_guarded(runners, protocol, step, self._bench.sentinel, deadline, scaled=False)

    def _tell(self, steps: int, of: int, models: int) -> None:
        self._bench.report("models", self.done + int(END_TO_END * models * steps / of), self.total)

    def _model(self, policy: Policy) -> Model:
        if policy not in self._models:
            target = self._targets[policy.target]
            self._models[policy] = Model.of_program(target.graph.program, target.named(policy.widths))
        return self._models[policy]

    def _bytes(self, policy: Policy) -> float:
        target = self._targets[policy.target]
        return float(weight_bytes(target.graph.program, target.named(policy.widths)))

    def _node_us(self, policy: Policy, measured: Measurement) -> dict[int, float] | None:
        """Median time of every kernel inside the model, at the sentinel's reference."""
        if not self._nodes:
            return None
        bench = self._bench
        pace, runs = 1.0, self._node_runs(measured.p50_us)

        def profiled() -> Mapping[str, Floats] | Failure:
            try:
                return bench.runtime.node_us(self._model(policy), bench.settings.run, runs)
            except Exception as error:  # its own profiler, or the run under it
                return Failure("run", f"failed while it was profiled: {type(error).__name__}: {error}")

        if bench.sentinel is None:
            nodes = profiled()
        else:
            nodes, pace, _ = bench.sentinel.beside(profiled)
        if isinstance(nodes, Failure):
            self._nodes = nodes.kind != "unsupported"
            return None
        return {index: time_us / pace for index, time_us in _medians(nodes, self._places[policy.target]).items()}


def _medians(nodes: Mapping[str, Floats], places: Mapping[str, int]) -> dict[int, float]:
    """Kernel -> median over the runs of the sum of its operations' times."""
    sums: dict[int, Floats] = {}
    for name, times in nodes.items():
        if name in places:
            index = places[name]
            sums[index] = sums[index] + times if index in sums else times
    return {index: float(np.median(times)) for index, times in sorted(sums.items())}


def restored(bench: Bench, targets: Sequence[Target], planned: frozenset[Policy]) -> ModelTimes:
    """What the journal has.

    Raises:
        InputError: a line that does not fit the plan.
    """
    counts = [len(kernel_slots(target.graph.program)) for target in targets]
    found = ModelTimes([], [])
    left = set(planned)
    for line in lines(bench.journal, ModelsLine):
        for policy in (*map(_policy, line.timed), *map(_policy, line.failed)):
            if policy not in left:
                raise InputError(
                    f"{bench.journal.place}: expected whole models of this plan, each once, got another. Remove the "
                    "file to begin anew."
                )
            left.remove(policy)
        if any(not 0 <= node < counts[entry.target] for entry in line.timed for node in entry.nodes or ()):
            raise InputError(
                f"{bench.journal.place}: expected times of the models' own kernels, got others. Remove the file to "
                "begin anew."
            )
        found.timed.extend((_policy(entry), entry.measured.measurement(), entry.nodes) for entry in line.timed)
        found.failed.extend((_policy(entry), entry.why) for entry in line.failed)
    return found


def _policy(entry: TimedModel | FailedModel) -> Policy:
    return Policy(entry.target, entry.widths)

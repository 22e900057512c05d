"""Evaluation: a policy becomes a model, recalibrated, and the task judges it. What goes wrong there is data.

An `Evaluator` is the same object in process, in a worker process and in a Ray actor: picklable, and deterministic in
(policy, seed, threads) whatever ran before it.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from autoprune.core.errors import Failure, InputError
from autoprune.graph.policy import SparsityPolicy
from autoprune.search.raceable import find_rules, order_of, run_race
from autoprune.search.racing import Rules
from autoprune.tuning.batches import batch_size, device_of, to_device
from autoprune.tuning.layout import autocast, training_layout
from autoprune.tuning.randomness import seeded
from autoprune.tuning.reading import Samples, first_batches

if TYPE_CHECKING:
    from autoprune.graph.module import TracedModule
    from autoprune.pruning.pruner import Pruner
    from autoprune.tuning.task import Task

LOSS_SAMPLES = 1024  # validation samples that a calibration loss looks at
CACHE_BYTES = 256 * 1024 * 1024  # validation batches up to this size are read once and kept

Result = TypeVar("Result")


@dataclass(frozen=True)
class Evaluation:
    """A policy judged.

    Attributes:
        value: the task's quality objective, minimised; finite.
        metrics: the task's metrics on the validation split, as the user defined them.
        seconds: how long it took, building included.
        raced_out: samples looked at when the policy was stopped as surely dominated (`autoprune.search.racing`): the
            quality is then that on them, and the only metric; 0 where it was judged on the whole split.
    """

    value: float
    metrics: dict[str, float]
    seconds: float
    raced_out: int = 0


class Evaluator:
    """Judges policies: configure, recalibrate, metric on the validation split.

    Args:
        pruner: makes models of policies.
        task: data, loss and metrics.
        threads: torch threads while it works; part of what makes results repeatable.
        seed: of torch, NumPy and Python, set anew for every policy.
        loss_samples: how many samples of the validation split the calibration loss looks at.
        dtype: what metrics are computed in where that is safe (autocast), and convolutions in channels-last; None for
            float32.

    Attributes:
        rules: how policies race; None, and none do, unless `allow_races` found them.

    Raises:
        InputError: fewer than one thread or sample.
    """

    def __init__(
        self,
        pruner: Pruner,
        task: Task,
        *,
        threads: int = 1,
        seed: int = 0,
        loss_samples: int = LOSS_SAMPLES,
        dtype: torch.dtype | None = None,
    ) -> None:
        if threads < 1 or loss_samples < 1:
            raise InputError(f"evaluator: expected threads and loss_samples >= 1, got {threads} and {loss_samples}.")
        self.pruner = pruner
        self.task = task
        self.threads = threads
        self.seed = seed
        self.loss_samples = loss_samples
        self.dtype = dtype
        self.rules: Rules | None = None
        self._read: _Read | None = None

    def evaluate(
        self, policy: Mapping[str, int], number: int | None = None, rival: float | None = None
    ) -> Evaluation | Failure:
        """The task's verdict on a policy.

        Args:
            policy: group id -> units to keep.
            number: the trial's, for messages.
            rival: the quality objective of a policy that costs no more in anything else. Where there are `rules`, this
                one is stopped as soon as it is surely worse.

        A policy that cannot be built or judged (an exception, not a number, out of memory) is a `Failure`.
        """
        start = time.perf_counter()

        def judge(model: TracedModule) -> Evaluation | Failure:
            read = self._validation()
            with self._precision(model, read.task):
                metrics, stopped = self._judged(model, read, policy, rival)
            value = self.task.objective(metrics)
            if not math.isfinite(value):
                return _not_finite(self.task.quality, value, policy, number)
            return Evaluation(value, metrics, time.perf_counter() - start, stopped)

        return self._guarded(judge, policy, number)

    def loss(self, policy: Mapping[str, int], samples: int | None = None) -> float | Failure:
        """The mean loss of a policy's model on the first samples of the validation split.

        A task without a loss is judged by its quality objective on them.

        Args:
            policy: group id -> units to keep.
            samples: how many, rounded up to whole batches; at most, and where None, `loss_samples`. Batch norms are
                re-estimated on as many.
        """

        def judge(model: TracedModule) -> float | Failure:
            task = self._validation().few
            limit = None if samples is None else -(-samples // batch_size(task.inputs_of(next(iter(task.validation)))))
            if task.loss is None:
                value = task.objective(task.evaluate(model, limit=limit))
            else:
                value = task.mean_loss(model, limit=limit)
            return value if math.isfinite(value) else _not_finite("loss", value, policy, None)

        return self._guarded(judge, policy, None, samples)

    def allow_races(self, policies: Sequence[Mapping[str, int]]) -> str | None:
        """Let policies race where the task's quality metric is one to race by; the reason where it is not.

        Args:
            policies: tried in turn, until one tells.
        """
        batches, complete = first_batches(self.task.validation, CACHE_BYTES)
        if not complete:
            return f"the validation split is larger than {CACHE_BYTES >> 20} MB"
        samples = Samples.of(batches, self.task.inputs_of) if batches else None
        if samples is None:
            return "its batches are more than tensors with a row a sample"
        held = samples
        for policy in policies:

            def judge(model: TracedModule, policy: Mapping[str, int] = policy) -> Rules | str | None:
                order = order_of(policy, self.seed, len(held))
                with self._precision(model, self.task):
                    return find_rules(self.task, model, held, batches, order)

            found = self._guarded(judge, policy, None)
            if isinstance(found, Rules):
                self.rules, self._read = found, None
                return None
            if found is not None:
                return str(found)
        return f"'{self.task.metric}' is the same for every part of the split"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": None}

    def _guarded(
        self,
        judge: Callable[[TracedModule], Result | Failure],
        policy: Mapping[str, int],
        number: int | None,
        samples: int | None = None,
    ) -> Result | Failure:
        """Build and judge a model under fixed threads and seeds; exceptions become data."""
        try:
            with threads_of_torch(self.threads), seeded(self.seed):
                return judge(self.pruner.build(policy, samples))
        except Exception as error:
            failure = _failure(error, policy, number)
        gc.collect()  # the traceback held the model; memory matters most when it ran out
        return failure

    def _judged(
        self, model: TracedModule, read: _Read, policy: Mapping[str, int], rival: float | None
    ) -> tuple[dict[str, float], int]:
        """The metrics, and how many samples were looked at where a race was lost, else 0."""
        quality = self.task.metric
        known: dict[str, float] = {}
        if rival is not None and self.rules is not None and read.samples is not None:
            order = order_of(policy, self.seed, len(read.samples))
            found = run_race(self.rules, self.task, model, read.samples, order, rival)
            if found is not None and found.samples < len(read.samples):
                return {quality: found.metric}, found.samples
            known = {} if found is None else {quality: found.metric}
        rest = [name for name in self.task.metrics if name not in known]
        judged = read.task.judge(model, read.task.validation, rest) if rest else {}
        return {name: known[name] if name in known else judged[name] for name in self.task.metrics}, 0

    @contextmanager
    def _precision(self, model: TracedModule, task: Task) -> Iterator[None]:
        """Compute in `dtype` inside."""
        if self.dtype is None:
            yield
            return
        first = task.inputs_of(to_device(next(iter(task.validation)), device_of(model)))
        with training_layout(model, first, self.dtype), autocast(device_of(model), self.dtype):
            yield

    def _validation(self) -> _Read:
        """The validation split, read once where it fits in memory."""
        if self._read is None:
            batches, complete = first_batches(self.task.validation, CACHE_BYTES)
            if not batches:
                raise InputError("task: the validation loader is empty: expected at least one batch, got none.")
            samples = Samples.of(batches, self.task.inputs_of) if complete and self.rules is not None else None
            if samples is not None:
                batches = samples.as_given()  # views: the samples are held once
            few, count = [], 0
            for batch in batches:
                few.append(batch)
                count += batch_size(self.task.inputs_of(batch))
                if count >= self.loss_samples:
                    break
            whole = replace(self.task, validation=batches) if complete else self.task
            self._read = _Read(whole, replace(self.task, validation=few), samples)
        return self._read


@dataclass(frozen=True, eq=False)
class _Read:
    """The validation split as it was read: the task on it, on its first batches, and its samples to race on."""

    task: Task
    few: Task
    samples: Samples | None


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """Torch's threads inside; as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _name(policy: Mapping[str, int], number: int | None) -> str:
    return f"policy {SparsityPolicy(policy).id}" if number is None else f"trial {number}"


def _not_finite(what: str, value: float, policy: Mapping[str, int], number: int | None) -> Failure:
    return Failure("not finite", f"{_name(policy, number)}: {what} is {value}")


def _failure(error: Exception, policy: Mapping[str, int], number: int | None) -> Failure:
    message = f"{_name(policy, number)}: {error or '(no message)'}"
    short = message if len(message) <= 500 else message[:497] + "..."
    if _is_out_of_memory(error):
        return Failure("out of memory", short, "use smaller batches or fewer workers")
    return Failure(type(error).__name__, short)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether it, or what caused it, is memory running out (metrics that raise come wrapped)."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    if isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text):
        return True
    return error.__cause__ is not None and _is_out_of_memory(error.__cause__)

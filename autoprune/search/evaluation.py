"""Evaluation: a policy becomes a model, recalibrated, and the task judges it. What goes wrong there is data.

An `Evaluator` is the same object in process, in a worker process and in a Ray actor: picklable, and deterministic in
(policy, seed, threads) whatever ran before it.
"""

from __future__ import annotations

import gc
import math
import pickle
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from autoprune.core.errors import Failure, InputError
from autoprune.graph.policy import SparsityPolicy

if TYPE_CHECKING:
    from autoprune.graph.module import TracedModule
    from autoprune.pruning.pruner import Pruner
    from autoprune.tuning.task import Task

LOSS_SAMPLES = 1024  # validation samples that a calibration loss looks at

Result = TypeVar("Result")


@dataclass(frozen=True)
class Evaluation:
    """A policy judged.

    Attributes:
        value: the task's quality objective, minimised; finite.
        metrics: the task's metrics on the validation split, as the user defined them.
        seconds: how long it took, building included.
    """

    value: float
    metrics: dict[str, float]
    seconds: float


class Evaluator:
    """Judges policies: configure, recalibrate, metric on the validation split.

    Args:
        pruner: makes models of policies.
        task: data, loss and metrics.
        threads: torch threads while it works; part of what makes results repeatable.
        seed: of torch, NumPy and `random`, set anew for every policy.
        loss_samples: how many samples of the validation split the calibration loss looks at.

    Raises:
        InputError: fewer than one thread or sample.
    """

    def __init__(
        self, pruner: Pruner, task: Task, *, threads: int = 1, seed: int = 0, loss_samples: int = LOSS_SAMPLES
    ) -> None:
        if threads < 1 or loss_samples < 1:
            raise InputError(f"evaluator: expected threads and loss_samples >= 1, got {threads} and {loss_samples}.")
        self.pruner = pruner
        self.task = task
        self.threads = threads
        self.seed = seed
        self.loss_samples = loss_samples
        self._batches: tuple[Any, ...] | None = None

    def evaluate(self, policy: Mapping[str, int], number: int | None = None) -> Evaluation | Failure:
        """The task's verdict on a policy.

        Args:
            policy: group id -> units to keep.
            number: the trial's, for messages.

        A policy that cannot be built or judged (an exception, not a number, out of memory) is a `Failure`.
        """
        start = time.perf_counter()

        def judge(model: TracedModule) -> Evaluation | Failure:
            metrics = {name: float(value) for name, value in self.task.evaluate(model, split="validation").items()}
            value = float(self.task.objective(metrics))
            if not math.isfinite(value):
                return _not_finite("the quality objective", value, policy, number)
            return Evaluation(value, metrics, time.perf_counter() - start)

        return self._guarded(judge, policy, number)

    def loss(self, policy: Mapping[str, int]) -> float | Failure:
        """The task's mean loss of a policy's model on the first samples of the validation split."""

        def judge(model: TracedModule) -> float | Failure:
            value = self._mean_loss(model)
            return value if math.isfinite(value) else _not_finite("the loss", value, policy, None)

        return self._guarded(judge, policy, None)

    def check_picklable(self) -> None:
        """Whether worker processes can be given this evaluator.

        Raises:
            InputError: something in the task or the model cannot be pickled; says what to do.
        """
        try:
            pickle.dumps(self)
        except Exception as error:
            raise InputError(
                f"the task or model cannot be sent to worker processes ({type(error).__name__}: {error}). Define losses, "
                "metrics and datasets at the top level of a module (no lambdas), or use one local worker."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batches": None}

    def _guarded(
        self, judge: Callable[[TracedModule], Result | Failure], policy: Mapping[str, int], number: int | None
    ) -> Result | Failure:
        """Build and judge a model under fixed threads and seeds; exceptions become data."""
        try:
            with repeatable(self.threads, self.seed):
                return judge(self.pruner.build(policy))
        except Exception as error:
            failure = _failure(error, policy, number)
        gc.collect()  # the traceback held the model; memory matters most when it ran out
        return failure

    def _mean_loss(self, model: TracedModule) -> float:
        if self._batches is None:
            self._batches = _first_batches(self.task.validation, self.task, self.loss_samples)
        total, samples = 0.0, 0
        with torch.inference_mode():
            for batch in self._batches:
                inputs = self.task.inputs(batch)
                count = len(inputs[0])
                total += float(self.task.loss(model(*inputs), batch)) * count
                samples += count
        return total / samples


@contextmanager
def repeatable(threads: int, seed: int) -> Iterator[None]:
    """Torch threads and all random generators fixed inside, and as they were afterwards."""
    before, python, numpy_state = torch.get_num_threads(), random.getstate(), np.random.get_state()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        torch.set_num_threads(before)
        random.setstate(python)
        np.random.set_state(numpy_state)


def _first_batches(loader: Any, task: Task, samples: int) -> tuple[Any, ...]:
    """The first batches of a loader that together hold at least `samples` samples (all, where it has fewer)."""
    found: list[Any] = []
    count = 0
    for batch in loader:
        found.append(batch)
        count += len(task.inputs(batch)[0])
        if count >= samples:
            break
    if not count:
        raise InputError("task: expected batches in the validation split, got none.")
    return tuple(found)


def _name(policy: Mapping[str, int], number: int | None) -> str:
    return f"policy {SparsityPolicy(policy).id}" if number is None else f"trial {number}"


def _not_finite(what: str, value: float, policy: Mapping[str, int], number: int | None) -> Failure:
    return Failure("not-finite", f"{_name(policy, number)}: {what} is {value}")


def _failure(error: Exception, policy: Mapping[str, int], number: int | None) -> Failure:
    message = f"{_name(policy, number)}: {type(error).__name__}: {error}"
    short = message if len(message) <= 500 else message[:497] + "..."
    if _is_out_of_memory(error):
        return Failure("out-of-memory", short, "use smaller batches or fewer workers")
    return Failure("exception", short)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)

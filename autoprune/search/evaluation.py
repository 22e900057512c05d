"""Evaluation: a policy becomes a model, recalibrated, and the task judges it. What goes wrong there is data.

An `Evaluator` is the same object in process, in a worker process and in a Ray actor: picklable, and deterministic in
(policy, seed, threads) whatever ran before it.
"""

from __future__ import annotations

import gc
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from autoprune.core.errors import Failure, InputError
from autoprune.graph.policy import SparsityPolicy
from autoprune.tuning.batches import batch_size
from autoprune.tuning.randomness import seeded

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
        seed: of torch, NumPy and Python, set anew for every policy.
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
        self._read: tuple[Task, Task] | None = None

    def evaluate(self, policy: Mapping[str, int], number: int | None = None) -> Evaluation | Failure:
        """The task's verdict on a policy.

        Args:
            policy: group id -> units to keep.
            number: the trial's, for messages.

        A policy that cannot be built or judged (an exception, not a number, out of memory) is a `Failure`.
        """
        start = time.perf_counter()

        def judge(model: TracedModule) -> Evaluation | Failure:
            task, _ = self._tasks()
            metrics = task.evaluate(model, split="validation")
            value = task.objective(metrics)
            if not math.isfinite(value):
                return _not_finite(task.quality, value, policy, number)
            return Evaluation(value, metrics, time.perf_counter() - start)

        return self._guarded(judge, policy, number)

    def loss(self, policy: Mapping[str, int]) -> float | Failure:
        """The mean loss of a policy's model on the first samples of the validation split.

        A task without a loss is judged by its quality objective on them.
        """

        def judge(model: TracedModule) -> float | Failure:
            _, task = self._tasks()
            value = task.objective(task.evaluate(model)) if task.loss is None else task.mean_loss(model)
            return value if math.isfinite(value) else _not_finite("loss", value, policy, None)

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
                f"the task or model cannot be sent to worker processes ({type(error).__name__}: {error}). Define "
                "losses, metrics and datasets at the top level of a module (no lambdas), or use one local worker."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": None}

    def _guarded(
        self, judge: Callable[[TracedModule], Result | Failure], policy: Mapping[str, int], number: int | None
    ) -> Result | Failure:
        """Build and judge a model under fixed threads and seeds; exceptions become data."""
        try:
            with threads_of_torch(self.threads), seeded(self.seed):
                return judge(self.pruner.build(policy))
        except Exception as error:
            failure = _failure(error, policy, number)
        gc.collect()  # the traceback held the model; memory matters most when it ran out
        return failure

    def _tasks(self) -> tuple[Task, Task]:
        """The task with its validation batches read once, where they fit in memory; and one with the first of them."""
        if self._read is None:
            batches, complete = _first_batches(self.task, CACHE_BYTES)
            few, samples = [], 0
            for batch in batches:
                few.append(batch)
                samples += batch_size(self.task.inputs_of(batch))
                if samples >= self.loss_samples:
                    break
            whole = replace(self.task, validation=batches) if complete else self.task
            self._read = whole, replace(self.task, validation=few)
        return self._read


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """Torch's threads inside; as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first_batches(task: Task, limit_bytes: int) -> tuple[list[Any], bool]:
    """The first validation batches, as many as fit, and whether these are all."""
    found: list[Any] = []
    size = 0
    with seeded(0, task.validation):  # as Task.evaluate seeds it: the same batches
        for batch in task.validation:
            size += sum(t.numel() * t.element_size() for t in pytree.tree_leaves(batch) if isinstance(t, torch.Tensor))
            if found and size > limit_bytes:
                return found, False
            found.append(batch)
    if not found:
        raise InputError("task: the validation loader is empty: expected at least one batch, got none.")
    return found, True


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

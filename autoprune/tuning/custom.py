"""A user's own fine-tuning: a function of (model, task, settings, teacher), held to what the built-in one promises."""

from __future__ import annotations

import inspect
import pickle
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from autoprune.core.errors import Failure, InputError
from autoprune.tuning.epochs import Epoch
from autoprune.tuning.finetune import FinetuneResult
from autoprune.tuning.randomness import seeded
from autoprune.tuning.settings import FinetuneSettings
from autoprune.tuning.task import Task

Trainer: TypeAlias = Callable[[nn.Module, Task, FinetuneSettings, nn.Module | None], nn.Module | None]
"""Trains a model in place, or returns the trained one; the teacher is the dense model where there is to be one."""


def check_trainer(function: Any, portable: bool) -> Trainer:
    """A user's function, if it can be called as a `Trainer`.

    Args:
        function: what was given.
        portable: whether it must reach other processes.

    Raises:
        InputError: not callable, of another signature, or it cannot be sent to worker processes.
    """
    if not callable(function):
        raise InputError(f"finetune: expected a function (model, task, settings, teacher), got {function!r:.80}.")
    try:
        inspect.signature(function).bind(None, None, None, None)
    except TypeError as error:
        raise InputError(
            f"finetune: expected {trainer_name(function)} to take (model, task, settings, teacher): {error}."
        ) from error
    except ValueError:
        pass  # built in, without a signature that Python knows: the call will tell
    if portable:
        try:
            pickle.dumps(function)
        except Exception as error:
            raise InputError(
                f"finetune: {trainer_name(function)} cannot be sent to worker processes ({error}). Define it at the "
                "top level of a module, or use one local worker."
            ) from error
    trainer: Trainer = function
    return trainer


def trainer_name(function: Any) -> str:
    """`module:function`: what a run remembers of it."""
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', type(function).__qualname__)}"


def finetune_by(
    function: Trainer, model: nn.Module, task: Task, settings: FinetuneSettings, teacher: nn.Module | None
) -> FinetuneResult | Failure:
    """Train a model in place by a user's function, and leave it in the state that validates better, before or after.

    The function runs under the settings' seed, so that it gives the same each time as far as it draws from torch, NumPy
    and Python's `random`.

    Returns:
        The result with two epochs, before and after; or a `Failure`: of kind `finetune` where the function raised or
        returned something else than a model of the same tensors, `diverged` where tensors are not finite,
        `out_of_memory`. The model then has the state it came in.
    """
    start = time.perf_counter()
    before = task.evaluate(model)
    kept = {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}
    failure = _train(function, model, task, settings, teacher)
    if failure is not None:
        _load(model, kept)
        return failure
    after = task.evaluate(model)
    worse = not task.objective(after) <= task.objective(before)
    if worse:
        _load(model, kept)
    seconds = time.perf_counter() - start
    history = (Epoch(0, None, before, 0.0), Epoch(1, None, after, seconds))
    notes = (f"{trainer_name(function)} left the model worse on validation; it is as it was",) if worse else ()
    return FinetuneResult(
        history=history, best_epoch=0 if worse else 1, metrics=before if worse else after, seconds=seconds, lr=0.0,
        precision="float32", distilled=teacher is not None, resumed_from=None, notes=notes,
    )  # fmt: skip


def _train(
    function: Trainer, model: nn.Module, task: Task, settings: FinetuneSettings, teacher: nn.Module | None
) -> Failure | None:
    """Call the function and take over what it returns; why that did not work, or None."""
    name = trainer_name(function)
    model.train()
    try:
        with seeded(settings.seed, task.train):
            returned: Any = function(model, task, settings, teacher)
    except torch.OutOfMemoryError as error:
        return Failure("out_of_memory", f"{name}: {str(error).splitlines()[0]}", "use smaller train batches")
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Failure(
            "finetune", f"{name} raised {type(error).__name__}: {error}"[:500], f"at {frame.filename}:{frame.lineno}"
        )
    finally:
        model.eval()
    if returned is not None and not isinstance(returned, nn.Module):
        return Failure("finetune", f"{name}: expected it to return the model or None, got {type(returned).__name__}")
    if returned is not None and returned is not model:
        mine, theirs = ({k: tuple(v.shape) for k, v in _tensors(m).items()} for m in (model, returned))
        if mine != theirs:
            odd = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))[0]
            return Failure(
                "finetune",
                f"{name}: expected a model of the same tensors, got '{odd}' of shape {theirs.get(odd)} instead of "
                f"{mine.get(odd)}",
                "train the model that it was given",
            )
        _load(model, _tensors(returned))
    broken = [k for k, v in _tensors(model).items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    return Failure("diverged", f"{name} left '{broken[0]}' not finite", "lower its learning rate") if broken else None


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _load(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in _tensors(model).items():
            tensor.copy_(tensors[name])

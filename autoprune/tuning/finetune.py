"""Fine-tuning: train a pruned model a little, with distillation, and keep the state that validates best."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.core.errors import Failure, InputError
from autoprune.core.files import canonical_json, digest
from autoprune.tuning import checkpoint as checkpoints
from autoprune.tuning.batches import Batches, Inputs, as_float, batch_size, call, describe, device_of
from autoprune.tuning.distillation import distillation_loss
from autoprune.tuning.epochs import Epoch, as_tensors, from_tensors
from autoprune.tuning.layout import autocast, runs, training_layout
from autoprune.tuning.metrics import cross_entropy
from autoprune.tuning.optimizer import (
    BATCH_NORMS,
    autocast_dtype,
    build_optimizer,
    memory,
    peak_rate,
    rate,
    remember,
    trainable,
)
from autoprune.tuning.randomness import seeded
from autoprune.tuning.settings import FinetuneSettings
from autoprune.tuning.task import Task

Progress = Callable[[str, int, int], None]  # what, steps done, steps in all
Tensors = dict[str, torch.Tensor]

_LOG = logging.getLogger(__name__)
_LOOK_EVERY = 20  # steps between looks at the loss: each makes a GPU wait


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning did.

    Attributes:
        history: every epoch, number 0 first.
        best_epoch: the epoch whose state the model now has.
        metrics: the validation metrics of that state; empty where not evaluated.
        seconds: wall-clock time of all epochs.
        lr: the highest learning rate.
        precision: what it computed in: `float32` or `bfloat16`.
        distilled: whether a teacher took part.
        resumed_from: the last epoch found in the checkpoint, None for a fresh start.
        notes: what is worth knowing, such as a checkpoint that could not be read.
    """

    history: tuple[Epoch, ...]
    best_epoch: int
    metrics: dict[str, float]
    seconds: float
    lr: float
    precision: str
    distilled: bool
    resumed_from: int | None
    notes: tuple[str, ...]


def finetune(
    model: nn.Module,
    task: Task,
    settings: FinetuneSettings | None = None,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    evaluate: bool = True,
) -> FinetuneResult | Failure:
    """Fine-tune a model in place and leave it in the state that validates best, the one it came in included.

    Every epoch is seeded by its number, so a run resumed from a checkpoint ends with the weights of one that was not
    interrupted. The modes (train, eval) of model and teacher and all random generators are left as they were found.

    Args:
        model: trained in place; a pruned model first makes its tensors its own (`clone_tensors`).
        task: data, loss and metrics.
        settings: how; the defaults where None.
        teacher: usually the dense model; it is not changed.
        checkpoint: a file written after each epoch and resumed from; one that is broken or of other settings is
            ignored with a warning and written anew.
        progress: told (what, steps done, steps in all) every now and then.
        evaluate: judge each epoch on the validation split; where False, the last state is kept.

    Returns:
        The result, or a `Failure` of kind `diverged` or `out_of_memory`; the model then has the best state so far.

    Raises:
        InputError: nothing to train or to train on, a loss that raises, a teacher that shares tensors with the model,
            or a checkpoint folder that cannot be written.
    """
    make_own = getattr(model, "clone_tensors", None)
    if callable(make_own):
        make_own()
    run = _Run(model, task, settings or FinetuneSettings(), teacher, progress, evaluate)
    with _modes_kept(model, teacher), training_layout(model, run.example, run.precision):
        state = run.begin(checkpoint)
        while state.epoch < run.settings.epochs:
            try:
                outcome = run.epoch(state)
            except torch.OutOfMemoryError as error:
                outcome = Failure("out_of_memory", str(error).splitlines()[0], "use smaller train batches")
            if isinstance(outcome, Failure):
                model.load_state_dict(state.best)
                return outcome
            state = outcome
            if checkpoint is not None:
                checkpoints.save(checkpoint, run.key, run.payload(state))
        model.load_state_dict(state.best)
    return run.result(state)


@dataclass(frozen=True, eq=False)
class _State:
    """Between two epochs; with the model's tensors and the optimizer's, all that goes on."""

    history: tuple[Epoch, ...]
    best_epoch: int
    best: Tensors

    @property
    def epoch(self) -> int:
        return self.history[-1].number


class _Run:
    """One call of `finetune`: what stays the same over its epochs, and the model and optimizer it trains."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        settings: FinetuneSettings,
        teacher: nn.Module | None,
        progress: Progress | None,
        evaluate: bool,
    ) -> None:
        self.model = model
        self.task = task
        self.settings = settings
        self.teacher = teacher if settings.distill else None
        self.device = device_of(model)
        self.peak = peak_rate(settings, model)
        self.notes: list[str] = []
        self.resumed_from: int | None = None
        self._progress = progress
        self._evaluate = evaluate
        _check(model, task, self.teacher, settings)
        self.steps, self.example = _look(task, settings, self.device)
        self.precision = self._choose_precision()
        self.key = _key(model, task, settings, self.teacher is not None, evaluate)
        self._normalises = any(isinstance(module, BATCH_NORMS) for module in model.modules())
        self.optimizer = build_optimizer(model, settings, self.peak)

    def begin(self, checkpoint: Path | None) -> _State:
        """The state of the checkpoint, else the model as it came, judged."""
        if checkpoint is not None and checkpoint.exists():
            try:
                return self._resume(checkpoint)
            except checkpoints.BrokenCheckpointError as error:
                note = f"checkpoint {checkpoint} is ignored, {error}; training starts over"
                _LOG.warning(note)
                self.notes.append(note)
                self.optimizer = build_optimizer(self.model, self.settings, self.peak)
        started = time.perf_counter()
        metrics = self._judge()
        first = Epoch(0, None, metrics, time.perf_counter() - started)
        return _State((first,), 0, _copy(self.model))

    def epoch(self, state: _State) -> _State | Failure:
        """Train one epoch and judge it."""
        number, started = state.epoch + 1, time.perf_counter()
        loss = self._train(number)
        if not math.isfinite(loss):
            return Failure(
                "diverged",
                f"the loss became {loss} in epoch {number} of {self.settings.epochs} at learning rate {self.peak:g}",
                "lower lr",
            )
        metrics = self._judge()
        done = Epoch(number, loss, metrics, time.perf_counter() - started)
        history = (*state.history, done)
        if self._evaluate and self._worth(metrics) > self._worth(state.history[state.best_epoch].metrics):
            return replace(state, history=history)
        return _State(history, number, _copy(self.model))

    def payload(self, state: _State) -> Tensors:
        """What a checkpoint holds: of the same names, types and shapes after every epoch."""
        return checkpoints.joined(
            {
                "model": _copy(self.model),
                "best": state.best,
                "optimizer": memory(self.optimizer),
                "history": as_tensors(state.history, state.best_epoch, self.settings.epochs),
            }
        )

    def result(self, state: _State) -> FinetuneResult:
        return FinetuneResult(
            history=state.history,
            best_epoch=state.best_epoch,
            metrics=dict(state.history[state.best_epoch].metrics),
            seconds=sum(epoch.seconds for epoch in state.history),
            lr=self.peak,
            precision=str(self.precision or torch.float32).removeprefix("torch."),
            distilled=self.teacher is not None,
            resumed_from=self.resumed_from,
            notes=tuple(self.notes),
        )

    def _choose_precision(self) -> torch.dtype | None:
        """What to compute in; `auto` goes back to float32 where the model refuses less."""
        dtype = autocast_dtype(self.settings.mixed_precision, self.device)
        if dtype is None or self.settings.mixed_precision != "auto" or runs(self.model, self.example, dtype):
            return dtype
        self.notes.append(f"the model does not run in {dtype}; it is trained in float32".replace("torch.", ""))
        return None

    def _resume(self, path: Path) -> _State:
        judged = self.task.metrics if self._evaluate else ()
        begun = _State((Epoch(0, None, dict.fromkeys(judged, 0.0), 0.0),), 0, _copy(self.model))
        found = checkpoints.load(path, self.key, self.payload(begun))
        history, best_epoch = from_tensors(checkpoints.part(found, "history"), judged)
        remember(self.optimizer, checkpoints.part(found, "optimizer"))
        self.model.load_state_dict(checkpoints.part(found, "model"))
        best = {name: tensor.to(self.device) for name, tensor in checkpoints.part(found, "best").items()}
        state = _State(history, best_epoch, best)
        self.resumed_from = state.epoch
        return state

    def _train(self, number: int) -> float:
        """One pass over the train split: the mean loss, not finite where it diverged."""
        self.model.train()
        if self.teacher is not None:
            self.teacher.eval()
        loader = self.task.loader("train")
        before = (number - 1) * self.steps
        total = torch.zeros((), device=self.device)
        taken = 0
        with seeded(_epoch_seed(self.settings.seed, number), loader):
            for index, batch in enumerate(Batches(loader, self.device, self.settings.max_batches)):
                self._set_rate(before + min(index, self.steps - 1))
                loss = self._step(batch)
                if loss is None:
                    continue
                total += loss
                taken += 1
                if index % _LOOK_EVERY == 0:
                    if not math.isfinite(float(total)):
                        break
                    self._report(f"epoch {number} of {self.settings.epochs}", before + min(index + 1, self.steps))
        if taken == 0:
            raise InputError(
                "fine-tuning: expected train batches of at least 2 examples, got none. Check the train loader."
            )
        self._report(f"epoch {number} of {self.settings.epochs}", before + self.steps)
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in trainable(self.model))
        return float(total) / taken if finite else math.nan

    def _step(self, batch: Any) -> torch.Tensor | None:
        """One update; None where the batch is a single example, which batch norm cannot train on."""
        inputs = self.task.inputs_of(batch)
        if self._normalises and batch_size(inputs) < 2:
            return None
        with autocast(self.device, self.precision):
            outputs = call(self.model, inputs)
        loss = self._loss(as_float(outputs), inputs, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(trainable(self.model), self.settings.clip_norm)
            loss = torch.where(torch.isfinite(norm), loss, norm)
        self.optimizer.step()
        return loss.detach()

    def _loss(self, outputs: Any, inputs: Any, batch: Any) -> torch.Tensor:
        loss: torch.Tensor | None = None
        if self.task.loss is not None:
            loss = _user_loss(self.task, outputs, batch)
        if self.teacher is None:
            assert loss is not None  # _check: without a teacher there is a loss
            return loss
        with torch.no_grad(), autocast(self.device, self.precision):
            wanted = call(self.teacher, inputs)
        distilled = distillation_loss(
            outputs,
            as_float(wanted),
            self.settings.temperature,
            logits=self.task.judges_classes,
            class_dim=1 if self.task.loss is cross_entropy else None,
        )
        alpha = self.settings.alpha
        return distilled if loss is None else (1.0 - alpha) * loss + alpha * distilled

    def _set_rate(self, step: int) -> None:
        value = rate(step, self.settings.epochs * self.steps, self.peak, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def _judge(self) -> dict[str, float]:
        return self.task.evaluate(self.model) if self._evaluate else {}

    def _worth(self, metrics: dict[str, float]) -> float:
        value = self.task.objective(metrics)
        return math.inf if math.isnan(value) else value

    def _report(self, what: str, done: int) -> None:
        if self._progress is not None:
            self._progress(what, done, self.settings.epochs * self.steps)


def _check(model: nn.Module, task: Task, teacher: nn.Module | None, settings: FinetuneSettings) -> None:
    if not trainable(model):
        raise InputError("fine-tuning: expected a model with parameters that require gradients, got none.")
    if settings.epochs and task.loss is None and (teacher is None or not settings.distill):
        raise InputError("fine-tuning: expected a loss or a teacher to distil from, got neither. Pass loss= to Task.")
    if teacher is not None:
        own = {tensor.data_ptr() for tensor in model.parameters() if tensor.numel()}
        if any(tensor.data_ptr() in own for tensor in teacher.parameters() if tensor.numel()):
            raise InputError(
                "fine-tuning: the teacher shares tensors with the model and would be trained along. "
                "Give a copy (copy.deepcopy) as teacher."
            )


def _key(model: nn.Module, task: Task, settings: FinetuneSettings, distilled: bool, evaluate: bool) -> str:
    """What a checkpoint belongs to: settings, the model's tensors by name and shape, and what is minimised."""
    shapes = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in model.state_dict().items()}
    parts = [settings.id, shapes, list(task.metrics), list(task.minimize), distilled, evaluate]
    return digest(canonical_json(parts), 32)


def _look(task: Task, settings: FinetuneSettings, device: torch.device) -> tuple[int, Inputs]:
    """Batches an epoch, and the first inputs; a loader without a length is counted by reading it once."""
    loader: Any = task.loader("train")
    with seeded(settings.seed, loader):
        first = next(iter(Batches(loader, device)), None)
        if first is None:
            raise InputError("fine-tuning: expected at least one train batch, got none. Check the train loader.")
        try:
            count = len(loader)
        except TypeError:
            count = sum(1 for _ in islice(loader, settings.max_batches))
    return max(1, min(count, settings.max_batches or count)), task.inputs_of(first)


def _user_loss(task: Task, outputs: Any, batch: Any) -> torch.Tensor:
    assert task.loss is not None
    try:
        loss = task.loss(outputs, batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise InputError(f"loss: raised on a train batch: {type(error).__name__}: {error}") from error
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise InputError(f"loss: expected a scalar tensor, got {describe(loss)}.")
    return loss.reshape(())


def _copy(model: nn.Module) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _epoch_seed(seed: int, number: int) -> int:
    return int(digest(f"{seed} {number}", 8), 16)


@contextmanager
def _modes_kept(*models: nn.Module | None) -> Iterator[None]:
    modes = [(module, module.training) for model in models if model is not None for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

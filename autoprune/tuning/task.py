"""`Task`: the user's data, loss and metrics, checked once and then read the same way every time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from autoprune.core.errors import InputError, unknown_name
from autoprune.core.files import canonical_json, digest
from autoprune.tuning.batches import (
    Batches,
    Inputs,
    as_inputs,
    batch_size,
    call,
    default_inputs,
    describe,
    device_of,
    to_device,
)
from autoprune.tuning.calibration import Calibration, read_calibration
from autoprune.tuning.metrics import Accuracy, MeanLoss, cross_entropy
from autoprune.tuning.randomness import seeded
from autoprune.tuning.reading import digests, first_batches, is_random, repeats

Metric = Callable[[nn.Module, Iterable[Any]], float]
Loss = Callable[[Any, Any], torch.Tensor]

SPLITS = ("train", "validation", "test", "calibration")
PINNED_BYTES = 256 * 1024 * 1024

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_TAKEN = re.compile(
    r"member|params|macs|size(_bytes)?|peak_memory(_bytes)?|energy(_uj)?|speedup|policy_id|and|or"
    r"|(measured_)?latency.*|test_.*"
)


@dataclass(frozen=True)
class TaskCheck:
    """What checking a task on a model found.

    Attributes:
        metrics: the model's metrics on the validation split.
        notes: what is worth knowing though nothing is wrong.
        noise: by how much each metric differed when it was asked twice; 0 for a metric that repeats.
    """

    metrics: dict[str, float]
    notes: tuple[str, ...]
    noise: dict[str, float]


@dataclass(frozen=True, eq=False)
class Task:
    """Data to train on and to judge by, a loss, and metrics.

    Loaders are re-iterable: a `DataLoader`, a list of batches, any object that starts anew at each `iter`. To search
    with worker processes, loaders and functions must be picklable (functions at the top level of a module).

    Attributes:
        train: batches for fine-tuning.
        validation: batches that the search judges candidates by.
        test: batches that only the finished front is judged by.
        calibration: batches for pruning (labels are not read); the train batches where None.
        inputs: from a batch to the model's inputs: a tensor, a tuple of them, or a mapping of keyword arguments.
            By default the batch itself, its first part, or its entries other than labels.
        loss: from the model's outputs and a batch to a scalar to train on. Without one, only distillation trains.
        metrics: name -> function of (model, batches), called in eval mode without gradients, with batches on the
            model's device. The first is the search's quality objective. By default the mean loss.
        minimize: the metrics of which less is better.

    Raises:
        InputError: a loader that is not re-iterable, no metrics, or names that are taken or unknown.
    """

    train: Iterable[Any]
    validation: Iterable[Any]
    test: Iterable[Any] | None = None
    calibration: Iterable[Any] | None = None
    inputs: Callable[[Any], Any] | None = None
    loss: Loss | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    minimize: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split in SPLITS:
            loader = getattr(self, split)
            if loader is not None or split in ("train", "validation"):
                _check_loader(split, loader)
        for name, function in (("inputs", self.inputs), ("loss", self.loss), *_items(self.metrics)):
            if function is not None and not callable(function):
                raise InputError(f"task: expected a function for {name}, got {type(function).__name__}.")
        object.__setattr__(self, "inputs", self.inputs or default_inputs)
        if not self.metrics:
            if self.loss is None:
                raise InputError('task: expected metrics={"name": function(model, batches)} or a loss, got neither.')
            object.__setattr__(self, "metrics", {"loss": MeanLoss(self.loss, self.inputs or default_inputs)})
            object.__setattr__(self, "minimize", ("loss",))
        minimize = (self.minimize,) if isinstance(self.minimize, str) else tuple(self.minimize)
        object.__setattr__(self, "metrics", dict(self.metrics))
        object.__setattr__(self, "minimize", minimize)
        for name in self.metrics:
            _check_name(name)
        if self.judges_classes and "error" in self.metrics:
            raise InputError("task: expected no metric 'error' beside 'accuracy': it stands for 1 - accuracy.")
        for name in minimize:
            if name not in self.metrics:
                raise unknown_name("metric in minimize", name, self.metrics)

    @classmethod
    def classification(
        cls,
        train: Iterable[Any],
        validation: Iterable[Any],
        test: Iterable[Any] | None = None,
        calibration: Iterable[Any] | None = None,
        inputs: Callable[[Any], Any] | None = None,
    ) -> Task:
        """A classification task: cross-entropy as loss, accuracy as metric, `error` = 1 - accuracy as objective.

        Batches are (inputs, labels), or mappings with an entry `labels`, `label`, `targets`, `target` or `y`.
        """
        accuracy = Accuracy(inputs or default_inputs)
        return cls(train, validation, test, calibration, inputs, cross_entropy, {"accuracy": accuracy})

    @property
    def metric(self) -> str:
        """The name of the first metric: the one that the search's quality objective is made of."""
        return next(iter(self.metrics))

    @property
    def quality(self) -> str:
        """The name of the search's quality objective: `error` for accuracy, else the first metric's."""
        return "error" if self.judges_classes else self.metric

    @property
    def judges_classes(self) -> bool:
        """Whether the first metric is `accuracy`, higher being better: outputs are then logits."""
        return self.metric == "accuracy" and self.metric not in self.minimize

    def objective(self, metrics: Mapping[str, float]) -> float:
        """The quality objective, minimised: 1 - accuracy, or the first metric, sign flipped unless in `minimize`."""
        value = float(metrics[self.metric])
        if self.judges_classes:
            return 1.0 - value
        return value if self.metric in self.minimize else -value

    def loader(self, split: str) -> Iterable[Any]:
        """The loader of a split; `calibration` falls back to `train`.

        Raises:
            InputError: an unknown split, or a test split that was not given.
        """
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        loader: Iterable[Any] | None = getattr(self, split)
        if loader is None and split == "calibration":
            loader = self.train
        if loader is None:
            raise InputError(f"task: there is no {split} split. Pass {split}= to Task.")
        return loader

    def inputs_of(self, batch: Any) -> Inputs:
        """The model's inputs in a batch, as positional or keyword arguments."""
        return as_inputs((self.inputs or default_inputs)(batch))

    def evaluate(self, model: nn.Module, split: str = "validation", limit: int | None = None) -> dict[str, float]:
        """All metrics of a model on (at most `limit` batches of) a split; NaN is handed through.

        The model is in eval mode meanwhile and gradients are off. Random loaders are seeded, so that they give the
        same batches each time.

        Raises:
            InputError: a metric that raises or returns something other than a number.
        """
        return self.judge(model, self.loader(split), limit=limit, what=split)

    def judge(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        names: Collection[str] | None = None,
        *,
        limit: int | None = None,
        what: str = "validation",
    ) -> dict[str, float]:
        """As `evaluate`, on batches of any loader, and by some metrics only.

        Args:
            model: in eval mode meanwhile.
            loader: re-iterable of batches.
            names: of the metrics; all where None.
            limit: at most this many batches.
            what: the loader's name, for messages.
        """
        batches = Batches(loader, device_of(model), limit)
        found: dict[str, float] = {}
        with _evaluating(model):
            for name, metric in self.metrics.items():
                if names is None or name in names:
                    with seeded(0, loader):
                        found[name] = _number(name, metric, model, batches, what)
        return found

    def mean_loss(self, model: nn.Module, split: str = "validation", limit: int | None = None) -> float:
        """The mean loss over (at most `limit` batches of) a split, in eval mode without gradients.

        Raises:
            InputError: the task has no loss, or it raises.
        """
        if self.loss is None:
            raise InputError("task: expected a loss, got none. Pass loss= to Task.")
        loader = self.loader(split)
        mean = MeanLoss(self.loss, self.inputs or default_inputs)
        with _evaluating(model), seeded(0, loader):
            return _number("loss", mean, model, Batches(loader, device_of(model), limit), split)

    def calibration_batches(self, n: int | None = None, seed: int = 0) -> list[tuple[torch.Tensor, ...]]:
        """Model inputs for calibration, the same for the same seed.

        Args:
            n: how many batches; by default as many as hold 1,024 examples (and at most 256 MB).
            seed: what random loaders shuffle by.

        Raises:
            InputError: the loader is empty.
        """
        return self.calibration_data(n, seed).inputs

    def calibration_data(self, n: int | None = None, seed: int = 0) -> Calibration:
        """As `calibration_batches`, with the loss on them where they are train batches, which have labels."""
        return read_calibration(self, n, seed)

    def pinned(self) -> tuple[Task, tuple[str, ...]]:
        """The task with its judging batches fixed where the loader would give others each time; and what to say of it.

        Seeded, most random loaders repeat. One that does not is read once, here, if its batches fit in 256 MB: then
        candidates are compared on the same ones, whichever worker judges them.
        """
        fixed: dict[str, Any] = {}
        notes: list[str] = []
        for split in ("validation", "test"):
            loader: Iterable[Any] | None = getattr(self, split)
            if loader is None or repeats(loader):
                continue
            found, complete = first_batches(loader, PINNED_BYTES)
            said = f"the {split} loader gives other batches each time it is read, whatever the seed"
            if complete:
                fixed[split] = found
                notes.append(f"{said}: it was read once, and all candidates are judged on these batches")
            else:
                notes.append(f"{said}, and they are too large to keep: candidates are judged on different batches")
        return (replace(self, **fixed) if fixed else self), tuple(notes)

    def fingerprint(self) -> str:
        """A hash of each split's first batches and length and of the metrics' names: which data this is.

        Batches that are not the same twice, even under the same seed, count by their shapes alone.
        """
        parts: dict[str, Any] = {"metrics": list(self.metrics), "minimize": sorted(self.minimize)}
        for split in SPLITS:
            if getattr(self, split) is not None:
                loader = self.loader(split)
                parts[f"{split} batches"] = len(loader) if isinstance(loader, Sized) else None
                parts[split] = digests(loader, 0, contents=repeats(loader))
        return digest(canonical_json(parts))

    def check(self, model: nn.Module, limit: int | None = None) -> TaskCheck:
        """Validate everything on the dense model: every split, the inputs, the loss and the metrics.

        Args:
            model: the trained model.
            limit: judge by at most this many validation batches.

        Raises:
            InputError: an empty loader or one that can be read once only; inputs the model refuses; a loss or metric
                that raises, is no number, or is NaN; an accuracy outside 0..1.
        """
        notes: list[str] = []
        for split in SPLITS:
            if getattr(self, split) is not None:
                self._check_split(model, split)
                if split in ("validation", "test") and is_random(self.loader(split)) and repeats(self.loader(split)):
                    notes.append(
                        f"the {split} loader shuffles or augments: it is seeded to give the same batches each time"
                    )
        metrics = self.evaluate(model, "validation", limit)
        self._check_again("validation")
        again = self.evaluate(model, "validation", limit)
        for name, value in (*metrics.items(), *again.items()):
            if not math.isfinite(value):
                raise InputError(f"metric '{name}': expected a finite number on the dense model, got {value}.")
        if self.judges_classes and not 0.0 <= metrics["accuracy"] <= 1.0:
            raise InputError(
                f"metric 'accuracy': expected a share from 0 to 1, got {metrics['accuracy']:.6g}. "
                "Return a share, or give the metric another name."
            )
        noise = {name: abs(again[name] - value) for name, value in metrics.items()}
        notes += [_noise_note(name, metrics[name], again[name]) for name, gap in noise.items() if gap > 0.0]
        return TaskCheck(metrics, (*notes, *self._size_notes(metrics)), noise)

    def _size_notes(self, metrics: Mapping[str, float]) -> tuple[str, ...]:
        """What a validation split of a single batch says of what it tells apart."""
        with seeded(0, self.validation):
            few = list(islice(self.validation, 2))
        if len(few) > 1:
            return ()
        samples = batch_size(self.inputs_of(few[0]))
        said = f"the validation split is one batch of {samples} samples"
        if not self.judges_classes:
            return (said,)
        share = metrics["accuracy"]
        return (
            f"{said}: an accuracy of {share:.3g} is known to +-{math.sqrt(share * (1 - share) / samples):.2g} by it",
        )

    def _check_again(self, split: str) -> None:
        """Refuse a loader that goes on where it stopped, or that has nothing more to give."""
        loader = self.loader(split)
        goes_on = not isinstance(loader, DataLoader) and iter(loader) is iter(loader)
        if goes_on or _first(loader, split) is None:
            raise InputError(_once(split, type(loader).__name__))

    def _check_split(self, model: nn.Module, split: str) -> None:
        """Read the first batch twice; run the model, and for the train split the loss, on it."""
        loader = self.loader(split)
        batch = _first(loader, split)
        if batch is None:
            raise InputError(f"task: the {split} loader is empty: expected at least one batch, got none.")
        self._check_again(split)
        batch = to_device(batch, device_of(model))
        inputs = self.inputs_of(batch)
        with _evaluating(model):
            try:
                outputs = call(model, inputs)
            except Exception as error:
                raise InputError(
                    f"task: the model refuses the {split} split's inputs {describe(inputs)}: {_reason(error)}. "
                    "Pass inputs=, a function from a batch to the model's inputs."
                ) from error
            if split == "train" and self.loss is not None:
                _check_loss(self.loss, outputs, batch)


def _items(metrics: object) -> list[tuple[str, Any]]:
    if not isinstance(metrics, Mapping):
        raise InputError(f"task: expected metrics as name -> function(model, batches), got {type(metrics).__name__}.")
    return [(f"metric '{name}'", function) for name, function in metrics.items()]


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"task: expected metric names of letters, digits, '_', '.' and '-', got {name!r}.")
    if _TAKEN.fullmatch(name):
        raise InputError(f"task: the metric name '{name}' stands for a column of its own. Choose another.")


def _check_loader(split: str, loader: object) -> None:
    if isinstance(loader, Iterator):
        raise InputError(_once(split, type(loader).__name__))
    if isinstance(loader, (torch.Tensor, str, bytes, Mapping)) or not (
        hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
    ):
        raise InputError(
            f"task: expected a loader of batches for {split} (a DataLoader, a list of batches), "
            f"got {type(loader).__name__}."
        )


def _once(split: str, kind: str) -> str:
    return (
        f"task: the {split} loader ({kind}) gives its batches only once: expected one that starts anew each time. "
        "Pass a DataLoader or a list of batches."
    )


def _check_loss(loss: Loss, outputs: Any, batch: Any) -> None:
    try:
        value = loss(outputs, batch)
    except Exception as error:
        raise InputError(f"loss: raised on the first train batch: {_reason(error)}.") from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise InputError(f"loss: expected a scalar tensor, got {describe(value)}.")
    if not math.isfinite(float(value)):
        raise InputError(f"loss: expected a finite number on the first train batch, got {float(value)}.")


def _first(loader: Iterable[Any], split: str) -> Any | None:
    try:
        with seeded(0, loader):
            return next(iter(loader), None)
    except Exception as error:
        raise InputError(f"task: the {split} loader raised at its first batch: {_reason(error)}.") from error


def _number(name: str, metric: Metric, model: nn.Module, batches: Batches, split: str) -> float:
    try:
        value: Any = metric(model, batches)
    except Exception as error:
        raise InputError(f"metric '{name}': raised on the {split} split: {_reason(error)}.") from error
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"metric '{name}': expected a number, got {describe(value)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error).rstrip(".")
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}".rstrip(": .")


def _noise_note(name: str, first: float, second: float) -> str:
    return (
        f"metric '{name}' is not the same twice on the dense model ({first:.6g}, then {second:.6g}): differences "
        f"between candidates of up to {abs(second - first):.2g} say nothing"
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients; each module's own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training

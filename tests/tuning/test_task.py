"""`Task`: what it computes, and what it refuses and how."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autoprune.core.errors import InputError
from autoprune.tuning import Task
from tests.tuning.problems import batches, data, network, shuffled, task


def half(model: nn.Module, batches: Iterable[Any]) -> float:
    return 0.5


def raising(model: nn.Module, batches: Iterable[Any]) -> float:
    raise ValueError("only one class present\nand more")


def nothing(model: nn.Module, batches: Iterable[Any]) -> float:
    return math.nan


def summed(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
    return outputs.square().sum()


class Oracle(nn.Module):
    """Gives logits for the class that `data` gives, wrong for the first `wrong` images of each batch."""

    def __init__(self, wrong: int = 0) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        truth = torch.randn(36, 3, generator=torch.Generator().manual_seed(7))
        scores = x.flatten(1) @ truth
        return torch.cat([-scores[: self.wrong], scores[self.wrong :]])


def test_accuracy_counts_examples_not_batches() -> None:
    images, classes = data(10)
    uneven = [(images[:8], classes[:8]), (images[8:], classes[8:])]
    metrics = task(validation=uneven).evaluate(Oracle(wrong=1))
    assert metrics == {"accuracy": pytest.approx(0.8)}


def test_one_hot_labels_and_dense_labels() -> None:
    images, classes = data(8)
    soft = [(images, nn.functional.one_hot(classes, 3).float())]
    assert task(validation=soft).evaluate(Oracle()) == {"accuracy": 1.0}
    pixels = [(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long))]
    assert task(validation=pixels).evaluate(nn.Identity()) == {"accuracy": 1.0}


def test_batches_may_be_mappings_and_outputs_may_have_names() -> None:
    class Named(nn.Module):
        def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"hidden": pixels.sum(), "logits": Oracle()(pixels)}

    images, classes = data(8)
    found = task(validation=[{"pixels": images, "labels": classes}]).evaluate(Named())
    assert found == {"accuracy": 1.0}


def test_evaluation_is_in_eval_mode_without_gradients_and_modes_come_back() -> None:
    seen: list[tuple[bool, bool]] = []

    def spy(model: nn.Module, batches: Iterable[Any]) -> torch.Tensor:
        seen.append((model.training, torch.is_grad_enabled()))
        return torch.tensor(0.25)

    model = network().train()
    model[1].eval()  # one frozen module: stays as it is
    judged = Task(batches(), batches(), metrics={"score": spy})  # type: ignore[dict-item]
    assert judged.evaluate(model) == {"score": 0.25}
    assert seen == [(False, False)]
    assert model.training
    assert not model[1].training
    with pytest.raises(InputError):
        Task(batches(), batches(), metrics={"score": raising}).evaluate(model)
    assert model.training


def test_a_limit_reads_that_many_batches_and_they_can_be_read_again() -> None:
    counts: list[tuple[int, int, int]] = []

    def count(model: nn.Module, batches: Any) -> float:
        counts.append((len(batches), sum(1 for _ in batches), sum(1 for _ in batches)))
        return 0.0

    judged = Task(batches(), batches(), metrics={"score": count})
    judged.evaluate(network(), limit=2)
    judged.evaluate(network(), "train")
    assert counts == [(2, 2, 2), (6, 6, 6)]


def test_a_shuffling_validation_loader_gives_the_same_score_each_time() -> None:
    judged = task(validation=shuffled(seed=1))
    model = network()
    scores = {judged.evaluate(model, limit=1)["accuracy"] for _ in range(4)}
    assert len(scores) == 1
    assert judged.check(model).notes == (
        "the validation loader shuffles or augments: it is seeded to give the same batches each time",
    )
    assert task().check(model).notes == ()


def test_random_generators_are_left_as_they_were() -> None:
    generator = torch.Generator().manual_seed(5)
    judged = task(train=shuffled(generator=generator), validation=shuffled(seed=1))
    before = (generator.get_state(), torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    judged.check(network())
    judged.fingerprint()
    judged.calibration_batches()
    after = (generator.get_state(), torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert before[2:] == after[2:]


def test_quality_and_its_sign() -> None:
    accuracy = task()
    assert accuracy.quality == "error"
    assert accuracy.objective({"accuracy": 0.9}) == pytest.approx(0.1)
    score = Task(batches(), batches(), metrics={"psnr": half, "loss": half}, minimize=("loss",))
    assert (score.quality, score.objective({"psnr": 30.0, "loss": 1.0})) == ("psnr", -30.0)
    loss = Task(batches(), batches(), metrics={"perplexity": half}, minimize=["perplexity"])  # type: ignore[arg-type]
    assert (loss.quality, loss.objective({"perplexity": 12.0})) == ("perplexity", 12.0)
    error = Task(batches(), batches(), metrics={"error": half}, minimize=("error",))
    assert (error.quality, error.objective({"error": 0.25})) == ("error", 0.25)


def test_without_metrics_the_mean_loss_is_minimised() -> None:
    images, classes = data(10)
    uneven = [(images[:8], classes[:8]), (images[8:], classes[8:])]
    model = network().eval()
    judged = Task(uneven, uneven, loss=mean_square)
    expected = float(model(images).detach().square().mean())
    assert judged.quality == "loss"
    assert judged.evaluate(model)["loss"] == pytest.approx(expected, rel=1e-5)
    assert judged.mean_loss(model, "train") == pytest.approx(expected, rel=1e-5)


def mean_square(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
    return outputs.square().mean()


def test_calibration_inputs() -> None:
    judged = task()
    first, again, other = (judged.calibration_batches(2, seed=seed) for seed in (0, 0, 1))
    assert [inputs[0].shape for inputs in first] == [(32, 1, 6, 6)] * 2
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    own = task(calibration=batches(64, seed=3)).calibration_batches()
    assert torch.equal(own[0][0], batches(64, seed=3)[0][0])
    enough = task(train=[batches(size=192)[0]] * 40).calibration_batches()
    assert sum(len(inputs[0]) for inputs in enough) == 1152  # the first whole batches to reach 1,024
    keywords = task(train=[{"a": torch.ones(2), "b": torch.zeros(2), "y": torch.ones(2)}]).calibration_batches()
    assert [tensor.tolist() for tensor in keywords[0]] == [[1.0, 1.0], [0.0, 0.0]]


def test_inputs_can_be_chosen() -> None:
    images, classes = data(8)
    chosen = task(validation=[(classes, classes, images)], inputs=take_last)
    assert chosen.evaluate(Oracle()) == {"accuracy": 1.0}


def take_last(batch: Any) -> Any:
    return batch[2] if len(batch) == 3 else batch[0]


def test_a_fingerprint_is_of_the_data_and_the_metrics() -> None:
    base = task().fingerprint()
    assert base == task().fingerprint()
    used = [task(train=shuffled(generator=torch.Generator().manual_seed(seed))).fingerprint() for seed in (8, 9)]
    assert used[0] == used[1]
    assert base != task(validation=batches(96, seed=2)).fingerprint()
    assert base != task(test=batches(96, seed=1)).fingerprint()
    assert base != Task(shuffled(), batches(96, seed=1), metrics={"score": half}).fingerprint()
    relabelled = [(images, (classes + 1) % 3) for images, classes in batches(96, seed=1)]
    assert base != task(validation=relabelled).fingerprint()


def test_a_fingerprint_of_data_that_cannot_be_seeded_is_of_its_shapes() -> None:
    class Noise:
        def __iter__(self) -> Iterator[Any]:
            yield torch.from_numpy(np.random.default_rng().random((4, 1, 6, 6))), torch.zeros(4)

    assert task(train=Noise()).fingerprint() == task(train=Noise()).fingerprint()


def test_a_task_can_be_sent_to_another_process() -> None:
    judged = pickle.loads(pickle.dumps(task(test=batches(96, seed=1))))  # noqa: S301
    model = network()
    assert judged.evaluate(model, "test") == task().evaluate(model)
    assert judged.fingerprint() == task(test=batches(96, seed=1)).fingerprint()


def test_check_gives_the_dense_metrics() -> None:
    model = network()
    assert task().check(model).metrics == task().evaluate(model)


def generator_of(items: list[Any]) -> Iterator[Any]:
    yield from items


class Drained:
    """Starts anew each time, on what is left."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        while self._items:
            yield self._items.pop()


class Once:
    """Looks re-iterable, and is not."""

    def __init__(self, items: list[Any]) -> None:
        self._items = iter(items)

    def __iter__(self) -> Iterator[Any]:
        return self._items


BUILT_WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: task(train=generator_of(batches())), "the train loader (generator) gives its batches only once"),
    (lambda: task(validation=iter(batches())), "the validation loader (list_iterator) gives its batches only once"),
    (lambda: task(test=zip(*data(4), strict=True)), "the test loader (zip) gives its batches only once"),
    (lambda: task(train=5), "expected a loader of batches for train (a DataLoader, a list of batches), got int"),
    (lambda: task(train=None), "for train (a DataLoader, a list of batches), got NoneType"),
    (lambda: task(validation=torch.zeros(3)), "got Tensor"),
    (lambda: Task(batches(), batches()), "or a loss, got neither"),
    (lambda: Task(batches(), batches(), metrics=[half]), "metrics as name -> function(model, batches), got list"),  # type: ignore[arg-type]
    (lambda: Task(batches(), batches(), metrics={"a": 3}), "expected a function for metric 'a', got int"),  # type: ignore[dict-item]
    (lambda: Task(batches(), batches(), loss="mse"), "expected a function for loss, got str"),  # type: ignore[arg-type]
    (lambda: Task(batches(), batches(), metrics={"a b": half}), "expected metric names of letters, digits"),
    (lambda: Task(batches(), batches(), metrics={"size": half}), "'size' stands for a column of its own"),
    (lambda: Task(batches(), batches(), metrics={"latency_p50": half}), "'latency_p50' stands for a column"),
    (lambda: Task(batches(), batches(), metrics={"accuracy": half, "error": half}), "no metric 'error' beside"),
    (lambda: Task(batches(), batches(), metrics={"psnr": half}, minimize=("pnsr",)), "Did you mean 'psnr'?"),
]


@pytest.mark.parametrize(("build", "message"), BUILT_WRONG)
def test_what_a_task_refuses(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build()
    assert message in str(caught.value)


class Broken(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        raise OSError("disk on fire")


CHECKED_WRONG: list[tuple[Callable[[], Task], str]] = [
    (lambda: task(train=[]), "the train loader is empty: expected at least one batch, got none"),
    (lambda: task(validation=[]), "the validation loader is empty"),
    (lambda: task(test=Once(batches())), "the test loader (Once) gives its batches only once"),
    (lambda: task(validation=Drained(batches())), "the validation loader (Drained) gives its batches only once"),
    (lambda: task(train=Drained(batches()[:1])), "the train loader (Drained) gives its batches only once"),
    (
        lambda: task(train=DataLoader(Broken(*data(8)), batch_size=4)),
        "raised at its first batch: OSError: disk on fire",
    ),
    (lambda: task(train=[torch.zeros(2, 3)]), "the model refuses the train split's inputs tuple(tensor (2, 3))"),
    (lambda: task(train=[object()]), "expected batches that are tensors, sequences or mappings, got object"),
    (lambda: task(train=[("text", 1)]), "expected model inputs as a tensor, a tuple of tensors or a mapping"),
    (lambda: task(train=[data(4)[0]]), "expected batches (inputs, labels) or a mapping with one of labels"),
    (lambda: task(train=[(data(4)[0], torch.tensor([9] * 4))]), "loss: raised on the first train batch: IndexError"),
    (lambda: task(validation=[(data(4)[0], torch.zeros(4, 2, 2))]), "accuracy: expected labels (4,) for logits (4, 3)"),
    (
        lambda: Task(batches(), batches(), metrics={"auc": raising}),
        "metric 'auc': raised on the validation split: ValueError: only one class present.",
    ),
    (
        lambda: Task(batches(), batches(), metrics={"auc": nothing}),
        "metric 'auc': expected a finite number on the dense model, got nan",
    ),
    (
        lambda: Task(batches(), batches(), metrics={"auc": half, "f1": nothing}),
        "metric 'f1': expected a finite number on the dense model, got nan",
    ),
    (
        lambda: Task(batches(), batches(), metrics={"auc": lambda m, b: cast(Any, "good")}),
        "metric 'auc': expected a number, got str",
    ),
    (
        lambda: Task(batches(), batches(), metrics={"accuracy": lambda m, b: 97.5}),
        "metric 'accuracy': expected a share from 0 to 1, got 97.5. Return a share",
    ),
    (lambda: Task(batches(), batches(), loss=lambda o, b: o), "loss: expected a scalar tensor, got tensor (32, 3)"),
    (
        lambda: Task(batches(), batches(), loss=lambda o, b: o.sum() * math.inf),
        "loss: expected a finite number on the first train batch, got",
    ),
]


@pytest.mark.parametrize(("build", "message"), CHECKED_WRONG)
def test_what_a_check_refuses(build: Callable[[], Task], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build().check(network())
    assert message in str(caught.value)


def test_splits_by_name() -> None:
    with pytest.raises(InputError, match=r"there is no test split\. Pass test="):
        task().evaluate(network(), "test")
    with pytest.raises(InputError, match=r"unknown split 'valid'\. Did you mean 'validation'\?"):
        task().evaluate(network(), "valid")
    with pytest.raises(InputError, match="expected a loss, got none"):
        Task(batches(), batches(), metrics={"score": half}).mean_loss(network())
    with pytest.raises(InputError, match="the calibration loader gave no batches"):
        task(calibration=[]).calibration_batches()


def test_nan_on_a_candidate_is_handed_through() -> None:
    judged = Task(batches(), batches(), metrics={"score": nothing})
    assert math.isnan(judged.evaluate(network())["score"])

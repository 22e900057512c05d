"""Fine-tuning: it learns, never returns worse than it got, resumes exactly, and says what goes wrong."""

from __future__ import annotations

import copy
import logging
import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autoprune.core.errors import Failure, InputError
from autoprune.graph.tensor_file import read_any_tensors, read_notes, write_tensors
from autoprune.tuning import FinetuneResult, FinetuneSettings, Task, finetune
from tests.tuning.problems import CLASSES, batches, data, network, same, shuffled, state_of, task

PLAIN = FinetuneSettings(epochs=3, lr=3e-3, mixed_precision="off")


def tuned(model: nn.Module, *args: Any, **kwargs: Any) -> FinetuneResult:
    result = finetune(model, *args, **kwargs)
    assert isinstance(result, FinetuneResult), result
    return result


def squared(outputs: Any, batch: Any) -> torch.Tensor:
    return outputs.square().mean()


def negated_square(model: nn.Module, batches: Iterable[Any]) -> float:
    return -sum(float(model(images).square().mean()) for images, _ in batches)


def test_it_learns() -> None:
    model, judged = network(), task()
    before = judged.evaluate(model)["accuracy"]
    result = tuned(model, judged, PLAIN.model_copy(update={"epochs": 12}))
    assert result.metrics["accuracy"] > before + 0.15
    assert judged.evaluate(model) == result.metrics
    assert [epoch.number for epoch in result.history] == list(range(13))
    assert result.history[0].loss is None
    assert result.history[0].metrics == {"accuracy": before}
    assert all(epoch.loss is not None and math.isfinite(epoch.loss) for epoch in result.history[1:])
    assert (result.precision, result.distilled, result.resumed_from, result.notes) == ("float32", False, None, ())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_every_optimizer_and_schedule_lowers_the_loss(optimizer: str, schedule: str) -> None:
    settings = FinetuneSettings.model_validate(
        {"epochs": 4, "optimizer": optimizer, "schedule": schedule, "mixed_precision": "off"}
    )
    history = tuned(network(), task(), settings).history
    assert history[-1].loss is not None
    assert history[1].loss is not None
    assert history[-1].loss < history[1].loss


def test_the_best_state_is_kept_even_the_one_it_came_in() -> None:
    """Trained on wrong labels, every epoch is worse than none."""
    model = network(dropout=0.0)
    tuned(model, task(), PLAIN.model_copy(update={"epochs": 12}))
    before = state_of(model)
    wrong = [(images, (classes + 1) % CLASSES) for images, classes in batches()]
    result = tuned(model, task(train=wrong), PLAIN)
    assert result.best_epoch == 0
    assert result.metrics == result.history[0].metrics
    assert same(state_of(model), before)


def test_the_best_epoch_is_the_best_of_the_history() -> None:
    for seed in range(3):
        model = network(seed)
        result = tuned(model, task(), PLAIN.model_copy(update={"lr": 0.05, "seed": seed}))
        scores = [epoch.metrics["accuracy"] for epoch in result.history]
        assert scores[result.best_epoch] == max(scores)
        assert task().evaluate(model)["accuracy"] == max(scores)


def test_same_seed_same_weights() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.rand(seed + 3)  # whatever was drawn before does not matter
        model = network()
        tuned(model, task(), PLAIN.model_copy(update={"seed": seed}), evaluate=False)
        states.append(state_of(model))
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


@pytest.mark.parametrize("precision", ["off", "bf16"])
@pytest.mark.parametrize("stop_after", [1, 2])
def test_resumed_equals_uninterrupted(tmp_path: Path, stop_after: int, precision: str) -> None:
    settings = PLAIN.model_copy(update={"mixed_precision": precision})
    generator = torch.Generator()
    judged = task(train=shuffled(generator=generator))
    whole, parts, teacher = network(), network(), network(seed=5)
    expected = tuned(whole, judged, settings, teacher=teacher)

    class StoppedError(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what == f"epoch {stop_after + 1} of 3":
            raise StoppedError

    file = tmp_path / "deep" / "checkpoint.pt"
    with pytest.raises(StoppedError):
        finetune(parts, judged, settings, teacher=teacher, checkpoint=file, progress=stop)
    generator.manual_seed(99)
    fresh = network()
    result = tuned(fresh, judged, settings, teacher=teacher, checkpoint=file)
    assert result.resumed_from == stop_after
    assert same(state_of(fresh), state_of(whole))
    assert [(e.number, e.loss, e.metrics) for e in result.history] == [
        (e.number, e.loss, e.metrics) for e in expected.history
    ]
    assert os.listdir(file.parent) == ["checkpoint.pt"]


def test_a_finished_checkpoint_is_not_trained_again(tmp_path: Path) -> None:
    first, second = network(), network()
    result = tuned(first, task(), PLAIN, checkpoint=tmp_path / "c.pt")
    steps: list[int] = []
    again = tuned(
        second, task(), PLAIN, checkpoint=tmp_path / "c.pt", progress=lambda what, done, total: steps.append(done)
    )
    assert again.history == result.history
    assert again.resumed_from == 3
    assert same(state_of(first), state_of(second))
    assert steps == []


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_text(path: Path) -> None:
    path.write_text("not a checkpoint")


def damage_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Path("anything")))


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], object]) -> None:
    tensors, notes = read_any_tensors(path, 2**20), read_notes(path)
    change(tensors, notes)
    write_tensors(path, tensors, notes)


def damage_schema(path: Path) -> None:
    rewritten(path, lambda tensors, notes: notes.update(schema="autoprune.finetune/0"))


def damage_shape(path: Path) -> None:
    rewritten(path, lambda tensors, notes: tensors.update({"best.5.bias": torch.zeros(1)}))


def damage_type(path: Path) -> None:
    rewritten(path, lambda tensors, notes: tensors.update({"model.5.bias": torch.zeros(CLASSES, dtype=torch.int64)}))


def damage_history(path: Path) -> None:
    rewritten(path, lambda tensors, notes: tensors.update({"history.places": torch.tensor([2, 3])}))


def damage_losses(path: Path) -> None:
    rewritten(path, lambda tensors, notes: tensors["history.losses"].fill_(math.inf))


def damage_optimizer(path: Path) -> None:
    rewritten(path, lambda tensors, notes: tensors.__delitem__("optimizer.0.exp_avg"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_truncate, "it cannot be read"),
        (damage_empty, "it cannot be read"),
        (damage_text, "it cannot be read"),
        (damage_pickle, "it cannot be read"),
        (damage_schema, "it is not a checkpoint of version autoprune.finetune/2"),
        (damage_shape, "its tensors are not the model's"),
        (damage_type, "its tensors are not the model's"),
        (damage_history, "its epochs do not fit together"),
        (damage_losses, "its epochs do not fit together"),
        (damage_optimizer, "its tensors are not the model's"),
    ],
)
def test_a_broken_checkpoint_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], reason: str
) -> None:
    file = tmp_path / "c.pt"
    expected, model = network(), network()
    tuned(expected, task(), PLAIN, checkpoint=file)
    damage(file)
    with caplog.at_level(logging.WARNING):
        result = tuned(model, task(), PLAIN, checkpoint=file)
    assert reason in caplog.text
    assert "training starts over" in caplog.text
    assert len(result.notes) == 1
    assert result.resumed_from is None
    assert same(state_of(model), state_of(expected))
    assert tuned(network(), task(), PLAIN, checkpoint=file).resumed_from == 3  # written anew


@pytest.mark.parametrize("change", [{"lr": 1e-3}, {"epochs": 2}, {"seed": 1}])
def test_a_checkpoint_of_other_settings_is_ignored(tmp_path: Path, change: dict[str, Any]) -> None:
    tuned(network(), task(), PLAIN, checkpoint=tmp_path / "c.pt")
    result = tuned(network(), task(), PLAIN.model_copy(update=change), checkpoint=tmp_path / "c.pt")
    assert result.resumed_from is None
    assert "written with other settings or for another model" in result.notes[0]


def test_a_checkpoint_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/c\.pt: .*Choose a folder you may write to"):
        finetune(network(), task(), PLAIN, checkpoint=tmp_path / "file" / "c.pt")


def test_divergence_is_a_failure_and_the_model_is_as_good_as_before() -> None:
    model = network()
    before = state_of(model)
    settings = FinetuneSettings(epochs=2, lr=1e30, optimizer="sgd", clip_norm=None, mixed_precision="off")
    failure = finetune(model, task(), settings)
    assert isinstance(failure, Failure)
    assert failure.kind == "diverged"
    assert "in epoch 1 of 2 at learning rate 1e+30" in failure.message
    assert failure.hint == "lower lr"
    assert same(state_of(model), before)


def test_a_loss_that_becomes_nan_is_a_failure_with_clipping_too() -> None:
    calls: list[int] = []

    def turning(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        calls.append(1)
        return outputs.square().mean() * (math.nan if len(calls) > 7 else 1.0)

    failure = finetune(network(), Task(batches(), batches(), loss=turning), PLAIN, evaluate=False)
    assert isinstance(failure, Failure)
    assert (failure.kind, len(calls)) == ("diverged", 12)  # seen at the end of the second epoch


def test_out_of_memory_is_a_failure() -> None:
    def greedy(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("tried to allocate 1 PiB\ntrace")

    failure = finetune(network(), Task(batches(), batches(), loss=greedy, metrics={"m": negated_square}), PLAIN)
    assert failure == Failure("out_of_memory", "tried to allocate 1 PiB", "use smaller train batches")


def test_modes_and_random_generators_are_left_as_they_were() -> None:
    model, teacher = network().eval(), network(seed=3).train()
    taught = state_of(teacher)
    before = torch.get_rng_state()
    tuned(model, task(), PLAIN, teacher=teacher)
    assert not any(module.training for module in model.modules())
    assert all(module.training for module in teacher.modules())
    assert same(state_of(teacher), taught)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_student_follows_its_teacher() -> None:
    """A task without a loss: only the teacher says what to do."""
    teacher = network(dropout=0.0)
    tuned(teacher, task(), PLAIN.model_copy(update={"epochs": 12}))
    images, _ = data()
    judged = Task.classification(shuffled(), batches(96, seed=1))
    unlabelled = Task(judged.train, judged.validation, metrics=judged.metrics)
    student = network(seed=4, dropout=0.0)

    def agreement() -> float:
        return float((student.eval()(images).argmax(1) == teacher.eval()(images).argmax(1)).float().mean())

    before = agreement()
    result = tuned(student, unlabelled, PLAIN.model_copy(update={"epochs": 10}), teacher=teacher)
    assert result.distilled
    assert agreement() > before + 0.3


def test_distillation_of_other_outputs_than_logits() -> None:
    class Two(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.body = network(seed, dropout=0.0)

        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            y = self.body(x)
            return {"scores": y, "pair": (y * 2, torch.ones(3, dtype=torch.long))}

    judged = Task(batches(), batches(), metrics={"score": lambda model, batches: 0.0})
    result = tuned(Two(0), judged, PLAIN, teacher=Two(1))
    losses = [epoch.loss for epoch in result.history[1:]]
    assert losses[0] is not None
    assert losses[-1] is not None
    assert losses[-1] < losses[0]


def test_progress_counts_to_the_end() -> None:
    told: list[tuple[str, int, int]] = []
    tuned(network(), task(), PLAIN, progress=lambda *what: told.append(what))
    assert told[-1] == ("epoch 3 of 3", 18, 18)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_max_batches_and_loaders_without_a_length() -> None:
    class Stream:
        reads = 0

        def __iter__(self) -> Iterator[Any]:
            for batch in batches():
                self.reads += 1
                yield batch

    stream = Stream()
    told: list[int] = []
    settings = PLAIN.model_copy(update={"max_batches": 2, "epochs": 2})
    tuned(network(), task(train=stream), settings, progress=lambda what, done, total: told.append(total))
    assert set(told) == {4}
    assert stream.reads <= 3 + 2 * 2  # a look at the length, and two epochs


def test_a_last_batch_of_one_example_is_left_out_for_batch_norm() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    loader = DataLoader(TensorDataset(*data(33)), batch_size=32)
    assert tuned(Flat(), task(train=loader), PLAIN).history[-1].number == 3
    single = DataLoader(TensorDataset(*data(3)), batch_size=1)
    with pytest.raises(InputError, match="expected train batches of at least 2 examples, got none"):
        finetune(Flat(), task(train=single), PLAIN)


def test_no_epochs_only_judges() -> None:
    model = network()
    before = state_of(model)
    result = tuned(model, task(), FinetuneSettings(epochs=0))
    assert result.best_epoch == 0
    assert len(result.history) == 1
    assert same(state_of(model), before)


def test_bf16_leaves_float32_contiguous_weights() -> None:
    model = network()
    result = tuned(model, task(), PLAIN.model_copy(update={"mixed_precision": "bf16"}))
    assert result.precision == "bfloat16"
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in model.parameters())
    assert result.metrics["accuracy"] >= result.history[0].metrics["accuracy"]


def test_a_model_that_needs_the_usual_layout_trains_in_bf16_too() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, padding=1)
            self.head = nn.Linear(144, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x).view(x.shape[0], 144))

    model = Viewing()
    tuned(model, task(), PLAIN.model_copy(update={"mixed_precision": "bf16"}))
    assert model.conv.weight.is_contiguous()


def test_a_model_that_refuses_bf16_is_trained_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(36, 8), nn.Linear(8, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.first(x.flatten(1))
            if hidden.dtype != torch.float32:
                raise RuntimeError("expected float32")
            return self.second(hidden)

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    result = tuned(Strict(), task(), FinetuneSettings(epochs=1))
    assert result.precision == "float32"
    assert result.notes == ("the model does not run in bfloat16; it is trained in float32",)


def test_own_tensors_are_made_first() -> None:
    """A pruned model shares what was not sliced with the dense one, until it is told to make its own."""
    dense = network()
    before = state_of(dense)

    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()
            for mine, theirs in zip(self.body.parameters(), dense.parameters(), strict=True):
                mine.data = theirs.data

        def clone_tensors(self) -> nn.Module:
            for parameter in self.parameters():
                parameter.data = parameter.data.clone()
            return self

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    tuned(Sharing(), task(), PLAIN, teacher=dense)
    assert same(state_of(dense), before)


def test_what_is_refused() -> None:
    model = network()
    with pytest.raises(InputError, match="the teacher shares tensors with the model"):
        finetune(model, task(), PLAIN, teacher=model)
    frozen = copy.deepcopy(model).requires_grad_(False)
    with pytest.raises(InputError, match="expected a model with parameters that require gradients, got none"):
        finetune(frozen, task(), PLAIN)
    unlabelled = Task(batches(), batches(), metrics={"score": negated_square})
    with pytest.raises(InputError, match="expected a loss or a teacher to distil from, got neither"):
        finetune(model, unlabelled, PLAIN)
    with pytest.raises(InputError, match="got neither"):
        finetune(model, unlabelled, PLAIN.model_copy(update={"distill": False}), teacher=network(3))
    with pytest.raises(InputError, match="expected at least one train batch, got none"):
        finetune(model, task(train=[]), PLAIN)
    with pytest.raises(InputError, match="loss: raised on a train batch: IndexError"):
        finetune(model, task(train=[(data(4)[0], torch.tensor([9] * 4))]), PLAIN)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES + 1))
    with pytest.raises(InputError, match=r"expected logits of the teacher's shape \(32, 4\), got \(32, 3\)"):
        finetune(model, task(), PLAIN, teacher=wide)


def test_a_result_can_be_sent_between_processes() -> None:
    result = tuned(network(), task(), PLAIN)
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301

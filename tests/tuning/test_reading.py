"""How loaders read: in parts, in another order, and the same each time or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from autoprune.core.errors import InputError
from autoprune.tuning.batches import as_inputs, default_inputs
from autoprune.tuning.reading import Samples, first_batches, is_random, repeats
from tests.tuning.problems import batches, network, shuffled, task


def inputs(batch: Any) -> Any:
    return as_inputs(default_inputs(batch))


class Pair(NamedTuple):
    images: torch.Tensor
    labels: torch.Tensor


def test_samples_in_another_order_are_the_same_samples() -> None:
    given = batches(90, size=32)
    found = Samples.of(given, inputs)
    assert found is not None
    assert len(found) == 90
    for mine, theirs in zip(found.as_given(), given, strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])
    places = torch.from_numpy(np.random.default_rng(0).permutation(90)[:50])
    chosen = found.at(places)
    assert len(chosen) == 2
    read = list(chosen)
    assert [len(batch[1]) for batch in read] == [32, 18]
    assert torch.equal(torch.cat([batch[0] for batch in read]), torch.cat([batch[0] for batch in given])[places])
    assert [len(batch[1]) for batch in chosen] == [32, 18]  # again


@pytest.mark.parametrize("nest", [lambda x, y: {"x": x, "y": y}, Pair, lambda x, y: ({"a": x}, [y])])
def test_batches_nest_as_before(nest: Any) -> None:
    given = [nest(x, y) for x, y in batches(64)]
    found = Samples.of(given, lambda batch: (torch.zeros(32),))
    assert found is not None
    first = next(iter(found.at(torch.arange(5))))
    assert type(first) is type(given[0])


@pytest.mark.parametrize(
    "given",
    [
        [(torch.zeros(4, 3), torch.zeros(4)), (torch.zeros(4, 5), torch.zeros(4))],  # padded to another length
        [(torch.zeros(4, 3), ["a", "b", "c", "d"])],
        [(torch.zeros(4, 3), torch.zeros(()))],
        [(torch.zeros(4, 3), torch.zeros(2))],
        [(torch.zeros(4, 3), torch.zeros(4)), (torch.zeros(4, 3),)],
    ],
)
def test_batches_that_are_more_than_rows(given: Any) -> None:
    assert Samples.of(given, inputs) is None


def test_first_batches_that_fit() -> None:
    given = batches(96, size=32)
    assert first_batches(given, 10**9) == (given, True)
    assert first_batches(given, 1)[1] is False
    assert len(first_batches(given, 1)[0]) == 1
    assert first_batches([], 1) == ([], True)


class Unseeded:
    """Shuffles by a generator of its own, from the system's entropy."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[Any]:
        self.reads += 1
        images, labels = batches(96, size=96, seed=1)[0]
        order = torch.from_numpy(np.random.default_rng().permutation(96))
        return iter(list(zip(images[order].split(32), labels[order].split(32), strict=True)))


def test_what_repeats() -> None:
    assert repeats(batches())
    assert not is_random(batches())
    assert repeats(shuffled())
    assert is_random(shuffled())
    assert not repeats(Unseeded())


def test_a_loader_that_cannot_be_seeded_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Unseeded()
    pinned, notes = task(validation=loader).pinned()
    assert notes == (
        "the validation loader gives other batches each time it is read, whatever the seed: it was read once, and all "
        "candidates are judged on these batches",
    )
    before = loader.reads
    checked = pinned.check(network())
    assert checked.noise == {"accuracy": 0.0}
    assert loader.reads == before
    same = task()
    assert same.pinned() == (same, ())
    monkeypatch.setattr("autoprune.tuning.task.PINNED_BYTES", 1)
    _, notes = task(validation=loader).pinned()
    assert "too large to keep" in notes[0]


def test_a_metric_that_draws_its_own_numbers_is_told_with_its_noise() -> None:
    rng = np.random.default_rng(3)
    judged = task()
    noisy = type(judged)(judged.train, judged.validation, metrics={"score": lambda model, batches: rng.random()})
    found = noisy.check(network())
    assert found.noise["score"] > 0.0
    assert "metric 'score' is not the same twice on the dense model" in found.notes[0]
    assert "say nothing" in found.notes[0]


def test_a_metric_that_fails_now_and_then_is_refused() -> None:
    values = iter([0.5, float("nan")])
    judged = task()
    shaky = type(judged)(judged.train, judged.validation, metrics={"score": lambda model, batches: next(values)})
    with pytest.raises(InputError, match="expected a finite number on the dense model, got nan"):
        shaky.check(network())


def test_a_validation_split_of_one_batch_says_what_it_tells_apart() -> None:
    found = task(validation=batches(96, size=96, seed=1)).check(network())
    assert "the validation split is one batch of 96 samples: an accuracy of" in found.notes[0]
    assert "is known to +-0.0" in found.notes[0]

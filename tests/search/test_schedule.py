"""Which batch is proposed when, and from what."""

from __future__ import annotations

import pytest

from autoprune.search.proposals import Proposal
from autoprune.search.schedule import Batch, Schedule


def batch(schedule: Schedule, evaluated: int | None = None, complete: bool = True) -> Batch:
    """The next batch, of which the tables allow so many."""
    proposals = tuple(Proposal(number, (number,), "sampler") for number in schedule.numbers)
    chosen = proposals[:evaluated]
    return Batch(schedule.place, proposals, chosen, (None,) * len(chosen), complete)


def known_at_proposal(schedule: Schedule) -> list[int]:
    """How many batches were finished when each was proposed, if they finish in order."""
    found = []
    while True:
        if schedule.due:
            found.append(schedule.told)
            schedule.opened(batch(schedule, min(schedule.left, len(schedule.numbers))))
        elif schedule.finished(range(10_000)):
            schedule.closed()
        else:
            return found


@pytest.mark.parametrize(
    ("firsts", "overlap", "expected"),
    [
        ([12], False, [0, 1, 2, 3, 4]),
        ([12], True, [0, 1, 1, 2, 3]),
        ([4, 8], False, [0, 1, 2, 3, 4, 5]),
        ([4, 8], True, [0, 1, 2, 2, 3, 4]),
    ],
)
def test_what_is_known_when_a_batch_is_proposed(firsts: list[int], overlap: bool, expected: list[int]) -> None:
    schedule = Schedule(44, firsts, 8, overlap)
    assert known_at_proposal(schedule) == expected
    assert (schedule.told, schedule.evaluated, schedule.left) == (len(expected), 44, 0)


def test_two_batches_are_under_way_at_most() -> None:
    schedule = Schedule(100, [4], 8, True)
    recorded: set[int] = set()
    for first, numbers in [(0, range(4)), (4, range(4, 12)), (12, range(12, 20))]:
        assert schedule.due
        assert schedule.numbers == numbers
        schedule.opened(batch(schedule))
        if first == 0:
            assert not schedule.due  # the first batch stands alone
            recorded |= set(numbers)
            assert schedule.finished(recorded)
            schedule.closed()
    assert not schedule.due
    recorded |= set(range(12, 20))
    assert not schedule.finished(recorded)  # the later one is through, the earlier is not
    assert not schedule.due
    recorded |= set(range(4, 12))
    assert schedule.finished(recorded)
    assert schedule.closed().place == 1
    assert schedule.due


def test_the_trials_run_out() -> None:
    schedule = Schedule(10, [8], 8, False)
    schedule.opened(batch(schedule))
    schedule.closed()
    schedule.opened(batch(schedule, 2, complete=False))
    assert not schedule.goes_on
    assert not schedule.finished(range(100))  # what was left out of it may still be evaluated by a longer search


def test_nothing_new_is_the_end() -> None:
    schedule = Schedule(10, [8], 8, True)
    schedule.opened(Batch(0, (), (), (), True))
    assert not schedule.goes_on
    assert not schedule.finished(range(100))

"""How many jobs a worker gets at once, and what becomes of those that are taken back."""

from __future__ import annotations

import pytest

from autoprune.core.errors import Failure
from autoprune.search.executors import Job
from autoprune.search.executors.pool import CALL_S, MOST_AT_ONCE, Assignment, Feed
from tests.search.jobs import Bench

WHY = Failure("worker died", "for a test")


def feed(followed: int = 99, seconds: float = 0.01, measured: int = 16) -> Feed:
    """Of a hundred jobs, after some whose times are known."""
    jobs = Feed(Job(i, Bench.square, (i,), followed=followed) for i in range(100))
    for _ in range(measured):
        jobs.took(seconds)
    return jobs


def ids(assignments: tuple[Assignment, ...]) -> list[int]:
    return [assignment.job.id for assignment in assignments]


@pytest.mark.parametrize(
    ("given", "workers", "count"),
    [
        (feed(), 8, MOST_AT_ONCE),
        (feed(seconds=0.2), 8, 4),
        (feed(seconds=0.3), 8, 3),
        (feed(seconds=0.51), 8, 1),
        (feed(seconds=60.0), 8, 1),
        (feed(measured=15), 8, 1),  # too few to tell
        (feed(followed=0), 1, 1),
        (feed(followed=15), 8, 2),  # as many are left for each
        (feed(followed=14), 8, 1),
    ],
)
def test_how_many_jobs_a_worker_gets(given: Feed, workers: int, count: int) -> None:
    assert ids(given.take_some(workers, CALL_S)) == list(range(count))


def test_the_longest_of_late_decides() -> None:
    given = feed(seconds=0.01)
    given.took(10.0)
    assert ids(given.take_some(1, CALL_S)) == [0]
    for _ in range(16):
        given.took(0.01)
    assert len(given.take_some(1, CALL_S)) == MOST_AT_ONCE


def test_of_several_that_are_lost_each_is_tried_singly_and_none_is_blamed() -> None:
    given = feed()
    several = given.take_some(1, CALL_S)
    assert given.lost(several, WHY) == []
    for number in range(MOST_AT_ONCE):
        (alone,) = given.take_some(1, CALL_S)
        assert (alone.job.id, alone.attempt) == (number, 1)
    assert len(given.take_some(1, CALL_S)) == MOST_AT_ONCE


def test_one_that_is_lost_again_is_a_failure() -> None:
    given = feed(followed=0)
    first = given.take_some(1, CALL_S)
    assert given.lost(first, WHY) == []
    again = given.take_some(1, CALL_S)
    assert (ids(again), again[0].attempt) == ([0], 2)
    ((number, failure),) = given.lost(again, WHY)
    assert (number, failure.message) == (0, "for a test; tried 2 times")


def test_fewer_where_no_more_come() -> None:
    given = Feed([Job(0, Bench.square, (0,), followed=9), None, Job(1, Bench.square, (1,))])
    for _ in range(16):
        given.took(0.01)
    assert ids(given.take_some(1, CALL_S)) == [0]
    assert given.waits
    given.answered()
    assert ids(given.take_some(1, CALL_S)) == [1]
    assert given.take_some(1, CALL_S) == ()
    assert not given.more

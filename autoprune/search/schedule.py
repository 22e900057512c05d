"""Which batch comes next, what is known when it is proposed, and which are under way.

A batch is proposed from what earlier batches found, all of it or all but the last: that alone decides what is proposed,
so neither the number of workers nor the order in which they finish does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass

from autoprune.search.proposals import Proposal


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch that was proposed.

    Attributes:
        place: among the batches, from 0.
        proposals: in order of number.
        chosen: those to evaluate; the tables exclude the others.
        rivals: what each of `chosen` races against, if it races.
        complete: whether `chosen` are all that the tables allow. Otherwise the trials ran out, and it is the last.
    """

    place: int
    proposals: tuple[Proposal, ...]
    chosen: tuple[Proposal, ...]
    rivals: tuple[float | None, ...]
    complete: bool


class Schedule:
    """Counts batches and trials.

    Args:
        trials: evaluations planned.
        firsts: proposals of the first batches. Each is proposed once the one before is finished, as is the batch
            after them: what they find is what everything else builds on.
        batch: proposals of each later one.
        overlap: propose a batch while the one before it is evaluated, from what those before that one found.

    Attributes:
        told: batches that are finished, and whose results are there to propose from.
        evaluated: evaluations in them.
    """

    def __init__(self, trials: int, firsts: Sequence[int], batch: int, overlap: bool) -> None:
        self._firsts = tuple(firsts)
        self._batch = batch
        self._overlap = overlap
        self._left = trials
        self._open: deque[Batch] = deque()
        self._place = self._first = 0  # of the next batch, and of its first proposal
        self._ended = False
        self.told = self.evaluated = 0

    @property
    def place(self) -> int:
        """Of the next batch."""
        return self._place

    @property
    def numbers(self) -> range:
        """Of the trials of the next batch."""
        size = self._firsts[self._place] if self._place < len(self._firsts) else self._batch
        return range(self._first, self._first + size)

    @property
    def left(self) -> int:
        """Evaluations that no batch has yet."""
        return self._left

    @property
    def goes_on(self) -> bool:
        """Whether there is another batch to propose, now or later."""
        return not self._ended and self._left > 0

    @property
    def due(self) -> bool:
        """Whether the next batch is to be proposed now: what it is proposed from is known, and no more than that."""
        firsts = len(self._firsts)
        wanted = max(firsts, self._place - 1) if self._overlap and self._place > firsts else self._place
        return self.goes_on and self.told == wanted

    def end(self) -> None:
        """Propose no more; what was proposed is finished."""
        self._ended = True

    def opened(self, batch: Batch) -> None:
        """The next batch was proposed. One without proposals ends the search: everything there is has been tried."""
        self._first = self.numbers.stop
        self._place += 1
        self._left -= len(batch.chosen)
        if batch.proposals:
            self._open.append(batch)
        if not batch.proposals or not batch.complete:
            self.end()

    def finished(self, recorded: Container[int]) -> bool:
        """Whether the oldest batch under way is recorded as a whole."""
        if not self._open or not self._open[0].complete:
            return False
        return all(proposal.number in recorded for proposal in self._open[0].proposals)

    def closed(self) -> Batch:
        """Take out the oldest batch under way, which is finished; what follows is proposed from it too."""
        batch = self._open.popleft()
        self.told += 1
        self.evaluated += len(batch.chosen)
        return batch

"""The search itself: batches of proposals, checked against the tables, evaluated by an executor, stored, and told.

What is proposed depends on (seed, trial number) alone: a batch is asked for as a whole, from what certain earlier
batches found (`schedule.py`), with a seed of its own. So it does not matter how many workers there are or in which
order they finish, and a search interrupted anywhere proposes the same again, takes from storage what is finished, and
evaluates the rest.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.search.executors import Executor, Job
from autoprune.search.interrupts import Interrupts
from autoprune.search.judge import Judge, SearchProblem
from autoprune.search.lock import FolderLock
from autoprune.search.prior import Prior, make_prior
from autoprune.search.progress import Plateau, Progress, ProgressMeter, TimeBudget
from autoprune.search.proposals import Proposal, derived_seed, without_repeats
from autoprune.search.samplers import SAMPLERS, Sampler, SamplerSettings
from autoprune.search.schedule import Batch, Schedule
from autoprune.search.storage import Record, TrialStorage
from autoprune.search.trial import Choice, Origin, Seed, Trial

__all__ = ["Progress", "SearchProblem", "Seed", "StudySettings", "Trial", "run_search"]

SCHEMA = "autoprune.study/1"
MAX_FAILURES = 5  # evaluations that all fail alike before the first success; then it is not the policies
MAX_BARREN = 20  # batches in a row in which no policy meets the constraints

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudySettings:
    """How it is searched.

    Attributes:
        trials: policies to evaluate, seeds included. Infeasible ones are recorded besides: they cost nothing.
        sampler: a registered sampler.
        seed: of all proposals.
        time_budget_s: no evaluation is started that would probably end after this long (in this process; a resumed run
            has it again).
        batch: proposals a batch; the sampler decides where None. A resumed run keeps what it was started with.
        storage: URL of a database for the trials, instead of the journal in the run folder.
        racing: an evaluation is told the quality of the best policy that costs no more in anything else, where one is
            known, as a third argument: it may stop once it is surely worse.
        plateau: stop after so many evaluations without a rise of the hypervolume by a thousandth; None goes on to the
            last trial. A search stopped so stops there again when it is called again, and goes on with a larger one.
        overlap: propose each batch while the one before it is evaluated, from what those before that one found: no
            worker waits for the last of a batch, and proposals know a batch less. Part of what a search is: it changes
            what is proposed, and a resumed run must have the same.

    Raises:
        InputError: fewer than one trial, a seed below 0, a time budget that is not above 0, or a plateau below 1.
    """

    trials: int = 200
    sampler: str = "surrogate"
    seed: int = 0
    time_budget_s: float | None = None
    batch: int | None = None
    storage: str | None = field(default=None, repr=False)  # it may hold a password
    racing: bool = False
    plateau: int | None = None
    overlap: bool = False

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"search: expected trials >= 1, got {self.trials}.")
        if self.plateau is not None and self.plateau < 1:
            raise InputError(f"search: expected a plateau of at least 1 evaluation, got {self.plateau}.")
        if self.seed < 0:
            raise InputError(f"search: expected a seed >= 0, got {self.seed}.")
        if self.time_budget_s is not None and not self.time_budget_s > 0.0:
            raise InputError(f"search: expected a time budget above 0 s, got {self.time_budget_s}.")


@dataclass(frozen=True)
class Later:
    """What is worked out once the first seeds are evaluated: they do not need it, and it takes longer than they do.

    Attributes:
        seeds: how many seeds it brings at most.
        work_out: tells them, and what samplers know of the problem. Called once a `run_search`: a search that goes on
            must be told the same.
    """

    seeds: int
    work_out: Callable[[], tuple[Sequence[Seed], Prior]]


def run_search(
    problem: SearchProblem,
    executor: Executor,
    settings: StudySettings,
    *,
    seeds: Sequence[Seed] = (),
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
    evaluate: Callable[..., Any] | None = None,
    lock: FolderLock | None = None,
    prior: Prior | None = None,
    later: Later | None = None,
) -> tuple[Trial, ...]:
    """Search, or go on with the search that is stored in `folder`.

    Args:
        problem: space, objectives, bounds, tables, task.
        executor: its workers hold an `Evaluator` (or what `evaluate` takes first).
        settings: how.
        seeds: policies evaluated first; NSGA-II's first parents are chosen among them and the rest of the first batch.
        folder: of the run.
        progress: called after every trial.
        evaluate: `evaluate(context, policy, number)` -> `Evaluation` or `Failure`; `Evaluator.evaluate` where None.
        lock: of `folder`, where the caller holds it already.
        prior: damage curves for samplers that use them (`make_prior`); only the tables where None.
        later: seeds and a prior in place of `prior` that are worked out once `seeds` are evaluated.

    Returns:
        All trials, by number: evaluated, failed and infeasible ones.

    Raises:
        InputError: the folder holds another search (the difference is named) or is in use, or no policy is feasible.
        AutopruneError: every evaluation fails.
        KeyboardInterrupt: Ctrl-C. Everything finished is stored; calling again goes on.
    """
    if evaluate is None:
        from autoprune.search.evaluation import Evaluator

        evaluate = Evaluator.evaluate
    names = tuple(variable.name for variable in problem.space.variables)
    objectives = tuple(objective.name for objective in problem.objectives)
    with TrialStorage(folder, names, problem.space.levels, objectives, settings.storage, lock) as storage:
        known = prior or make_prior(problem)
        search = _Search(problem, executor, settings, _seeds(problem, seeds), storage, progress, evaluate, known, later)
        return search.run()


def _seeds(problem: SearchProblem, seeds: Sequence[Seed]) -> dict[Choice, Origin]:
    """Choices of the seeds, each once, in order."""
    found: dict[Choice, Origin] = {}
    for seed in seeds:
        found.setdefault(problem.space.choice(seed.policy), seed.origin)
    return found


class _Search:
    """One call of `run_search`."""

    def __init__(
        self,
        problem: SearchProblem,
        executor: Executor,
        settings: StudySettings,
        seeds: dict[Choice, Origin],
        storage: TrialStorage,
        progress: Callable[[Progress], None] | None,
        evaluate: Callable[..., Any],
        prior: Prior,
        later: Later | None,
    ) -> None:
        self._problem = problem
        self._judge = Judge(problem)
        self._space = problem.space
        self._executor = executor
        self._settings = settings
        self._storage = storage
        self._evaluate = evaluate
        batch = _sampler(problem, settings, settings.batch, prior).batch_size
        wanted = _identity(problem, settings, batch, len(seeds) if later is None else later.seeds)
        found = storage.settings(wanted)
        _check_same(found, wanted)
        self._records = _retried(storage.load())
        self._seen = {record.choice for record in self._records.values()}  # and what is proposed
        self._batch = int(found["batch"])
        whole = max(self._batch, int(found["seeds"]))
        firsts = [whole] if later is None else [len(seeds), whole]
        self._schedule = Schedule(settings.trials, firsts, self._batch, settings.overlap)
        self._sampler = _sampler(problem, settings, self._batch, prior)
        self._seeds = [tuple(seeds.items())[: firsts[0]]]  # of the first batches
        self._most_later = whole
        self._later = later
        self._trials: dict[int, Trial] = {}  # of records, as far as they were asked for
        self._waiting: deque[tuple[Batch, int]] = deque()  # a place among its `chosen`
        self._in_hand: dict[int, tuple[Batch, Proposal]] = {}  # by number of the trial
        self._barren = 0  # batches in a row without a policy to evaluate
        self._failures: list[Failure] = []
        self._meter = ProgressMeter(settings.trials, settings.time_budget_s, progress)
        self._plateau = Plateau(settings.plateau)
        self._time = TimeBudget(settings.time_budget_s)
        self._interrupts = Interrupts()

    def run(self) -> tuple[Trial, ...]:
        with self._interrupts:
            self._advance()
            while self._waiting and not self._stopping():
                for number, result in self._executor.run(self._jobs()):
                    self._take(number, result)
                    if self._later is None:
                        self._advance()
                self._advance()  # what comes later is worked out on the same workers, which are free only now
        if self._interrupts.asked:
            raise KeyboardInterrupt
        trials = tuple(self._trial(number) for number in sorted(self._records))
        self._check_outcome(trials)
        return trials

    def _advance(self) -> None:
        """Close batches that are finished, recorded ones included, and propose those that are due.

        What is due goes first, so that a batch is proposed from the same earlier ones wherever a search was stopped.
        """
        while not self._stopping():
            if self._schedule.due:
                self._open()
            elif self._schedule.finished(self._records):
                self._close()
            else:
                return

    def _open(self) -> None:
        """Propose the next batch, and record what of it the tables exclude."""
        place = self._schedule.place
        proposals = self._proposals(place, self._schedule.numbers)
        self._seen.update(proposal.choice for proposal in proposals)
        chosen, complete = self._screened(place, proposals)
        rivals = self._judge.rivals(chosen) if self._settings.racing else [None] * len(chosen)
        batch = Batch(place, tuple(proposals), tuple(chosen), tuple(rivals), complete)
        self._schedule.opened(batch)
        self._waiting += [(batch, at) for at, p in enumerate(chosen) if p.number not in self._records]

    def _close(self) -> None:
        """Let the sampler and whoever decides whether to go on know what a batch found."""
        batch = self._schedule.closed()
        if self._schedule.goes_on:
            self._prepare()
        records = [self._records[proposal.number] for proposal in batch.proposals]
        self._sampler.tell([self._judge.told(record) for record in records])
        self._judge.settle(records)
        self._meter.batch_done([self._trial(record.number) for record in records])
        self._barren = 0 if batch.chosen else self._barren + 1
        if self._barren == MAX_BARREN:
            self._schedule.end()
        if self._plateau.reached(self._schedule.evaluated, self._meter.hypervolume):
            _LOG.info("the hypervolume stands still: the search ends after %d evaluations", self._schedule.evaluated)
            self._schedule.end()

    def _prepare(self) -> None:
        """Once the first seeds are evaluated: the later ones, and a sampler that knows more."""
        if self._later is None:
            return
        begun = time.monotonic()
        with self._interrupts.released():  # what is worked out keeps what it has itself
            seeds, prior = self._later.work_out()
        self._meter.waited(time.monotonic() - begun)
        (opening,) = self._seeds
        fresh = [seed for seed in _seeds(self._problem, seeds).items() if seed[0] not in dict(opening)]
        self._seeds.append(tuple(fresh[: self._most_later]))
        self._sampler = _sampler(self._problem, self._settings, self._batch, prior)
        self._later = None

    def _proposals(self, place: int, numbers: range) -> list[Proposal]:
        """The proposals of a batch; what is recorded is not asked for again."""
        if all(number in self._records for number in numbers):
            return [self._recorded(number) for number in numbers]
        seeds = self._seeds[place] if place < len(self._seeds) else ()
        left = len(numbers) - len(seeds)
        asked = self._sampler.ask(left, derived_seed(self._settings.seed, numbers.start)) if left else []
        wanted: list[tuple[Choice, Origin]] = [*seeds, *((choice, "sampler") for choice in asked)]
        new = [
            Proposal(number, choice, origin)
            for number, (choice, origin) in zip(numbers, wanted, strict=True)
            if number not in self._records
        ]
        fresh = without_repeats(new, self._seen, self._space.levels, self._settings.seed, self._space.canonical)
        known = [self._recorded(number) for number in numbers if number in self._records]
        return sorted([*known, *fresh], key=lambda proposal: proposal.number)

    def _recorded(self, number: int) -> Proposal:
        record = self._records[number]
        return Proposal(number, record.choice, record.origin)

    def _screened(self, place: int, proposals: Sequence[Proposal]) -> tuple[list[Proposal], bool]:
        """Which proposals to evaluate, as many as are left of those that the tables allow; whether that is all of them.

        Those that the tables do not allow are recorded.
        """
        violations = self._judge.check(proposals)
        chosen: list[Proposal] = []
        for proposal, violated in zip(proposals, violations, strict=True):
            excluded = isinstance(violated, Failure) or any(value > 0.0 for value in violated.values())
            if not excluded and len(chosen) == self._schedule.left:
                return chosen, False
            if not excluded:
                chosen.append(proposal)
            if proposal.number in self._records:
                self._meter.recall(self._trial(proposal.number))
            elif excluded:
                self._record(self._judge.refused(place, proposal, violated))
        return chosen, True

    def _jobs(self) -> Iterator[Job | None]:
        """What to evaluate, the oldest batch first; None while the next batch waits for results of what is in hand."""
        while not self._stopping():
            if self._waiting:
                batch, at = self._waiting.popleft()
                proposal, rival = batch.chosen[at], batch.rivals[at]
                self._in_hand[proposal.number] = batch, proposal
                self._time.started(proposal.number)
                known = () if rival is None else (rival,)
                policy = self._space.policy(proposal.choice)
                arguments = (policy, proposal.number, *known)
                yield Job(proposal.number, self._evaluate, arguments, followed=len(self._waiting))
            elif self._in_hand and self._later is None and self._schedule.goes_on:
                yield None
            else:
                return

    def _take(self, number: int, result: Any) -> None:
        """A result is there."""
        self._time.finished(number)
        batch, proposal = self._in_hand.pop(number)
        self._record(self._judge.judged(batch.place, proposal, result))
        self._note_failure(result)

    def _record(self, record: Record) -> None:
        with self._interrupts.shield():
            self._storage.add(record)
            self._records[record.number] = record
        self._meter.found(self._trial(record.number))

    def _trial(self, number: int) -> Trial:
        """A recorded trial, worked out once."""
        if number not in self._trials:
            self._trials[number] = self._judge.trial(self._records[number])
        return self._trials[number]

    def _note_failure(self, result: Any) -> None:
        """Stop a search in which nothing can be evaluated."""
        if self._meter.succeeded or not isinstance(result, Failure):
            return
        self._failures.append(result)
        if len(self._failures) >= MAX_FAILURES and len({failure.kind for failure in self._failures}) == 1:
            raise AutopruneError(f"the first {len(self._failures)} evaluations all failed: {result}")

    def _stopping(self) -> bool:
        return self._interrupts.asked or self._time.over

    def _check_outcome(self, trials: Sequence[Trial]) -> None:
        """A search without a single success is an error that says why."""
        if not trials or any(trial.evaluated and trial.failure is None for trial in trials):
            return
        failures = [trial.failure for trial in trials if trial.failure is not None]
        if failures:
            raise AutopruneError(f"all {len(failures)} evaluations failed; the first: {failures[0]}")
        if all(trial.violation > 0.0 for trial in trials):
            nearest = self._records[min(trials, key=lambda trial: trial.violation).number]
            missed = ", ".join(f"{name} (past it by {v:.1%})" for name, v in nearest.violations.items() if v > 0.0)
            raise InputError(
                f"constraints: none of {len(trials)} policies meets them; the nearest misses {missed}. Relax them, or "
                "let the search space go narrower."
            )


def _sampler(problem: SearchProblem, settings: StudySettings, batch: int | None, prior: Prior) -> Sampler:
    shape = SamplerSettings(problem.space.levels, len(problem.objectives), settings.trials, batch, prior)
    return SAMPLERS.get(settings.sampler)(shape)


def _retried(records: Sequence[Record]) -> dict[int, Record]:
    """Records by number. Where nothing ever succeeded, the failures are left out: their cause may be mended."""
    success = any(record.evaluated and record.failure is None for record in records)
    return {record.number: record for record in records if success or record.failure is None}


def _identity(problem: SearchProblem, settings: StudySettings, batch: int, seeds: int) -> dict[str, Any]:
    """What a search is resumed by; all but `batch` and `seeds` must be the same."""
    return {
        "schema": SCHEMA,
        "search space": problem.space.hash,
        "objectives": [objective.name for objective in problem.objectives],
        "constraints": [str(bound) for bound in problem.bounds],
        "sampler": settings.sampler,
        "seed": settings.seed,
        "racing": settings.racing,
        "overlap": settings.overlap,
        "batch": batch,
        "seeds": seeds,
    }


def _check_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if key not in ("batch", "seeds") and found.get(key) != value:
            raise InputError(
                f"run folder: expected {key} {found.get(key)!r} of the search stored there, got {value!r}. Use another "
                "run folder, or what that search was started with."
            )
    if not all(isinstance(found.get(key), int) and found[key] >= 0 for key in ("batch", "seeds")):
        raise InputError("run folder: the stored settings of its search are damaged. Use another run folder.")
